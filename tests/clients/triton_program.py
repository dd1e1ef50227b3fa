"""What clients of Triton's own protocol do, as a user's program does it. Runs in the environment that has them.

    python triton_program.py LIBRARY URL REPORT.json

LIBRARY is pyotritonclient or tritonclient. REPORT.json: as of `program.py`.
"""

import asyncio
import importlib.metadata
import json
import sys
import traceback
from pathlib import Path

import msgpack
import numpy as np
import pyotritonclient
import pyotritonclient.http
import tritonclient.http

LIBRARY, URL = sys.argv[1:3]
IMAGE = np.random.default_rng(0).integers(0, 255, (1, 3, 64, 64)).astype(np.float32)
CALLS: dict[str, dict] = {"pyotritonclient": {}, "tritonclient": {}}
REFUSED = (
    ("register_system_shared_memory", "region", "/key", 64),
    ("unregister_system_shared_memory",),
    ("get_system_shared_memory_status",),
    ("register_cuda_shared_memory", "region", b"handle", 0, 64),
    ("unregister_cuda_shared_memory",),
    ("get_cuda_shared_memory_status",),
    ("get_model_repository_index",),
    ("load_model", "conscientious-seashell"),
    ("unload_model", "conscientious-seashell"),
    ("get_inference_statistics",),
    ("get_inference_statistics", "conscientious-seashell"),
    ("get_trace_settings",),
    ("update_trace_settings", "counter", {"trace_level": ["TENSORS"]}),
    ("get_log_settings",),
    ("update_log_settings", {"log_verbose_level": 1}),
)


def call(library, name):
    """Have a function made one of the calls of a library."""

    def register(function):
        CALLS[library][name] = function
        return function

    return register


def seashell(image):
    """What `conscientious-seashell` makes of an image."""
    normal = (image - image.mean()) / (image.std() + 1e-6)
    return 1 / (1 + np.exp(-(normal * np.array([0.5, -1.0, 2.0]).reshape(1, 3, 1, 1)).sum(1, keepdims=True)))


async def failure(function, *args, **keywords):
    """The text of the error that a call raises."""
    try:
        result = function(*args, **keywords)
        result = await result if asyncio.iscoroutine(result) else result
    except Exception as error:
        assert type(error).__name__ == "InferenceServerException", repr(error)
        return str(error)
    raise AssertionError(f"no error, but {result!r}")


def tensor(name, array, datatype=None, binary=True):
    datatype = datatype or tritonclient.utils.np_to_triton_dtype(array.dtype)
    given = tritonclient.http.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array, binary_data=binary)
    return given


def infer(client, model, name="image", image=IMAGE, **more):
    return client.infer(model, [tensor(name, image)], **more)


def text(value):
    return np.array([value], np.object_)


@call("tritonclient", "health and metadata")
async def health_and_metadata(client):
    assert client.is_server_live() and client.is_server_ready()
    assert all(client.is_model_ready(model) for model in ("bioengine-model-runner", "counter", "conscientious-seashell"))
    assert client.is_model_ready("counter", "1") and not client.is_model_ready("no-such-model")
    assert client.get_server_metadata()["name"] == "triton"
    metadata = client.get_model_metadata("counter")
    assert metadata["inputs"] == [{"name": "value", "datatype": "FP32", "shape": [-1, 1]}], metadata
    metadata = client.get_model_metadata("conscientious-seashell")
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 3, -1, -1]}], metadata


@call("tritonclient", "get_config")
async def config(client):
    config = client.get_model_config("bioengine-model-runner")
    assert config["input"][0]["name"] == "kwargs" and config["output"][0]["name"] == "result"
    config = client.get_model_config("conscientious-seashell")
    assert config["input"][0]["dims"] == [-1, 3, -1, -1] and config["max_batch_size"] == 0


@call("tritonclient", "published example")
async def runner(client):
    image = {"_rtype": "ndarray", "_rvalue": IMAGE.tobytes(), "_rshape": IMAGE.shape, "_rdtype": "float32"}
    request = msgpack.packb({"model_id": "conscientious-seashell", "inputs": [image]})
    answer = infer(client, "bioengine-model-runner", "kwargs", text(request), request_id="mine")
    assert answer.get_response()["id"] == "mine"
    result = msgpack.unpackb(answer.as_numpy("result").item())
    mask = result["outputs"][0]
    assert result["success"] is True and mask["_rtype"] == "ndarray"
    mask = np.frombuffer(mask["_rvalue"], mask["_rdtype"]).reshape(mask["_rshape"])
    np.testing.assert_allclose(mask, seashell(IMAGE), atol=1e-3)


@call("tritonclient", "model by its own name")
async def own_name(client):
    for binary_in in (True, False):
        for binary_out in (True, False):
            answer = client.infer(
                "conscientious-seashell",
                [tensor("image", IMAGE, binary=binary_in)],
                outputs=[tritonclient.http.InferRequestedOutput("mask", binary_data=binary_out)],
            )
            np.testing.assert_allclose(answer.as_numpy("mask"), seashell(IMAGE), atol=1e-3)
    np.testing.assert_allclose(
        infer(client, "conscientious-seashell", model_version="1").as_numpy("mask"), seashell(IMAGE), atol=1e-3
    )


@call("tritonclient", "compression")
async def compression(client):
    for there in (None, "gzip", "deflate"):
        for back in (None, "gzip", "deflate"):
            answer = infer(
                client,
                "conscientious-seashell",
                request_compression_algorithm=there,
                response_compression_algorithm=back,
            )
            np.testing.assert_allclose(answer.as_numpy("mask"), seashell(IMAGE), atol=1e-3, err_msg=f"{there}, {back}")


@call("tritonclient", "array and dict")
async def array_and_dict(client):
    param = {"diameter": 30, "model_type": "nuclei"}
    answer = client.infer("cellpose-like", [tensor("image", IMAGE[0]), tensor("param", text(json.dumps(param).encode()))])
    np.testing.assert_array_equal(answer.as_numpy("mask"), IMAGE[0, :1] > IMAGE[0, 0].mean())
    assert json.loads(answer.as_numpy("info").item())["parameters"] == param


@call("tritonclient", "sequences")
async def sequences(client):
    sums = []
    for value, start, end in ((1, True, False), (2, False, False), (4, False, True)):
        for sequence, scale in ((2**40, 1), (2**40 + 1, 10)):
            answer = infer(
                client,
                "counter",
                "value",
                np.array([[value * scale]], np.float32),
                sequence_id=sequence,
                sequence_start=start,
                sequence_end=end,
            )
            sums.append(float(answer.as_numpy("sum").item()))
    assert sums == [1, 10, 3, 30, 7, 70], sums


@call("tritonclient", "wrong dtype")
async def wrong_dtype(client):
    error = await failure(infer, client, "conscientious-seashell", image=IMAGE.astype(np.uint8))
    assert all(word in error for word in ("image", "UINT8", "FP32")), error


@call("tritonclient", "wrong shape")
async def wrong_shape(client):
    error = await failure(infer, client, "conscientious-seashell", image=IMAGE[:, :2])
    assert "channel is 2, it must be 3" in error and ".py" not in error, error
    error = await failure(infer, client, "conscientious-seashell", image=IMAGE[0])
    assert "unexpected shape for input 'image'" in error and "[3,64,64]" in error, error


@call("tritonclient", "no such model")
async def no_such_model(client):
    for function in (client.get_model_config, client.get_model_metadata, lambda model: infer(client, model)):
        error = await failure(function, "no-such-model")
        assert error.startswith("[404] No model 'no-such-model' on this server"), error


@call("tritonclient", "refused")
async def refused(client):
    for name, *args in REFUSED:
        error = await failure(getattr(client, name), *args)
        assert error.startswith("[403]") and " is refused: clients can ask for " in error, (name, error)
    given = tritonclient.http.InferInput("image", [1, 3, 64, 64], "FP32")
    given.set_shared_memory("region", IMAGE.nbytes)
    error = await failure(client.infer, "conscientious-seashell", [given])
    assert "'shared_memory_byte_size' is refused" in error, error


@call("tritonclient", "large image")
async def large_image(client):
    image = np.random.default_rng(1).random((1, 3, 1024, 1024), np.float32)
    mask = infer(client, "conscientious-seashell", image=image).as_numpy("mask")
    np.testing.assert_allclose(mask, seashell(image), atol=1e-3)


@call("pyotritonclient", "health and metadata")
async def health_and_metadata_async(client):
    assert await client.is_server_live() and await client.is_server_ready()
    assert await client.is_model_ready("counter", "1") and not await client.is_model_ready("no-such-model")
    assert (await client.get_server_metadata())["name"] == "triton"
    assert (await client.get_model_metadata("cellpose-like"))["inputs"][1]["datatype"] == "BYTES"


@call("pyotritonclient", "execute_batch")
async def execute_batch(client):
    images = [IMAGE + number for number in range(5)]
    ended = []
    results = await pyotritonclient.execute_batch(
        [[{"model_id": "conscientious-seashell", "inputs": [image]}] for image in images],
        batch_size=2,
        on_batch_end=lambda number, _: ended.append(number),
        server_url=URL,
        model_name="bioengine-model-runner",
        serialization="imjoy",
    )
    assert ended == [0, 2, 4] and len(results) == 5
    for image, result in zip(images, results):
        np.testing.assert_allclose(result["result"]["outputs"][0], seashell(image), atol=1e-3)


@call("pyotritonclient", "SequenceExcutor")
async def sequence_executor(client):
    executor = pyotritonclient.SequenceExcutor(server_url=URL, model_name="counter", sequence_id=2**40 + 2)
    values = [[np.array([[value]], np.float32)] for value in (1, 2, 4)]
    first = [await executor.step(values[0]), await executor.step(values[1]), await executor.end(values[2])]
    second = await executor(values)
    assert [float(answer["sum"].item()) for answer in first + second] == [1, 3, 7] * 2


@call("pyotritonclient", "model by its own name")
async def own_name_async(client):
    answer = await pyotritonclient.execute([IMAGE], server_url=URL, model_name="conscientious-seashell")
    np.testing.assert_allclose(answer["mask"], seashell(IMAGE), atol=1e-3)


@call("pyotritonclient", "compression")
async def compression_async(client):
    for algorithm in (None, "gzip", "deflate"):
        answer = await pyotritonclient.execute(
            [IMAGE[0], {"diameter": 30}],
            server_url=URL,
            model_name="cellpose-like",
            compression_algorithm=algorithm,
            select_outputs=["mask"],
            decode_json=True,
        )
        assert set(answer) == {"mask", "__info__"}
        np.testing.assert_array_equal(answer["mask"], IMAGE[0, :1] > IMAGE[0, 0].mean(), err_msg=str(algorithm))


@call("pyotritonclient", "wrong shape")
async def wrong_shape_async(client):
    error = await failure(pyotritonclient.execute, [IMAGE[:, :2]], server_url=URL, model_name="conscientious-seashell")
    assert "channel is 2, it must be 3" in error and ".py" not in error, error


@call("pyotritonclient", "no such model")
async def no_such_model_async(client):
    error = await failure(pyotritonclient.execute, [IMAGE], server_url=URL, model_name="no-such-model")
    assert error.startswith("No model 'no-such-model' on this server"), error


@call("pyotritonclient", "refused")
async def refused_async(client):
    for name, *args in REFUSED:
        # It cannot send an empty body.
        if name.startswith("get_") and hasattr(client, name) and name != "get_model_repository_index":
            error = await failure(getattr(client, name), *args)
            assert " is refused: clients can ask for " in error, (name, error)


async def main():
    if LIBRARY == "tritonclient":
        client = tritonclient.http.InferenceServerClient(URL.removeprefix("http://"))
    else:
        client = pyotritonclient.http.InferenceServerClient(URL)
    report: dict = {"version": importlib.metadata.version(LIBRARY), "calls": {}}
    for name, make in CALLS[LIBRARY].items():
        try:
            await asyncio.wait_for(make(client), 90)
        except Exception:
            report["calls"][name] = traceback.format_exc()
        else:
            report["calls"][name] = None
    Path(sys.argv[3]).write_text(json.dumps(report))
    client.close()


if __name__ == "__main__":
    asyncio.run(main())
