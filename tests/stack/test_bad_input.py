"""What bad input gets: data that says what was wrong, what was expected and what to do; the next request works."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.stack.harness import Client, Stack

GOOD = np.zeros((1, 3, 32, 32), np.float32)


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    with stack.client() as connected:
        assert connected.run("conscientious-seashell", [GOOD])["success"]
        yield connected


def failure(client: Client, model_id: Any, inputs: Any, **more: Any) -> str:
    """The error of a bad request, after the checks that every error has to pass."""
    started = time.monotonic()
    result = client.run(model_id, inputs, **more)
    assert time.monotonic() - started < 5
    assert result["success"] is False and "outputs" not in result
    error = str(result["error"])
    assert "Traceback" not in error and not re.search(r"\.py\b|/(tmp|home|root|usr|work)/", error), error
    assert client.run("conscientious-seashell", [GOOD])["success"], "the next good request works"
    return error


@pytest.mark.parametrize(
    "model_id",
    ["../x", "/etc/passwd", "http://example.com/rdf.yaml", "huggingface/a/b", "x/draft", "a" * 300, {}, "a\0b", "", 7, None, [],
     "conscientious-seashell/../../x", "/models/../x/rdf.yaml", " conscientious-seashell", "conscientious-seashell\n"],
)  # fmt: skip
def test_malformed_ids(client: Client, model_id: Any) -> None:
    error = failure(client, model_id, [GOOD])
    assert "is not a model id" in error and "affable-shark" in error


def test_unknown_id(client: Client) -> None:
    error = failure(client, "affable-shark", [GOOD])
    assert "No model 'affable-shark'" in error and "conscientious-seashell" in error and "models import" in error


@pytest.mark.parametrize(
    ("model_id", "inputs", "expected"),
    [
        ("conscientious-seashell", [], "takes 1 input (image), but 0 were given"),
        ("conscientious-seashell", [GOOD, GOOD], "takes 1 input (image), but 2 were given"),
        ("two-inputs", [GOOD], "takes 2 inputs (image, mask), but 1 was given"),
        ("conscientious-seashell", GOOD, "list with one array for each"),
        ("conscientious-seashell", {"image": GOOD}, "list with one array for each"),
        ("conscientious-seashell", ["an image"], "Input 'image' is a str"),
        ("conscientious-seashell", [[[1, 2], [3, 4]]], "Input 'image' is a list"),
        ("conscientious-seashell", [None], "Input 'image' is missing"),
        ("conscientious-seashell", [np.zeros((1, 3, 0, 32), np.float32)], "empty array"),
        ("conscientious-seashell", [np.zeros((1, 3, 32, 32), np.complex64)], "an array of complex64"),
        ("conscientious-seashell", [np.full((1, 3, 32, 32), 1e39)], "is float64, but the model takes float32"),
        ("label-doubler", [np.full((1, 1, 8, 8), -1, np.int64)], "is int64, but the model takes uint8"),
        ("label-doubler", [np.full((1, 1, 8, 8), 0.5, np.float32)], "is float32, but the model takes uint8"),
    ],
)
def test_inputs_that_are_not_what_the_model_takes(client: Client, model_id: str, inputs: Any, expected: str) -> None:
    assert expected in failure(client, model_id, inputs)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((32, 32), "It has 2 axes, but the model has 4"),
        ((1, 1, 3, 32, 32), "It has 5 axes, but the model has 4"),
        ((1, 1, 32, 32), "channel is 1, it must be 3"),
        ((1, 32, 32, 3), "channel is 32, it must be 3"),
    ],
)
def test_wrong_axes_name_what_the_model_takes_and_the_shape(client: Client, shape: tuple[int, ...], expected: str) -> None:
    error = failure(client, "conscientious-seashell", [np.zeros(shape, np.float32)])
    assert expected in error
    assert (
        str(shape) in error
        and "axes bcyx (batch: any, channel: 3, y: 16 + n*16, x: 16 + n*16)" in error
        and "This works" in error
    )


def test_second_input_has_to_go_with_the_first(client: Client) -> None:
    error = failure(client, "two-inputs", [np.zeros((1, 1, 4, 8, 8), np.float32), np.zeros((1, 1, 4, 8, 12), np.float32)])
    assert "x is 12, it must be 8 to match 'image'" in error


def test_weights_that_there_are_not(client: Client) -> None:
    assert "'onnx' or 'torchscript'" in failure(client, "conscientious-seashell", [GOOD], weight_format="keras_hdf5")
    assert "the admin has to trust it" in failure(client, "state-dict-stork", [np.zeros((1, 1, 8, 8), np.float32)])


def test_package_with_code_of_its_own_is_not_run(client: Client) -> None:
    mark = Path("/dev/shm/custom-crab-was-here")
    mark.unlink(missing_ok=True)
    assert "contains Python code" in failure(client, "custom-crab", [np.ones((1, 1, 8, 8), np.float32)])
    assert not mark.exists()


def test_list_of_samples_adds_the_batch_axis(client: Client) -> None:
    samples = [np.random.default_rng(n).random((3, 32, 32), np.float32) for n in range(2)]
    together = client.run("conscientious-seashell", [samples])["outputs"][0]
    assert together.shape == (2, 1, 32, 32)
    for sample, output in zip(samples, together):
        alone = client.run("conscientious-seashell", [[sample]])["outputs"][0]
        np.testing.assert_allclose(alone[0], output, atol=1e-6)


def test_rdf_is_asked_for_by_presence(client: Client) -> None:
    result = client.run("conscientious-seashell", [GOOD], return_rdf=False)
    assert result["rdf"]["inputs"][0]["axes"] == "bcyx" and result["success"] is True
    assert "rdf" not in client.run("conscientious-seashell", [GOOD])
    only = client.run("conscientious-seashell", None)
    assert set(only) == {"rdf"} and only["rdf"]["config"]["bioimageio"]["nickname"] == "conscientious-seashell"


@pytest.mark.parametrize(
    "model_id",
    ["conscientious-seashell/1.0.0", "10.5281/zenodo.1234567", "10.5281/zenodo.1234567/7654321",
     "/models/conscientious-seashell/rdf.yaml"],
)  # fmt: skip
def test_the_other_names_of_a_model(client: Client, model_id: str) -> None:
    assert client.run(model_id, [GOOD])["success"]


@pytest.mark.parametrize("inputs", [None, [], [1], {"model_id": "conscientious-seashell"}, [{}, {}]])
def test_inputs_that_are_no_request_are_refused(client: Client, inputs: Any) -> None:
    with pytest.raises(Exception, match="The argument 'inputs' is refused"):
        client.triton.execute(inputs=inputs, model_name="bioengine-model-runner", serialization="imjoy")


@pytest.mark.parametrize("name", [None, "../x", "a/b", "no-such-model", "x" * 300, 5])
def test_triton_models_that_there_are_not_are_refused(client: Client, name: Any) -> None:
    with pytest.raises(Exception, match="The argument 'model_name' is refused"):
        client.triton.execute(inputs=[GOOD], model_name=name)


def test_configuration_of_the_model_runner_and_of_a_model(client: Client) -> None:
    runner = client.triton.get_config(model_name="bioengine-model-runner")
    assert runner["input"][0]["name"] == "kwargs" and runner["model_name"] == "bioengine-model-runner" and runner["server_url"]
    config = client.triton.get_config(model_name="two-inputs")
    assert [spec["name"] for spec in config["input"]] == ["image", "mask"]
    assert config["input"][0]["dims"] == [-1, 1, -1, -1, -1] and config["max_batch_size"] == 0
