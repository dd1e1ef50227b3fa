"""Every request goes straight to the model's own Triton model, and none through the model runner; whatever happens."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bioengine_server.store.model_store import ModelStore

from tests.stack.harness import RUNNER, Client, Stack, example_input, example_output, fill_home, snail

RUNS = 40
LIMIT = 10  # seconds that a run may take, and the opening of a package


@pytest.fixture(scope="module")
def own_stack(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("short") / "home"
    fill_home(home, packages)
    with Stack(home, BIOENGINE_RUN_TIMEOUT=str(LIMIT)) as stack:
        yield stack


@pytest.fixture(scope="module")
def client(own_stack: Stack) -> Iterator[Client]:
    with own_stack.client() as client:
        yield client


def right(client: Client, packages: Path, **more: Any) -> dict[str, Any]:
    result = client.run("old-otter", example_input(packages, "old-otter"), **more)
    assert result["success"], result
    np.testing.assert_allclose(result["outputs"][0], example_output(packages, "old-otter")[0], atol=1e-5)
    return result


def operations(stack: Stack) -> int:
    """What the model runner was asked: the server itself asks it now and then."""
    return stack.statistics(RUNNER)["inference_count"]


@pytest.mark.parametrize(
    "more", [{}, {"axes": "bcyx"}, {"weight_format": "onnx"}, {"return_rdf": True}], ids=lambda more: "".join(more) or "plain"
)
def test_no_run_goes_through_the_model_runner(own_stack: Stack, client: Client, packages: Path, more: dict[str, Any]) -> None:
    first = right(client, packages, **more)
    before = operations(own_stack)
    results = [right(client, packages, **more) for _ in range(RUNS)]
    assert operations(own_stack) - before < RUNS / 2
    for result in results:
        assert result.keys() == first.keys()
        assert (result["weight_format"], result["device"]) == ("onnx", "cpu")
    assert len({result["task_id"] for result in results}) == RUNS


def test_what_does_not_fit_is_told_as_ever(client: Client, packages: Path) -> None:
    right(client, packages)
    image = example_input(packages, "conscientious-seashell")[0]
    assert client.run("conscientious-seashell", [image])["success"]
    for _ in range(2):
        result = client.run("conscientious-seashell", [image[:, :2]])
        assert result["success"] is False and "This works: inputs=" in result["error"], result
    assert client.run("conscientious-seashell", [image])["success"]


def test_a_model_process_that_has_died_is_started_again(own_stack: Stack, client: Client, packages: Path) -> None:
    right(client, packages)
    own_stack.kill("old-otter")
    right(client, packages)


@pytest.mark.parametrize("more", [{}, pytest.param({"axes": "bcyx"}, marks=pytest.mark.extended)], ids=["plain", "axes"])
def test_a_run_that_takes_too_long_is_ended(client: Client, more: dict[str, Any]) -> None:
    first = client.run("slow-snail", [snail(0)])
    assert first["success"], first
    result = client.run("slow-snail", [snail(600)], **more)
    assert result["success"] is False
    assert f"took longer than this server allows ({LIMIT} s), and its run was ended" in result["error"]
    again = client.run("slow-snail", [snail(0.1)])
    assert again["success"], again


def test_another_package_of_the_same_name(own_stack: Stack, client: Client, packages: Path, tmp_path: Path) -> None:
    """It is run from the moment on that it is in the store; the one before as well, once it is back."""
    right(client, packages)
    right(client, packages)
    other = Path(shutil.copytree(packages / "old-otter", tmp_path / "old-otter"))
    description = (other / "rdf.yaml").read_text()
    assert description.count("name: sigmoid") == 1
    (other / "rdf.yaml").write_text(description.replace("name: sigmoid", "{name: binarize, kwargs: {threshold: 0.5}}"))
    store = ModelStore(own_stack.home / "models")
    store.import_package(other, replace=True)
    inputs = example_input(packages, "old-otter")
    for _ in range(2):
        result = client.run("old-otter", inputs)
        assert set(np.unique(result["outputs"][0])) == {0.0, 1.0}, result
    store.import_package(packages / "old-otter", replace=True)
    right(client, packages)
    right(client, packages)
