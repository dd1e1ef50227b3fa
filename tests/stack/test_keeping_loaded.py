"""Models under a memory limit: all answers are right, and no more stay than there is room for.

Eight in turn show what is kept and what goes. What would grow slowly shows with more:

    MODELS_IN_TURN=40 ./bioengine test tests/stack/test_keeping_loaded.py
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bioengine_server.soak.watch import shared_memory
from bioengine_server.store.model_store import ModelStore

from tests.stack.harness import Client, Stack, example_input, example_output, fill_home, wait_for

ORIGINAL = "conscientious-seashell"
IN_TURN = int(os.environ.get("MODELS_IN_TURN", "8"))


def ids(count: int) -> list[str]:
    return [f"seashell-{number}" for number in range(count)]


def home_of(folder: Path, packages: Path, count: int) -> Path:
    """A home with so many more models, which are one and the same under names of their own."""
    fill_home(folder / "home", packages)
    shutil.rmtree(folder / "home" / "triton-models")
    store = ModelStore(folder / "home" / "models")
    for id in ids(count):
        store.import_package(packages / ORIGINAL, id=id)
    return folder / "home"


class Turns:
    """Runs models in turn and looks at what they hold."""

    def __init__(self, stack: Stack, client: Client, packages: Path) -> None:
        self._stack = stack
        self._client = client
        self._image, self._wanted = example_input(packages, ORIGINAL), example_output(packages, ORIGINAL)[0]

    def run(self, id: str) -> None:
        result = self._client.run(id, self._image)
        assert result["success"], result
        np.testing.assert_allclose(result["outputs"][0], self._wanted, atol=1e-3)

    def loaded(self) -> list[str]:
        return [model["name"] for model in self._client.triton.get_status()["models"]]

    def memory(self) -> float:
        """Bytes of all processes of models."""
        return float(sum(process.memory_full_info().pss for process in self._stack.models()))

    def shared(self) -> int:
        """Bytes in /dev/shm."""
        return shared_memory(self._stack.settings.shm_prefix)


@pytest.fixture
def turns(packages: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Turns]:
    count, settings = request.param
    with Stack(home_of(tmp_path, packages, count), **settings) as stack, stack.client() as client:
        yield Turns(stack, client, packages)


@pytest.mark.extended
@pytest.mark.parametrize("turns", [(2, {"BIOENGINE_KEEP_LOADED": "2s"})], indirect=True)
def test_idle_models_are_unloaded(turns: Turns) -> None:
    turns.run("seashell-0")
    time.sleep(1)
    turns.run("seashell-1")
    wait_for(lambda: turns.loaded() == ["seashell-1"], 10, "the older one")
    wait_for(lambda: turns.loaded() == [] and turns._stack.models() == [], 10, "both")
    turns.run("seashell-0")


@pytest.mark.extended
@pytest.mark.parametrize("turns", [(1, {"BIOENGINE_MEMORY_LIMIT": "100MB"})], indirect=True)
def test_a_model_for_which_there_is_no_room_is_not_loaded(turns: Turns) -> None:
    result = turns._client.run("seashell-0", turns._image)
    assert result["code"] == "model_too_large" and "BIOENGINE_MEMORY_LIMIT" in result["error"], result


LIMIT = {"BIOENGINE_MEMORY_LIMIT": "550MB", "BIOENGINE_PRELOAD": "seashell-0"}


@pytest.mark.extended
@pytest.mark.parametrize("turns", [(IN_TURN, LIMIT)], indirect=True)
def test_many_models_three_times_under_a_limit_for_five(turns: Turns) -> None:
    """All answers right; memory and shared memory flat from the second round on; one of them is always kept."""
    wait_for(lambda: "seashell-0" in turns.loaded(), 30, "the one that is always kept")
    rounds = []
    for _ in range(3):
        memory, shared, most = 0.0, 0, 0
        for id in ids(IN_TURN):
            turns.run(id)
            loaded = turns.loaded()
            assert {"seashell-0", id} <= set(loaded) and len(loaded) < 6
            assert len(turns._stack.models()) == len(loaded), "each of the others has no process any more"
            memory, shared = max(memory, turns.memory()), max(shared, turns.shared())
            most = max(most, len(loaded))
        rounds.append((memory, shared, turns._stack.server_pss(), most))
        in_mb = ", ".join(f"{held / 1e6:.0f}" for held in rounds[-1][:3])
        print(f"models, /dev/shm and server hold {in_mb} MB, and {most} models were loaded at most")
    _, second, third = rounds
    assert third[3] >= 4
    # How many fit depends on what they hold, of which less is their own while more processes share their libraries.
    more = max(1.0, third[3] / second[3])
    for before, after in ((second[0] * more, third[0]), *zip(second[1:3], third[1:3])):
        assert after < before * 1.1 + 20e6
