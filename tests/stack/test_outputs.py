"""Some of a model's outputs, by name; and what is said of outputs that padding or tiles make inexact."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton_http
from bioengine_server.store.model_store import ModelStore

from tests.stack.harness import Client, Stack

ID = "image-and-score"


@pytest.fixture(scope="module")
def client(stack: Stack, request_packages: Path) -> Iterator[Client]:
    store = ModelStore(stack.home / "models")
    store.import_package(request_packages / ID)
    with stack.client() as connected:
        yield connected
    store.remove(ID)


def outputs(client: Client, image: np.ndarray, **more: Any) -> list[np.ndarray]:
    result = client.run(ID, [image], **more)
    assert result["success"] is True, result
    return list(result["outputs"])


def image(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def test_only_the_outputs_that_are_asked_for(client: Client, stack: Stack) -> None:
    """By name, in the model's order; in Triton's own protocol too, and where outputs go through shared memory."""
    given = image(8, 1, 1, 48, 48)
    features, small, score = outputs(client, given)
    np.testing.assert_allclose(score, given.mean((2, 3)), atol=1e-5)
    for names, wanted in ((["score", "features"], [features, score]), (["small"], [small]), ("score", [score])):
        got = outputs(client, given, outputs=names)
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted):
            np.testing.assert_array_equal(one, other)
    large = image(8, 40, 1, 48, 48)
    got = outputs(client, large, outputs=["features", "score"])
    assert [array.shape for array in got] == [large.shape, (40, 1)]
    with triton_http.InferenceServerClient(f"127.0.0.1:{stack.port}/triton") as triton:
        tensors = [triton_http.InferInput("image", [1, 1, 48, 48], "FP32")]
        tensors[0].set_data_from_numpy(given)
        answer = triton.infer(ID, tensors, outputs=[triton_http.InferRequestedOutput("score")])
        np.testing.assert_array_equal(answer.as_numpy("score"), score)
        assert answer.as_numpy("features") is None
    for wrong in (["mask"], [], ["small", "small"], 3, ["small", None]):
        result = client.run(ID, [given], outputs=wrong)
        assert result["code"] == "bad_outputs" and "out of: features, small, score" in result["error"], result


def test_a_model_that_gives_more_than_images_is_cut_into_tiles_for_its_images(client: Client) -> None:
    """The error says how, and what it says works."""
    given = image(9, 1, 1, 101, 48)
    result = client.run(ID, [given])
    assert result["code"] == "cannot_tile", result
    (names,) = re.findall(r"ask for them with `outputs`: (\[.*\])\.", result["error"])
    assert names == '["features", "small"]'
    result = client.run(ID, [given], outputs=json.loads(names))
    assert result["success"], result
    features, small = result["outputs"]
    assert features.shape == given.shape and small.shape == (1, 1, 50, 24)
    assert result["warnings"] == [
        "Output 'small' has 50 pixels along y: 101 pixels at its scale of 1/2 are 50.5, and the part of a pixel at the end is "
        "left out."
    ]
    np.testing.assert_array_equal(small, given[..., :100, :].reshape(1, 1, 50, 2, 24, 2).max((3, 5)))
    for top in (0, 30, 53):
        (window,) = outputs(client, given[..., top : top + 48, :], outputs=["features"])
        np.testing.assert_allclose(features[..., top + 2 : top + 46, :], window[..., 2:46, :], atol=1e-5)


def test_a_padded_image_is_said_of_what_cannot_be_cropped(client: Client) -> None:
    given = image(10, 1, 1, 47, 40)
    result = client.run(ID, [given])
    features, small, score = result["outputs"]
    assert features.shape == given.shape and small.shape == (1, 1, 23, 20)
    np.testing.assert_allclose(score, np.pad(given, ((0, 0), (0, 0), (0, 1), (0, 8)), mode="reflect").mean((2, 3)), atol=1e-5)
    scale, padded = result["warnings"]
    assert scale.startswith("Output 'small' has 23 pixels along y: 47 pixels")
    assert padded == (
        "Output 'score' was computed from a padded image (y from 47 to 48, x from 40 to 48 pixels): the mirrored pixels at its "
        "end count, too."
    )
