"""Another client of an attacked stack: its runs must stay right, on the same processes as before."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.stack.harness import RUNNER, Client, Stack, example_input, get

PROBE = "bioengine-probe"


class Witness:
    """Another client, and whoever looks at readiness, while something is tried."""

    def __init__(self, stack: Stack, packages: Path) -> None:
        self.stack = stack
        self._input = example_input(packages, "conscientious-seashell")
        self._expected = np.load(packages / "conscientious-seashell" / "test_output.npy")
        self.not_ready: list[dict[str, Any]] = []
        self.looked = 0
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            status, reason = get(f"{self.stack.url}/health/readiness")
            self.looked += 1
            if status != 200:
                self.not_ready.append(reason)

    def _processes(self) -> set[int]:
        """Triton, its model runners and the probe's model; other models may be loaded meanwhile."""
        stubs = [*self.stack.stubs(RUNNER), *self.stack.stubs(PROBE), *self.stack.stubs("conscientious-seashell")]
        return {self.stack.triton().pid, *(process.pid for process in stubs)}

    def is_right(self, client: Client) -> None:
        result = client.run("conscientious-seashell", self._input)
        assert result["success"], result
        np.testing.assert_allclose(result["outputs"][0], self._expected, atol=1e-3)

    def __enter__(self) -> Witness:
        self.client = self.stack.client()
        self.is_right(self.client)
        self.stack.wait_until_ready()
        self._before = self._processes()
        self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.is_right(self.client)
                time.sleep(0.3)
        finally:
            self._stop.set()
            self._watcher.join()
            self.client.close()
        if kind is None:
            assert self.looked and not self.not_ready, self.not_ready[:3]
            assert self._processes() == self._before
