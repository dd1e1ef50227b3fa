"""All calls of the contract with one Python client library, as a user's program makes them. Runs in the library's environment.

    python program.py LIBRARY MODE URL GIVEN.json REPORT.json

LIBRARY is imjoy or hypha, MODE async or sync; or a module beside this one that has what is used of those here. GIVEN.json, from
a client of the other generation: `{"token": str, "service": str}`, the id of a service that it offers; and `"calls"`, the names
of those to make where it is not all. REPORT.json: `{"version": str, "calls": {call: None or what went wrong}}`.
"""

import asyncio
import contextlib
import importlib.metadata
import json
import logging
import sys
import time
import traceback
from pathlib import Path

import numpy as np
from entry import entry, settled

logging.disable(logging.ERROR)

LIBRARY, MODE, URL = sys.argv[1:4]
GIVEN = json.loads(Path(sys.argv[4]).read_text())
CONNECT, LOGIN, DISTRIBUTION = entry(LIBRARY, MODE)

IMAGE = np.random.default_rng(0).integers(0, 255, (1, 3, 64, 64))
SPELLINGS = ["triton-client", "public/triton-client", "public/*:triton-client", "public/workspace-manager:triton-client"]
REPORT: dict = {"version": importlib.metadata.version(DISTRIBUTION), "calls": {}}
CALLS: dict = {}


def call(name):
    """Have a function made one of the contract's calls."""

    def register(function):
        CALLS[name] = function
        return function

    return register


async def connected(**more):
    return await settled(CONNECT({"name": "test client", "server_url": URL, "method_timeout": 3000, **more}))


def function(body):
    """A function for others to call, as the mode has it."""
    if MODE == "sync":
        return body

    async def call(*args, **kwargs):
        return body(*args, **kwargs)

    return call


async def failure(value):
    """The text of the error that a call raises."""
    try:
        result = await settled(value() if callable(value) else value)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError(f"no error, but {result!r}")


def seashell(image):
    """What `conscientious-seashell` makes of an image."""
    image = image.astype(np.float32)
    normal = (image - image.mean()) / (image.std() + 1e-6)
    return 1 / (1 + np.exp(-(normal * np.array([0.5, -1.0, 2.0]).reshape(1, 3, 1, 1)).sum(1, keepdims=True)))


class Session:
    """A connection, and the service through it."""

    def __init__(self, server, triton):
        self.server, self.triton = server, triton

    async def run(self, model_id, inputs, arguments=None, **more):
        request = {"model_id": model_id, **more}
        if inputs is not None:
            request["inputs"] = inputs
        answer = await settled(
            self.triton.execute(inputs=[request], model_name="bioengine-model-runner", serialization="imjoy", **(arguments or {}))
        )
        assert "__info__" in answer and dict(answer["__info__"])["model_name"] == "bioengine-model-runner"
        return dict(answer["result"])


@call("connect")
async def connect(session):
    assert session.server.config["workspace"]


@call("service ids")
async def service_ids(session):
    """All four, while others offer services of that name in workspaces of their own."""
    for spelling in SPELLINGS:
        triton = await settled(session.server.get_service(spelling))
        config = await settled(triton.get_config(model_name="bioengine-model-runner"))
        assert config["model_name"] == "bioengine-model-runner", spelling


@call("published example")
async def published_example(session):
    result = await session.run("conscientious-seashell", [IMAGE])
    assert set(result) >= {"task_id", "outputs", "execution_time", "success"} and result["success"] is True
    assert isinstance(result["task_id"], str) and isinstance(result["execution_time"], float)
    np.testing.assert_allclose(result["outputs"][0], seashell(IMAGE), atol=1e-3)


@call("[[image]]")
async def list_of_arrays(session):
    result = await session.run("conscientious-seashell", [[IMAGE[0]]])
    np.testing.assert_allclose(result["outputs"][0], seashell(IMAGE), atol=1e-3)


@call("return_rdf")
async def return_rdf(session):
    run = await session.run("conscientious-seashell", [IMAGE], return_rdf=False)
    alone = await session.run("conscientious-seashell", None, return_rdf=True)
    assert run["success"] and "rdf" in run and set(alone) == {"rdf"}
    for rdf in (run["rdf"], alone["rdf"]):
        assert isinstance(rdf["inputs"][0]["axes"], str) and rdf["config"]["bioimageio"]["nickname"] == "conscientious-seashell"


@call("failure as data")
async def failure_as_data(session):
    for id, inputs in (("no-such-model", [IMAGE]), ("conscientious-seashell", [IMAGE[0, 0, 0]]), ("../../etc", [IMAGE])):
        result = await session.run(id, inputs)
        assert result["success"] is False and isinstance(result["error"], str) and result["error"]


@call("refused argument")
async def refused_argument(session):
    for name in ("server_url", "weights"):
        error = await failure(lambda: session.triton.execute(inputs=[], model_name="bioengine-model-runner", **{name: "x"}))  # noqa: B023
        assert f"'{name}' is refused" in error, error
        assert "Traceback" not in error and ".py" not in error, error


@call("array and dict")
async def array_and_dict(session):
    image = IMAGE[0].astype(np.float32)
    parameters = {"diameter": 30, "model_type": "nuclei"}
    answer = await settled(session.triton.execute(inputs=[image, parameters], model_name="cellpose-like", decode_json=True))
    assert answer["mask"].dtype == np.uint16 and answer["mask"].shape == (1, 64, 64)
    np.testing.assert_array_equal(answer["mask"], image[:1] > image[0].mean())
    info = answer["info"][0]
    assert info["parameters"] == parameters and info["pixels"] == answer["mask"].sum(), info


@call("wrong dtype")
async def wrong_dtype(session):
    error = await failure(lambda: session.triton.execute(inputs=[IMAGE[0], {}], model_name="cellpose-like"))
    assert all(word in error for word in ("image", "int64", "float32")), error


@call("sequences")
async def sequences(session):
    first, sums = int(time.time() * 1e6) % 2**31, []
    for number, (value, start, end) in enumerate([(1, True, False), (2, False, False), (4, False, True)]):
        for sequence, scale in ((first, 1), (first + 1, 10)):
            answer = await settled(
                session.triton.execute(
                    inputs=[np.array([[value * scale]], np.float32)],
                    model_name="counter",
                    sequence_id=sequence,
                    sequence_start=start,
                    sequence_end=end,
                    request_id=str(number),
                )
            )
            assert answer["__info__"]["id"] == str(number)
            sums.append(float(answer["sum"].item()))
    assert sums == [1, 10, 3, 30, 7, 70], sums


@call("get_config")
async def get_config(session):
    config = await settled(session.triton.get_config(model_name="bioengine-model-runner"))
    assert config["input"][0]["name"] == "kwargs" and config["output"][0]["name"] == "result"
    assert config["server_url"].endswith("/triton") and config["model_name"] == "bioengine-model-runner"
    config = await settled(session.triton.get_config(model_name="conscientious-seashell"))
    assert len(config["input"][0]["dims"]) == 4 and config["max_batch_size"] == 0


@call("get_status")
async def get_status(session):
    status = await settled(session.triton.get_status())
    assert set(status) == {"version", "ready", "models", "requests"} and status["ready"] is True, status
    assert set(status["requests"]) == {"waiting", "running"}, status


@call("arrays")
async def arrays(session):
    """There and back through a service of a client of the other generation."""
    service = await settled(session.server.get_service(GIVEN["service"]))
    base = np.arange(-12, 12).reshape(2, 3, 4)
    dtypes = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64", "bool")
    cases = {dtype: base.astype(dtype) for dtype in dtypes}
    cases["0-d"] = np.array(3.5, np.float32)
    cases["empty"] = np.zeros((0, 3), np.uint8)
    cases["Fortran-ordered"] = np.asfortranarray(base.astype(np.float32))
    cases["non-contiguous"] = base.astype(np.int32)[:, ::2, ::-1]
    cases["big-endian"] = base.astype(">f4")
    for name, array in cases.items():
        back = await settled(service.echo(array))
        assert isinstance(back, (np.ndarray, np.generic)), (name, type(back))
        assert back.shape == array.shape and back.dtype.name == array.dtype.name, (name, back.shape, back.dtype)
        np.testing.assert_array_equal(back, array, err_msg=name)


@call("model dtypes")
async def model_dtypes(session):
    """Whatever layout and byte order an image has, the model sees its values."""
    values = IMAGE.astype(np.float32)
    layouts = {
        "float64": values.astype(np.float64),
        "float64 that float32 rounds": values.astype(np.float64) + 1e-9,
        "float64 that float32 cannot hold": values.astype(np.float64) * 1e300,
        "uint8": IMAGE.astype(np.uint8),
        "Fortran-ordered": np.asfortranarray(values),
        "non-contiguous": np.repeat(values, 2, axis=3)[..., ::2],
        "big-endian": values.astype(">f4"),
        "big-endian integers": IMAGE.astype(">u2"),
    }
    for name, image in layouts.items():
        result = await session.run("conscientious-seashell", [image])
        if "cannot" in name:
            assert result["success"] is False and "float64" in result["error"] and "float32" in result["error"], result
            continue
        assert result["success"], (name, result)
        np.testing.assert_allclose(result["outputs"][0], seashell(IMAGE), atol=1e-3, err_msg=name)
        said = any("was cast to float32" in warning for warning in result.get("warnings", []))
        assert said is name.startswith("float64"), (name, result.get("warnings"))
    for empty in (np.zeros((0, 3, 64, 64), np.float32), np.array(1, np.float32)):
        result = await session.run("conscientious-seashell", [empty])
        assert result["success"] is False and "shape" in result["error"], result
    outputs = (await session.run("label-doubler", [np.full((1, 1, 8, 8), 7, np.int64)]))["outputs"]
    assert outputs[0].dtype == np.int32, "the model gives int64, which JavaScript cannot read"


@call("own service")
async def own_service(session):
    """A service of this client, called by another one of the same library, and the errors of its functions."""

    def fail(text):
        raise ValueError(f"no {text}")

    info = await settled(
        session.server.register_service(
            {
                "id": "calculator",
                "name": "Calculator",
                "config": {"visibility": "public"},
                "add": function(lambda a, b=1: a + b),
                "fail": function(fail),
            }
        )
    )
    id = info["id"] if "/" in info["id"] else f"{session.server.config['workspace']}/{info['id']}"
    other = await connected()
    try:
        service = await settled(other.get_service(id))
        assert await settled(service.add(2, b=3)) == 5
        assert "no luck" in await failure(lambda: service.fail("luck"))
    finally:
        await settled(other.disconnect())


@call("callbacks")
async def callbacks(session):
    service = await settled(session.server.get_service(GIVEN["service"]))
    heard = []

    def twice(value):
        heard.append(value)
        return value * 2

    total = await settled(service.each([1, 2, 3], function(twice)))
    assert heard == [1, 2, 3] and total == 12, (heard, total)


@call("progress")
async def progress(session):
    heard = []
    result = await session.run("conscientious-seashell", [IMAGE], {"progress": function(lambda event: heard.append(dict(event)))})
    assert result["success"], result
    states = [event["state"] for event in heard]
    assert states[0] == "queued" and states[-1] == "running" and set(states[:-1]) <= {"queued", "loading"}, heard
    assert all(event["position"] >= 0 for event in heard if event["state"] == "queued"), heard
    result = await session.run("conscientious-seashell", [IMAGE], {"progress": function(lambda event: 1 / 0)})
    assert result["success"], result


@call("cancel")
async def cancel(session):
    heard = []
    arguments = [
        "slow-snail",
        [np.full((1, 1, 4, 4), 3600, np.float32)],
        {"progress": function(lambda event: heard.append(dict(event)))},
    ]
    if MODE == "sync":  # which waits for the result
        running = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(session.run(*arguments))))
    else:
        running = asyncio.create_task(session.run(*arguments))
    async with asyncio.timeout(150):  # several clients do this at once, and each cancel ends the model's process
        while not any(event["state"] == "running" for event in heard):
            await asyncio.sleep(0.05)
    task_id = heard[0]["task_id"]
    assert dict(await settled(session.triton.cancel(task_id))) == {"cancelled": task_id}
    result = await running
    assert (result["success"], result["code"], result["task_id"]) == (False, "cancelled", task_id), result


@call("list_services")
async def list_services(session):
    services = await settled(session.server.list_services("public"))
    assert any(service["id"].endswith(":triton-client") for service in services), services


@call("token")
async def token(session):
    """Made here and used here, and made by a client of the other generation."""
    made = await settled(session.server.generate_token())
    assert isinstance(made, str)
    for key in (made, GIVEN["token"]):
        other = await connected(token=key)
        try:
            triton = await settled(other.get_service("triton-client"))
            assert (await Session(other, triton).run("conscientious-seashell", [IMAGE]))["success"]
        finally:
            await settled(other.disconnect())


@call("wrong token")
async def wrong_token(session):
    started = time.monotonic()
    error = await failure(lambda: connected(token="not.a.token"))
    assert time.monotonic() - started < 30, error
    assert any(word in error for word in ("token", "403", "Authentication", "rejected")), error


@call("login")
async def login(session):
    started = time.monotonic()
    error = await failure(lambda: LOGIN({"server_url": URL}))
    assert "no accounts" in error and "token" in error, error
    assert time.monotonic() - started < 30


@call("large image")
async def large_image(session):
    """12 MB there and 4 MB back, several chunks of either protocol."""
    image = np.random.default_rng(1).random((1, 3, 1024, 1024), np.float32)
    result = await session.run("conscientious-seashell", [image])
    np.testing.assert_allclose(result["outputs"][0], seashell(image), atol=1e-3)


async def main():
    server = await connected()
    session = Session(server, await settled(server.get_service("triton-client")))
    for name in GIVEN.get("calls", CALLS):
        make = CALLS[name]
        try:
            await asyncio.wait_for(make(session), 180)
        except BaseException:
            REPORT["calls"][name] = traceback.format_exc()
        else:
            REPORT["calls"][name] = None
    Path(sys.argv[5]).write_text(json.dumps(REPORT))
    with contextlib.suppress(Exception):
        await settled(server.disconnect())


if __name__ == "__main__":
    asyncio.run(main())
