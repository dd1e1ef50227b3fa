"""Packages that fail on their way into memory, in every way that there is: Triton and all others' requests never notice.

Each fails as many times as FAILING_LOADS says. Once is enough for the ways and the reasons, and each takes seconds, most
of them for the import of torch; that Triton never aborts shows in hundreds only (where a model's `initialize` failed, it did in
one of twenty or so):

    FAILING_LOADS=200 ./bioengine test tests/stack/test_failing_loads.py
"""

from __future__ import annotations

import datetime
import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bioengine_contract.trust import trust_entry
from bioengine_server.store.layout import write_json
from bioengine_server.store.model_store import ModelStore
from bioengine_server.store.names import shipped_package

from tests.stack.harness import ENVIRONMENTS, Stack, build_packages, example_input, example_output, fill_home, get, wait_for

pytestmark = pytest.mark.extended

LOADS = int(os.environ.get("FAILING_LOADS", "1"))
SIDE_BY_SIDE = 2
MAX_SECONDS = 2.0  # that anybody else's answer may take beside such loads; with one load each, CI's other work decides

# What the client is told: the reason that is known, and no guess.
OPENING = {
    "raises": "failed to open (no such step)|cannot be opened: no such step",
    "exits": "Model 'exits' cannot be opened: its code ended the process, with status 3.",
    "just-ends": "Model 'just-ends' could not be loaded: its process ended itself, with status 3.",
    "is-killed": "could not be loaded: its process was killed, most likely because the machine's memory was full.",
    "crashes": "could not be loaded: its process crashed (Segmentation fault).",
    "takes-all-memory": "there was not enough memory|its process ended itself",
}
WORKING = {
    "exits-at-work": "could not process these inputs: its code ended the process, with status 3.",
    "crashes-at-work": "and again on a second try: its process crashed (Segmentation fault).",
}


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("failing") / "packages"
    build_packages(folder, "--failing")
    return folder


@pytest.fixture(scope="module")
def trusting(packages: Path, failing: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that trusts them, all of whose folders have names that neither a shell nor ASCII takes as they are."""
    folder = tmp_path_factory.mktemp("trusting") / 'jörg\'s, "x"'
    environments, run_dir = folder / "ümgebungen", folder / "rün dir"
    fill_home(folder / "home", packages, failing)
    environments.symlink_to(ENVIRONMENTS)
    models = [model for model in ModelStore(folder / "home" / "models").models() if not shipped_package(model.manifest.id)]
    entries = ",".join(trust_entry(model.manifest) for model in models)
    variables = {"ENVIRONMENTS": environments, "RUN_DIR": run_dir, "TRUSTED_MODELS": entries}
    settings: Any = {f"BIOENGINE_{name}": str(value) for name, value in variables.items()}
    with Stack(folder / "home", **settings) as stack:
        yield stack
        stack.stop()
        assert stack.leftovers() == [] and not list(Path("/tmp").glob(f"{stack.settings.plain_names.name}*"))
        *_, end = stack.log.partition("Stopping")
        assert "Traceback" not in stack.log and "WARNING" not in end and "ERROR" not in end, stack.log


def imported_again(file: Path) -> None:
    """Have a manifest say so, whole at every moment."""
    document = json.loads(file.read_text())
    document["imported"] = datetime.datetime.now(datetime.UTC).isoformat()
    write_json(file, document)


class Others:
    """Somebody who goes on using a model that is loaded; the longest that an answer took."""

    def __init__(self, stack: Stack, packages: Path) -> None:
        self._stack = stack
        self._inputs, (self._expected,) = example_input(packages, "old-otter"), example_output(packages, "old-otter")
        self.longest, self.answers = 0.0, 0
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with self._stack.client() as client:
            while not self._stop.wait(0.02):
                started = time.monotonic()
                result = client.run("old-otter", self._inputs)
                self.longest = max(self.longest, time.monotonic() - started)
                self.answers += 1
                if not result["success"] or not np.allclose(result["outputs"][0], self._expected, atol=1e-3):
                    self.failures.append(str(result.get("error", "a wrong result")))

    def __enter__(self) -> Others:
        with self._stack.client() as client:
            assert client.run("old-otter", self._inputs)["success"]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.parametrize(
    "part, id, told, error",
    [
        ("rün dir/boot-*/models", "two-inputs", "run dir", "the server's run dir cannot be written"),
        ("ümgebungen", "label-doubler", "the environment 'runner'", "the model runner's Python environment no longer exists"),
    ],
)
def test_a_part_that_is_gone_is_told_by_readiness_and_by_a_load(
    trusting: Stack, packages: Path, part: str, id: str, told: str, error: str
) -> None:
    """As where something removes what looks old: loaded models go on answering, and no other can be loaded.

    Before the loads that fail: those have the server's own model loaded anew some seconds later, and Triton hangs where a folder
    goes while it loads from it.
    """
    (place,) = trusting.home.parent.glob(part)
    aside = place.with_name("aside")
    health = f"{trusting.url}/health/readiness"
    with trusting.client() as client:
        assert client.run("old-otter", example_input(packages, "old-otter"))["success"]
        place.rename(aside)
        place.touch()  # a folder of this name would be made anew
        try:
            wait_for(lambda: get(health)[0] == 503, 30, "not ready")
            assert told in get(health)[1]["reason"] and str(trusting.home.parent) not in get(health)[1]["reason"]
            assert client.run("old-otter", example_input(packages, "old-otter"))["success"]
            for _ in range(6):  # most likely each of the runner's instances is asked, also one that has loaded nothing before
                text = client.run(id, example_input(packages, id))["error"]
                assert error in text and str(trusting.home.parent) not in text
        finally:
            place.unlink()
            aside.rename(place)
        trusting.wait_until_ready()
        assert client.run(id, example_input(packages, id))["success"]


def test_no_package_that_fails_takes_triton_with_it(trusting: Stack, packages: Path, failing: Path) -> None:
    triton = trusting.triton()
    with Others(trusting, packages) as others, trusting.client() as client, ThreadPoolExecutor(SIDE_BY_SIDE) as pool:

        def fail(id: str, reasons: str) -> None:
            # Another import, as far as the server sees: it remembers a failure for some seconds.
            imported_again(next((trusting.home / "models" / id).glob("*/model.json")))
            result = client.run(id, [np.ones((1, 1, 8, 8), np.float32)])
            assert not result["success"], result
            assert any(reason in result["error"] for reason in reasons.split("|")), result["error"]
            assert str(trusting.home) not in result["error"]

        for number in range(LOADS):
            list(pool.map(fail, *zip(*{**OPENING, **WORKING}.items())))
            if LOADS > 1:
                print(f"round {number + 1}: {others.answers} answers beside, {others.longest:.2f} s at most", flush=True)
    log = (trusting.home.parent / "rün dir" / "triton.log").read_text(errors="replace")
    assert triton.is_running() and trusting.triton().pid == triton.pid, log[-2000:]
    assert "Signal (6)" not in log
    assert others.failures == []
    print(f"{others.answers} answers beside, {others.longest:.2f} s at most")
    assert LOADS == 1 or others.longest < MAX_SECONDS


def test_files_of_any_name_are_opened(trusting: Stack, failing: Path) -> None:
    with trusting.client() as client:
        result = client.run("umlaut-weights", example_input(failing, "umlaut-weights"))
    assert result["success"], result
    np.testing.assert_allclose(result["outputs"][0], example_output(failing, "umlaut-weights")[0])
