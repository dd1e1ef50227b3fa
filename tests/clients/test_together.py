"""Clients of both generations at the same time: many, and for long."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bioengine_contract.trust import trust_entry
from bioengine_server.store.model_store import ModelStore

from tests.clients.libraries import CLIENTS, call
from tests.security.edited import edited
from tests.stack.harness import Stack

MODES = [(library, mode) for environment, library, mode in CLIENTS if environment in ("client-imjoy", "client-hypha")]


def test_ten_clients_get_their_own_results(stack: Stack, tmp_path: Path) -> None:
    def one(number: int) -> None:
        library, mode = MODES[number % len(MODES)]
        folder = tmp_path / str(number)
        folder.mkdir()
        labels = np.full((1, 1, 64, 64), 100 + number, np.int64)
        np.save(folder / "labels.npy", labels)
        report = call(library, mode, stack, folder, {"model_id": "label-doubler", "inputs": [str(folder / "labels.npy")]})
        np.testing.assert_array_equal(report["outputs"][0], 2 * labels, err_msg=f"client {number}, {library} {mode}")

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(one, range(10)))


@pytest.mark.extended
def test_large_images_of_all_clients_at_once_come_back_as_they_are(stack: Stack, tmp_path: Path) -> None:
    """6.5 MB there and 3 MB back, so in many chunks both ways: each in its order, and to its own client."""

    def one(number: int) -> None:
        environment, library, mode = CLIENTS[number]
        folder = tmp_path / str(number)
        folder.mkdir()
        labels = np.random.default_rng(number).integers(0, 256, (1, 1, 900 + number, 900))
        np.save(folder / "labels.npy", labels)
        request = {"model_id": "label-doubler", "inputs": [str(folder / "labels.npy")]}
        report = call(library, mode, stack, folder, request, environment=environment)
        assert report.get("success") is True, report
        np.testing.assert_array_equal(report["outputs"][0], 2 * labels, err_msg=f"{environment} {mode}")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(one, range(len(CLIENTS))))


# A processing step that takes as long as its image says, and no processor meanwhile.
WAITING = b"""import time


def make(add):
    def step(image):
        time.sleep(-float(image.max()))
        return image

    return step
"""


@pytest.fixture
def waiting(packages: Path, tmp_path: Path) -> Iterator[Stack]:
    """A running stack with `waiting-walrus`, which it trusts: it takes as many seconds as the values of its image."""

    def change(rdf: dict[str, Any]) -> None:
        rdf["id"] = "waiting-walrus"
        (step,) = rdf["outputs"][0]["postprocessing"]
        step["sha256"] = hashlib.sha256(WAITING).hexdigest()

    home = tmp_path / "home"
    imported = ModelStore(home / "models").import_package(edited(packages / "custom-crab", tmp_path, change, steps__py=WAITING))
    with Stack(home, BIOENGINE_TRUSTED_MODELS=trust_entry(imported.manifest)) as stack:
        yield stack


@pytest.mark.extended
def test_a_run_beyond_the_clients_default_timeout(waiting: Stack, tmp_path: Path) -> None:
    """Both libraries give up a call after 30 s of silence; the server's heartbeats keep them waiting."""

    def one(library: str, mode: str) -> None:
        folder = tmp_path / library
        folder.mkdir()
        np.save(folder / "image.npy", np.full((1, 1, 8, 8), 34, np.float32))
        request = {"model_id": "waiting-walrus", "inputs": [str(folder / "image.npy")], "method_timeout": None}
        report = call(library, mode, waiting, folder, request, timeout=200)
        assert report.get("success") is True, report
        assert report["execution_time"] >= 34, "longer than the libraries' own limit"

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, ("imjoy", "hypha"), ("async", "sync")))
