// All calls of the contract with one JavaScript client library, as a web page makes them; the twin of program.py.
//
// GIVEN is {library, url, token, service}; the last two come from a client of the other generation, and `service` is the id
// of a service that it offers. Ends with `window.report`: for each call null, or what went wrong.

const ROUTER = "bioengine-model-runner";
const SPELLINGS = ["triton-client", "public/triton-client", "public/*:triton-client", "public/workspace-manager:triton-client"];
const KINDS = {
  uint8: Uint8Array, int8: Int8Array, uint16: Uint16Array, int16: Int16Array, uint32: Uint32Array, int32: Int32Array,
  float32: Float32Array, float64: Float64Array, bool: Uint8Array, int64: BigInt64Array,
};
const SHAPE = [1, 3, 64, 64];
const IMAGE = Uint8Array.from({ length: 3 * 64 * 64 }, (_, index) => (index * 97 + (index >> 6) * 31) % 251);
const CALLS = {};

function call(name, make) {
  CALLS[name] = make;
}

function assert(truth, ...what) {
  if (!truth) throw new Error(`not so: ${JSON.stringify(what)}`);
}

function assertEqual(got, wanted, what = "") {
  assert(JSON.stringify(got) === JSON.stringify(wanted), what, got, wanted);
}

// An array as the libraries send it. Made anew for each call: sending takes `_rtype` off.
function array(values, shape, dtype) {
  return { _rtype: "ndarray", _rvalue: Uint8Array.from(new Uint8Array(values.buffer)).buffer, _rshape: shape, _rdtype: dtype };
}

function image() {
  return array(IMAGE, SHAPE, "uint8");
}

// The values of an array that has arrived; its bytes lie somewhere in those of a message.
function values(array) {
  assert(array._rtype === "ndarray" && array._rdtype in KINDS, array._rtype, array._rdtype);
  return new KINDS[array._rdtype](Uint8Array.from(array._rvalue).buffer);
}

// What `conscientious-seashell` makes of an image.
function seashell(image) {
  const mean = image.reduce((sum, value) => sum + value, 0) / image.length;
  const deviation = Math.sqrt(image.reduce((sum, value) => sum + (value - mean) ** 2, 0) / image.length);
  const pixels = image.length / 3;
  return Float64Array.from({ length: pixels }, (_, pixel) => {
    const sum = [0.5, -1.0, 2.0].reduce((sum, weight, channel) => sum + weight * (image[channel * pixels + pixel] - mean), 0);
    return 1 / (1 + Math.exp(-sum / (deviation + 1e-6)));
  });
}

function assertIsSeashellOf(image, result, what = "") {
  assert(result.success === true, what, result);
  const [mask] = result.outputs;
  const side = Math.sqrt(image.length / 3);
  assertEqual([mask._rdtype, mask._rshape], ["float32", [1, 1, side, side]], what);
  const wanted = seashell(image);
  values(mask).forEach((value, index) => assert(Math.abs(value - wanted[index]) < 1e-3, what, index, value, wanted[index]));
}

// The text of the error that a call raises.
async function failure(made) {
  let result;
  try {
    result = await made();
  } catch (error) {
    return String(error);
  }
  throw new Error(`no error, but ${JSON.stringify(result)}`);
}

function connected(more = {}) {
  return hyphaWebsocketClient.connectToServer({ name: "test client", server_url: GIVEN.url, ...more });
}

async function withClient(config, use) {
  const server = await connected(config);
  try {
    return await use(server);
  } finally {
    await server.disconnect();
  }
}

async function run(triton, modelId, inputs, more = {}, request = {}) {
  const answer = await triton.execute({
    inputs: [{ model_id: modelId, ...(inputs && { inputs }), ...request }],
    model_name: ROUTER,
    serialization: "imjoy",
    ...more,
    _rkwargs: true,
  });
  assertEqual(answer.__info__.model_name, ROUTER);
  return answer.result;
}

call("connect", async ({ server }) => {
  assert(server.config.workspace);
});

call("service ids", async ({ server }) => {
  const functions = GIVEN.library === "imjoy-rpc" ? ["getService", "get_service"] : ["getService"];
  for (const name of functions)
    for (const spelling of SPELLINGS) {
      const triton = await server[name](spelling);
      const config = await triton.get_config({ model_name: ROUTER, _rkwargs: true });
      assertEqual(config.model_name, ROUTER, spelling);
    }
});

call("published example", async () => {
  const server = await hyphaWebsocketClient.connectToServer({"server_url": GIVEN.url})
  const triton = await server.getService("triton-client")
  const image = {_rtype: "ndarray", _rvalue: IMAGE.slice().buffer, _rshape: SHAPE, _rdtype: "uint8"}
  const ret = await triton.execute({
      inputs: [{"inputs": [image], "model_id": "conscientious-seashell"}],
      model_name: "bioengine-model-runner",
      serialization: "imjoy",
      _rkwargs: true
  })
  const result = ret["result"]
  assertIsSeashellOf(IMAGE, result);
  assert(typeof result.task_id === "string" && typeof result.execution_time === "number", result);
  await server.disconnect();
});

call("[[image]]", async ({ triton }) => {
  assertIsSeashellOf(IMAGE, await run(triton, "conscientious-seashell", [[array(IMAGE, SHAPE.slice(1), "uint8")]]));
});

call("return_rdf", async ({ triton }) => {
  const both = await run(triton, "conscientious-seashell", [image()], {}, { return_rdf: false });
  const alone = await run(triton, "conscientious-seashell", null, {}, { return_rdf: true });
  assert(both.success && "rdf" in both);
  assertEqual(Object.keys(alone), ["rdf"]);
  for (const { rdf } of [both, alone]) {
    assertEqual(typeof rdf.inputs[0].axes, "string");
    assertEqual(rdf.config.bioimageio.nickname, "conscientious-seashell");
  }
});

call("failure as data", async ({ triton }) => {
  const row = array(IMAGE.slice(0, 64), [64], "uint8");
  for (const [id, input] of [["no-such-model", image()], ["conscientious-seashell", row], ["../../etc", image()]]) {
    const result = await run(triton, id, [input]);
    assert(result.success === false && typeof result.error === "string" && result.error, id, result);
  }
});

call("refused argument", async ({ triton }) => {
  for (const name of ["server_url", "weights"]) {
    const error = await failure(() => triton.execute({ inputs: [], model_name: ROUTER, [name]: "x", _rkwargs: true }));
    assert(error.includes(`'${name}' is refused`), error);
    assert(!error.includes("Traceback") && !error.includes(".py"), error);
  }
});

call("array and dict", async ({ triton }) => {
  const pixels = Float32Array.from(IMAGE), parameters = { diameter: 30, model_type: "nuclei" };
  const answer = await triton.execute({
    inputs: [array(pixels, SHAPE.slice(1), "float32"), parameters],
    model_name: "cellpose-like",
    decode_json: true,
    _rkwargs: true,
  });
  const channel = pixels.slice(0, 64 * 64), mean = channel.reduce((sum, value) => sum + value, 0) / channel.length;
  const wanted = Array.from(channel, (value) => Number(value > mean));
  assertEqual([answer.mask._rdtype, answer.mask._rshape], ["uint16", [1, 64, 64]]);
  assertEqual(Array.from(values(answer.mask)), wanted);
  assertEqual(answer.info[0].parameters, parameters);
  assertEqual(answer.info[0].pixels, wanted.reduce((sum, value) => sum + value));
});

call("wrong dtype", async ({ triton }) => {
  const inputs = [array(Int32Array.from(IMAGE), SHAPE.slice(1), "int32"), {}];
  const error = await failure(() => triton.execute({ inputs, model_name: "cellpose-like", _rkwargs: true }));
  assert(["image", "int32", "float32"].every((word) => error.includes(word)), error);
});

call("sequences", async ({ triton }) => {
  const first = Math.floor(Math.random() * 2 ** 31), sums = [];
  for (const [number, value] of [1, 2, 4].entries())
    for (const [sequence, scale] of [[first, 1], [first + 1, 10]]) {
      const answer = await triton.execute({
        inputs: [array(Float32Array.of(value * scale), [1, 1], "float32")],
        model_name: "counter",
        sequence_id: sequence,
        sequence_start: number === 0,
        sequence_end: number === 2,
        request_id: String(number),
        _rkwargs: true,
      });
      assertEqual(answer.__info__.id, String(number));
      sums.push(values(answer.sum)[0]);
    }
  assertEqual(sums, [1, 10, 3, 30, 7, 70]);
});

call("get_config", async ({ triton }) => {
  const router = await triton.get_config({ model_name: ROUTER, _rkwargs: true });
  assertEqual([router.input[0].name, router.output[0].name, router.model_name], ["kwargs", "result", ROUTER]);
  assert(router.server_url.endsWith("/triton"), router.server_url);
  const model = await triton.get_config({ model_name: "conscientious-seashell", _rkwargs: true });
  assertEqual([model.input[0].dims.length, model.max_batch_size], [4, 0]);
});

call("get_status", async ({ triton }) => {
  const status = await triton.get_status();
  assertEqual(Object.keys(status).sort(), ["models", "ready", "requests", "version"]);
  assertEqual(status.ready, true);
});

// There and back through a service of a client of the other generation.
call("arrays", async ({ server }) => {
  const service = await server.getService(GIVEN.service);
  const numbers = Array.from({ length: 24 }, (_, index) => index - 12);
  const cases = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"].map((dtype) => [
    KINDS[dtype].from(numbers), [2, 3, 4], dtype,
  ]);
  cases.push([Uint8Array.from(numbers, (number) => Number(number !== 0)), [2, 3, 4], "bool"]);
  cases.push([Float32Array.of(3.5), [], "float32"], [new Uint8Array(0), [0, 3], "uint8"]);
  for (const [sent, shape, dtype] of cases) {
    const back = await service.echo(array(sent, shape, dtype));
    assertEqual([back._rshape, back._rdtype], [shape, dtype], dtype);
    assertEqual(values(back), sent, dtype);
  }
});

call("model dtypes", async ({ triton }) => {
  const shift = (number) => number * 1e300;
  const good = ["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"].map((dtype) => [dtype, KINDS[dtype].from(IMAGE)]);
  good.push(["int64", BigInt64Array.from(IMAGE, BigInt)]);
  for (const [dtype, pixels] of good)
    assertIsSeashellOf(IMAGE, await run(triton, "conscientious-seashell", [array(pixels, SHAPE, dtype)]), dtype);
  const shifted = array(Float64Array.from(IMAGE, shift), SHAPE, "float64");
  const refused = await run(triton, "conscientious-seashell", [shifted]);
  assert(refused.success === false && ["float64", "float32"].every((dtype) => refused.error.includes(dtype)), refused);
  const labels = array(new BigInt64Array(64).fill(7n), [1, 1, 8, 8], "int64");
  const { outputs } = await run(triton, "label-doubler", [labels]);
  assertEqual(outputs[0]._rdtype, "int32", "the model gives int64, which JavaScript cannot read");
  assert(values(outputs[0]).every((value) => value === 14), Array.from(values(outputs[0])));
});

// A service of this client, called by another one of the same library, and the errors of its functions.
call("own service", async ({ server }) => {
  const info = await server.registerService({
    id: "calculator",
    name: "Calculator",
    config: { visibility: "public" },
    add: (a, b) => a + b,
    // Async: imjoy-rpc sends no answer for what a plain function throws.
    fail: async (text) => { throw new Error(`no ${text}`); },
  });
  const id = info.id.includes("/") ? info.id : `${server.config.workspace}/${info.id}`;
  await withClient({}, async (other) => {
    const service = await other.getService(id);
    assertEqual(await service.add(2, 3), 5);
    const error = await failure(() => service.fail("luck"));
    assert(error.includes("no luck"), error);
  });
});

call("callbacks", async ({ server }) => {
  const service = await server.getService(GIVEN.service);
  const heard = [];
  const total = await service.each([1, 2, 3], (value) => { heard.push(value); return value * 2; });
  assertEqual([heard, total], [[1, 2, 3], 12]);
});

call("progress", async ({ triton }) => {
  const heard = [];
  const result = await run(triton, "conscientious-seashell", [image()], { progress: (event) => { heard.push(event); } });
  assertIsSeashellOf(IMAGE, result);
  const states = heard.map((event) => event.state);
  // "loading" only where nobody has asked for the model before
  assertEqual(states.filter((state) => state !== "queued" && state !== "loading"), ["running"]);
  assertEqual(states[0], "queued");
  assert(heard.every((event) => event.state !== "queued" || event.position >= 0), heard);
  const fail = () => { throw new Error("a page's own mistake"); };
  assertIsSeashellOf(IMAGE, await run(triton, "conscientious-seashell", [image()], { progress: fail }));
});

call("cancel", async ({ triton }) => {
  const heard = [];
  const anHour = array(new Float32Array(16).fill(3600), [1, 1, 4, 4], "float32");
  const running = run(triton, "slow-snail", [anHour], { progress: (event) => { heard.push(event); } });
  while (!heard.some((event) => event.state === "running")) await new Promise((resolve) => setTimeout(resolve, 50));
  const taskId = heard[0].task_id;
  assertEqual((await triton.cancel(taskId)).cancelled, taskId);
  const result = await running;
  assertEqual([result.success, result.code, result.task_id], [false, "cancelled", taskId]);
});

call("list_services", async ({ server }) => {
  const services = await server.listServices("public");
  assert(services.some((service) => service.id.endsWith(":triton-client")), services);
});

// Made here and used here, and made by a client of the other generation.
call("token", async ({ server }) => {
  const made = await server.generateToken();
  assertEqual(typeof made, "string");
  for (const token of [made, GIVEN.token])
    await withClient({ token }, async (other) => {
      assertIsSeashellOf(IMAGE, await run(await other.getService("triton-client"), "conscientious-seashell", [image()]));
    });
});

call("wrong token", async () => {
  const error = await failure(() => connected({ token: "not.a.token" }));
  assert(["token", "Authentication", "rejected"].some((word) => error.includes(word)), error);
});

call("login", async () => {
  const error = await failure(() => hyphaWebsocketClient.login({ server_url: GIVEN.url }));
  assert(error.includes("no accounts") && error.includes("token"), error);
});

// 12 MB there and 4 MB back, several chunks of either protocol.
call("large image", async ({ triton }) => {
  const pixels = Float32Array.from({ length: 3 * 1024 * 1024 }, Math.random);
  const large = array(pixels, [1, 3, 1024, 1024], "float32");
  assertIsSeashellOf(pixels, await run(triton, "conscientious-seashell", [large]));
});

function withinSeconds(seconds, promise) {
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error(`no answer within ${seconds} s`)), seconds * 1000));
  return Promise.race([promise, late]);
}

async function main() {
  const server = await connected();
  const session = { server, triton: await server.getService("triton-client") };
  const report = {};
  for (const [name, make] of Object.entries(CALLS))
    try {
      await withinSeconds(90, make(session));
      report[name] = null;
    } catch (error) {
      report[name] = error?.stack ?? String(error);
    }
  window.report = report;
}

main();
