// Open a page in Chromium, wait until it has a result, and print what became of it as JSON.
//
//     node drive.mjs NODE_MODULES CHROMIUM ADDRESS EXPRESSION SECONDS
//
// The result is the value of EXPRESSION in the page once it is true, null where it is not within SECONDS. Prints
// {"result", "console": [str], "errors": [str], "refused": [url]}. Files of npm packages that the page asks the network
// jsdelivr for come from NODE_MODULES; every other request that would leave this machine is refused.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [modules, executablePath, address, expression, seconds] = process.argv.slice(2);
const { chromium, errors } = createRequire(join(modules, "/"))("playwright-core");

const folders = readdirSync(modules).filter((folder) => existsSync(join(modules, folder, "package.json")));
const installed = new Map(
  folders.map((folder) => {
    const { name, version } = JSON.parse(readFileSync(join(modules, folder, "package.json")));
    return [`${name}@${version}`, folder];
  }),
);

const report = { result: null, console: [], errors: [], refused: [] };

const { hostname: host } = new URL(address);
const isHere = (url) => ["127.0.0.1", host].includes(new URL(url).hostname);

function answer(route) {
  const url = route.request().url();
  const { hostname, pathname } = new URL(url);
  if (isHere(url)) return route.continue();
  const [, named, file] = pathname.match(/^\/npm\/([^/]+)\/(.+)$/) ?? [];
  if (hostname === "cdn.jsdelivr.net" && installed.has(named))
    return route.fulfill({ path: join(modules, installed.get(named), file), headers: { "access-control-allow-origin": "*" } });
  report.refused.push(url);
  return route.abort();
}

// The sandbox does not work for root. The rules are for websockets, which do not come by `answer`.
const rules = `MAP ${host} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1`;
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", `--host-resolver-rules=${rules}`] });
try {
  const page = await browser.newPage();
  await page.route("**/*", answer);
  page.on("console", (message) => report.console.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => report.errors.push(error.stack || String(error)));
  page.on("websocket", (socket) => isHere(socket.url()) || report.refused.push(socket.url()));
  await page.goto(address);
  const result = await page.waitForFunction(expression, null, { timeout: seconds * 1000 });
  report.result = await result.jsonValue();
} catch (error) {
  if (!(error instanceof errors.TimeoutError)) throw error;
} finally {
  await browser.close();
}
console.log(JSON.stringify(report));
