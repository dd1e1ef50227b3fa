"""What a client sends with a request and is told: optional inputs, other dtypes and axes, NaN, misspelt names, faults."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest
import requests
import tritonclient.http as triton_http
from bioengine_contract import message
from bioengine_server.store.model_store import ModelStore

from tests.stack.harness import RUNNER, Client, Stack, example_input, example_output, python

LARGE = (1, 1, 400, 400)  # of float32, passed by reference


@pytest.fixture(scope="module")
def client(stack: Stack, request_packages: Path) -> Iterator[Client]:
    store = ModelStore(stack.home / "models")
    for package in request_packages.iterdir():
        store.import_package(package)
    with stack.client() as connected:
        yield connected
    for package in request_packages.iterdir():
        store.remove(package.name)


def outputs(client: Client, id: str, inputs: list[Any], **more: Any) -> list[np.ndarray]:
    result = client.run(id, inputs, **more)
    assert result["success"] is True, result
    return list(result["outputs"])


def error_of(client: Client, id: str, inputs: list[Any], **more: Any) -> str:
    result = client.run(id, inputs, **more)
    assert result["success"] is False, result
    error = str(result["error"])
    assert not re.search(r"\.(py|cc|h)\b|/(tmp|home|root|usr|work|onnxruntime_src)/", error), error
    return error


def image(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


RAW, MASK, EXTRA = image(1, 1, 1, 20, 30), image(2, 1, 1, 20, 30), image(3, 1, 1, 20, 30)


def total(mask: np.ndarray | None, extra: np.ndarray | None) -> np.ndarray:
    """What `optional-inputs` makes."""
    normal = 10 if extra is None else (extra - extra.mean()) / (extra.std() + 1e-6)
    return np.asarray(RAW + (1 if mask is None else 2 * mask) + normal)


@pytest.mark.parametrize("weight_format", ["torchscript", "onnx"])
def test_optional_inputs_are_given_or_left_out(client: Client, weight_format: str) -> None:
    for mask, extra in itertools.product((None, MASK), (None, EXTRA)):
        given: list[list[Any]] = [
            [RAW, mask, extra],
            *([[RAW, mask]] if extra is None else []),
            *([[RAW]] if mask is extra is None else []),
        ]
        for inputs in given:
            (got,) = outputs(client, "optional-inputs", inputs, weight_format=weight_format)
            assert got is not None
            np.testing.assert_allclose(got, total(mask, extra), atol=1e-5)
    (tiled,) = outputs(client, "optional-inputs", [RAW, None, EXTRA], weight_format=weight_format, tile=16)
    np.testing.assert_allclose(tiled, total(None, EXTRA), atol=1e-5)
    large = image(4, *LARGE)
    (got,) = outputs(client, "optional-inputs", [large, None, None], weight_format=weight_format)
    np.testing.assert_allclose(got, large + 11, atol=1e-5)


def test_inputs_that_are_not_optional(client: Client) -> None:
    assert "Input 'raw' is missing" in error_of(client, "optional-inputs", [None, MASK])
    assert "Input 'raw' is missing" in error_of(client, "optional-inputs", [None])
    error = error_of(client, "optional-inputs", [])
    assert "takes 3 inputs (raw, mask (optional), extra (optional)), but 0 were given" in error
    assert "None stands for an optional input" in error


def test_an_optional_input_is_left_out_of_tritons_own_protocol(client: Client, stack: Stack) -> None:
    config = client.triton.get_config(model_name="optional-inputs")
    described = client.run("optional-inputs", None)["rdf"]["inputs"]
    for specs in (config["input"], described):
        assert [spec.get("optional", False) for spec in specs] == [False, True, True]
    with triton_http.InferenceServerClient(f"127.0.0.1:{stack.port}/triton") as triton:
        for mask, extra in ((None, None), (MASK, None), (None, EXTRA)):
            given = []
            for name, array in (("raw", RAW), ("mask", mask), ("extra", extra)):
                if array is not None:
                    given.append(triton_http.InferInput(name, list(array.shape), "FP32"))
                    given[-1].set_data_from_numpy(array)
            got = triton.infer("optional-inputs", given).as_numpy("sum")
            assert got is not None
            np.testing.assert_allclose(got, total(mask, extra), atol=1e-5)
            got = client.triton.execute(inputs=[RAW, mask, extra], model_name="optional-inputs")["sum"]
            np.testing.assert_allclose(got, total(mask, extra), atol=1e-5)


def with_nan(shape: tuple[int, ...], count: int = 3) -> np.ndarray:
    array = image(5, *shape)
    array[0, 0, 0, :count] = np.nan
    return array


def test_nan_is_said_of_inputs_and_outputs(client: Client) -> None:
    """Of a small image; of one that is shared; of one in tiles."""
    for shape, more in (((1, 1, 20, 24), {}), (LARGE, {}), ((1, 1, 20, 24), {"tile": 16})):
        clean, size = image(5, *shape), int(np.prod(shape))
        for given, words in ((clean, ()), (with_nan(shape), ("Input", "Output")), (clean, ())):
            result = client.run("square-root", [given], **more)
            assert result["success"] and ("warnings" in result) is bool(words), result
            for word, sentence in zip(words, result.get("warnings", ()), strict=True):
                assert sentence.startswith(word) and f"NaN in 3 of {size} pixels" in sentence, sentence


def test_nan_that_the_model_made(client: Client) -> None:
    for shape in ((1, 1, 20, 24), LARGE):
        for _ in range(3):  # whichever way it goes
            assert "warnings" not in client.run("square-root", [image(6, *shape)])
            below = image(6, *shape)
            below[0, 0, 0, 0] = -1
            (sentence,) = client.run("square-root", [below])["warnings"]
            assert sentence.startswith("Output 'root' has NaN in 1 of") and "the inputs have none" in sentence


def runner_request(**more: Any) -> dict[str, Any]:
    return {"model_id": "square-root", "inputs": [with_nan((1, 1, 20, 24))], **more}


def by_triton(url: str, request: dict[str, Any]) -> dict[str, Any]:
    """The model runner's answer to a request in Triton's protocol."""
    with triton_http.InferenceServerClient(url) as triton:
        kwargs = triton_http.InferInput("kwargs", [1], "BYTES")
        kwargs.set_data_from_numpy(np.array([message.encode(request)], dtype=np.object_))
        result: Any = triton.infer(RUNNER, [kwargs]).as_numpy("result")
        answer: dict[str, Any] = message.decode(result[0])
    return answer


def by_http(stack: Stack, method: str, **arguments: Any) -> requests.Response:
    return requests.post(f"{stack.url}/public/services/triton-client/{method}", json=arguments, timeout=60)


def directly(stack: Stack, request: dict[str, Any]) -> dict[str, Any]:
    """The model runner's answer from Triton itself, not from the server."""
    data = message.encode(request)
    element = len(data).to_bytes(4, "little") + data
    parameters = {"binary_data_size": len(element)}
    header = {"inputs": [{"name": "kwargs", "datatype": "BYTES", "shape": [1], "parameters": parameters}]}
    packed = httpx.Request("POST", "http://x", json={**header, "parameters": {"binary_data_output": True}}).content
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(stack.settings.triton_sockets / "http"))) as triton:
        headers = {"Inference-Header-Content-Length": str(len(packed))}
        answer = triton.post(f"http://triton/v2/models/{RUNNER}/infer", content=packed + element, headers=headers)
        length = int(answer.raise_for_status().headers["inference-header-content-length"])
    decoded: dict[str, Any] = message.decode(answer.content[length + 4 :])
    return decoded


def test_warnings_by_other_ways(client: Client, stack: Stack) -> None:
    triton = by_triton(f"127.0.0.1:{stack.port}/triton", runner_request())
    itself = directly(stack, runner_request())
    body = {"inputs": [runner_request()], "model_name": RUNNER, "serialization": "imjoy"}
    packed = msgpack.packb(body, default=message.represent)
    url = f"{stack.url}/public/services/triton-client/execute"
    http = requests.post(url, packed, headers={"Content-Type": "application/msgpack"}, timeout=60)
    for result in (triton, itself, msgpack.unpackb(http.content)["result"]):
        assert [sentence[:6] for sentence in result["warnings"]] == ["Input ", "Output"], result["warnings"]


def test_float64_is_cast_and_said(client: Client) -> None:
    given = np.random.default_rng(7).random((1, 1, 20, 24))
    for _ in range(2):
        result = client.run("square-root", [given])
        np.testing.assert_allclose(result["outputs"][0], np.sqrt(given), atol=1e-6)
        (sentence,) = result["warnings"]
        assert "'image' is float64 and was cast to float32" in sentence
    assert "its values reach 1e+300" in error_of(client, "square-root", [given + 1e300])


def test_advice_about_a_dtype_makes_the_right_image(client: Client) -> None:
    """Floats of 0 to 1 into a model of uint8: followed to the letter, the image is there and not black."""
    given = np.linspace(0, 1, 96, dtype=np.float32).reshape(1, 1, 8, 12)
    advice = re.search(r"`(\(image .*?)`", error_of(client, "label-doubler", [given]))
    assert advice is not None
    (got,) = outputs(client, "label-doubler", [eval(advice[1], {"image": given, "np": np})])
    np.testing.assert_allclose(got / 2 / 255, given, atol=0.01)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("axis", "axes"), ("input", "inputs"), ("weights_format", "weight_format"), ("model", "model_id"), ("rdf", "return_rdf")],
)
def test_misspelt_keys_are_refused_with_the_right_one(client: Client, stack: Stack, wrong: str, right: str) -> None:
    request = {**runner_request(), wrong: "x"}
    told = f"unknown key '{wrong}'. Did you mean '{right}'?"
    with pytest.raises(Exception, match=re.escape(told)):
        client.run("square-root", request["inputs"], **{wrong: "x"})
    with pytest.raises(Exception, match=re.escape(told)):
        by_triton(f"127.0.0.1:{stack.port}/triton", request)
    assert told in directly(stack, request)["error"]
    http = by_http(stack, "execute", inputs=[{"model_id": "square-root", wrong: "x"}], model_name=RUNNER, serialization="imjoy")
    assert http.status_code == 400 and told in http.json()["error"]


def test_misspelt_arguments_are_refused_with_the_right_one(client: Client, stack: Stack) -> None:
    for method, wrong, right in (("execute", "model", "model_name"), ("execute", "serialisation", "serialization"),
                                 ("get_config", "name", "model_name")):  # fmt: skip
        told = f"'{wrong}' is refused: there is no such argument. Did you mean '{right}'?"
        with pytest.raises(Exception, match=re.escape(told)):
            client.triton[method](**{wrong: "x"})
        http = by_http(stack, method, **{wrong: "x"})
        assert http.status_code == 400 and told in http.json()["error"]
    http = by_http(stack, "execute", model_id="square-root", inputs=[], model_name=RUNNER, serialization="imjoy")
    assert "'model_id' is refused: it belongs into the dict in `inputs`" in http.json()["error"]
    http = by_http(stack, "execute", anything_else=1)
    assert "Did you mean" not in http.json()["error"] and "The known arguments are inputs, model_name" in http.json()["error"]


def test_axes_in_capitals(client: Client) -> None:
    given = image(8, 20, 24)
    for axes in ("YX", ["Yx"]):
        np.testing.assert_allclose(outputs(client, "square-root", [given], axes=axes)[0][0, 0], np.sqrt(given), atol=1e-6)
    (tiled,) = outputs(client, "square-root", [given], axes="yx", tile={"Y": 16, "X": 16})
    np.testing.assert_allclose(tiled[0, 0], np.sqrt(given), atol=1e-6)


EVERY_MODEL = """
import sys, json
from pathlib import Path
import numpy as np
from bioengine_contract.tensors.errors import WrongAxes
from bioengine_contract.store import resolve
from bioengine_contract.tensors.fit import fit_inputs

store, tried = Path(sys.argv[1]), []
for id in sorted(folder.name for folder in store.iterdir() if folder.is_dir()):
    package, sizes = resolve(store, id).manifest, {}
    for spec in package.inputs:
        for axis in spec.axes:
            like = axis.reference
            sizes[spec.id, axis.id] = 1 if axis.type == "batch" else axis.min if like is None else (
                int(sizes[like.tensor, like.axis] * like.scale) + like.offset)
    shapes = [tuple(sizes[spec.id, axis.id] for axis in spec.axes) for spec in package.inputs]
    whole = [np.ones(shape, spec.dtype) for shape, spec in zip(shapes, package.inputs)]
    batches = [spec.batch_axis for spec in package.inputs]
    one = [array if batch is None else array.take(0, batch) for array, batch in zip(whole, batches)]
    assert [array.shape for array in fit_inputs(package, whole)] == shapes, id
    if None in batches:
        try:
            fit_inputs(package, [[array] for array in one])
            raise SystemExit(id)
        except WrongAxes:
            pass
    else:
        assert [array.shape for array in fit_inputs(package, [[array] for array in one])] == shapes, id
        both = fit_inputs(package, [[array, array] for array in one])
        assert [array.take(1, batch).shape for array, batch in zip(both, batches)] == [array.shape for array in one], id
    try:  # one sample, or refused with what to say
        assert [array.shape for array in fit_inputs(package, one)] == shapes, id
    except WrongAxes as error:
        assert "give its axes" in str(error), (id, error)
    tried.append(id)
print(len(tried))
"""


def test_a_list_adds_the_batch_axis_of_every_model(kinds_home: Path) -> None:
    """`[[x]]` and `[[x, x]]` of samples, and `[x]`."""
    program = [python("runner"), "-c", EVERY_MODEL, str(kinds_home / "models")]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(ModelStore(kinds_home / "models").models()) > 50


def test_a_list_adds_the_batch_axis_of_a_model_whose_channels_come_last(client: Client) -> None:
    """As the published example notebook sends it."""
    given = image(9, 20, 24)
    for inputs, more in (
        ([[given[..., None]]], {}),
        ([[given]], {}),
        ([given[None, ..., None]], {}),
        ([[given]], {"axes": "yx"}),
        ([[given[..., None]]], {"axes": "byxc"}),
    ):
        (got,) = outputs(client, "grey-last", inputs, **more)
        np.testing.assert_array_equal(got, -given[None, ..., None])
    (both,) = outputs(client, "grey-last", [[given[..., None], 2 * given[..., None]]])
    np.testing.assert_array_equal(both[..., 0], np.stack([-given, -2 * given]))
    assert "give its axes" in error_of(client, "grey-last", [given[..., None]])


@pytest.mark.parametrize(
    ("shape", "more"),
    [
        ((5, 20, 24), {}),
        ((5, 20, 24), {"axes": "zyx"}),
        ((5, 1, 20, 24), {"axes": "tcyx"}),
        ((2, 5, 20, 24), {"axes": "tzyx"}),
        ((2, 5, 20, 24), {}),
    ],
)
def test_the_hint_for_a_stack_works(client: Client, shape: tuple[int, ...], more: dict[str, Any]) -> None:
    given = image(10, *shape)
    error = error_of(client, "square-root", [given], **more)
    advice = re.search(r'(?:Send (image.*?) with|Give) axes="(\w+)"', error)
    assert advice is not None, error
    sent = eval(advice[1], {"image": given}) if advice[1] else given
    (got,) = outputs(client, "square-root", [sent], axes=advice[2])
    np.testing.assert_allclose(got.reshape(shape), np.sqrt(given), atol=1e-6)


@pytest.mark.parametrize(
    ("id", "shape", "told"),
    [
        (
            "fixed-in-onnx",
            (1, 1, 40, 32),
            "invalid dimensions for input: image for the following indices: index: 2 Got: 40 Expected: 32",
        ),
        (
            "binarized-by-channel",
            (1, 2, 20, 24),
            "post-processing step 'binarize' (of 'out') fails in the reference implementation",
        ),
    ],
)
def test_a_model_at_fault_says_what_of_it(client: Client, id: str, shape: tuple[int, ...], told: str) -> None:
    assert told in error_of(client, id, [image(11, *shape)])


def test_loading_is_told_when_a_model_loads(client: Client, stack: Stack, packages: Path) -> None:
    def states() -> list[str]:
        told: list[dict[str, Any]] = []
        request = {"model_id": "old-otter", "inputs": example_input(packages, "old-otter")}
        answer = client.triton.execute(inputs=[request], model_name=RUNNER, serialization="imjoy", progress=told.append)
        np.testing.assert_allclose(answer["result"]["outputs"][0], example_output(packages, "old-otter")[0], atol=1e-5)
        return [event["state"] for event in told if event["state"] != "queued"]

    states()
    assert states() == ["running"]
    stack.kill("old-otter")
    assert states() == ["loading", "running"], "its process has died"
    assert states() == ["running"]
