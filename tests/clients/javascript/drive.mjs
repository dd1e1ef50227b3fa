// Open pages in Chromium, side by side and each in a context of its own, wait until they have a result, and print what became
// of them as JSON.
//
//     node drive.mjs NODE_MODULES CHROMIUM EXPRESSION SECONDS ADDRESS ...
//
// The result is the value of EXPRESSION in a page once it is true, null where it is not within SECONDS. Prints a list with
// {"result", "console": [str], "errors": [str], "refused": [url]} for each. Files of npm packages that a page asks the network
// jsdelivr for come from NODE_MODULES; every other request that would leave this machine is refused.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [modules, executablePath, expression, seconds, ...addresses] = process.argv.slice(2);
const { chromium, errors } = createRequire(join(modules, "/"))("playwright-core");

const folders = readdirSync(modules).filter((folder) => existsSync(join(modules, folder, "package.json")));
const installed = new Map(
  folders.map((folder) => {
    const { name, version } = JSON.parse(readFileSync(join(modules, folder, "package.json")));
    return [`${name}@${version}`, folder];
  }),
);

const { hostname: host } = new URL(addresses[0]); // all have the same
const isHere = (url) => ["127.0.0.1", host].includes(new URL(url).hostname);

function answer(route, report) {
  const url = route.request().url();
  const { hostname, pathname } = new URL(url);
  if (isHere(url)) return route.continue();
  const [, named, file] = pathname.match(/^\/npm\/([^/]+)\/(.+)$/) ?? [];
  if (hostname === "cdn.jsdelivr.net" && installed.has(named))
    return route.fulfill({ path: join(modules, installed.get(named), file), headers: { "access-control-allow-origin": "*" } });
  report.refused.push(url);
  return route.abort();
}

async function run(browser, address) {
  const report = { result: null, console: [], errors: [], refused: [] };
  try {
    const page = await browser.newPage(); // in a context of its own
    await page.route("**/*", (route) => answer(route, report));
    page.on("console", (message) => report.console.push(`${message.type()}: ${message.text()}`));
    page.on("pageerror", (error) => report.errors.push(error.stack || String(error)));
    page.on("websocket", (socket) => isHere(socket.url()) || report.refused.push(socket.url()));
    await page.goto(address);
    const result = await page.waitForFunction(expression, null, { timeout: seconds * 1000 });
    report.result = await result.jsonValue();
  } catch (error) {
    if (!(error instanceof errors.TimeoutError)) throw error;
  }
  return report;
}

// The sandbox does not work for root. The rules are for websockets, which do not come by `answer`.
const rules = `MAP ${host} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1`;
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", `--host-resolver-rules=${rules}`] });
try {
  console.log(JSON.stringify(await Promise.all(addresses.map((address) => run(browser, address)))));
} finally {
  await browser.close();
}
