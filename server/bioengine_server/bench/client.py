"""Starts a client program (`callers.py`) and sends it images to run."""

from __future__ import annotations

import itertools
import json
import os
import select
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from bioengine_server.bench import callers
from bioengine_server.bench.errors import BenchFailed

_ECHO = "bench-echo"
_SEEDS = itertools.count()


def client_process(command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start a program that reads one request per line from stdin, and writes one answer per line to stdout."""
    # In a process group of its own, so that Ctrl-C reaches only this process; the client ends when its stdin is closed.
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


class Client:
    """A client in a process of its own; use it as a context manager."""

    def __init__(self, python: Path, kind: str, address: str, folder: Path) -> None:
        """
        Args:
            python: the interpreter of the library's environment.
            kind: one of `callers.KINDS`.
            address: a URL, host and port, or a folder, depending on the kind.
            folder: for its temporary files; ONNX Runtime leaves one behind.
        """
        self._command = [str(python), "-P", callers.__file__, kind, address]
        self._kind = kind
        self._environment = {**os.environ, "TMPDIR": str(folder)}
        self.cpu = 0.0
        """ms that its process worked in its last run."""

    def __enter__(self) -> Client:
        self._process = client_process(self._command, self._environment)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._process.kill()
        self._process.communicate()

    def echo(self, side: int) -> float:
        """Send an image of `side` x `side` float32, and compare what comes back. Returns milliseconds. Raises BenchFailed."""
        return self._run(_ECHO, (1, 1, side, side), next(_SEEDS), None)

    def predict(self, model: str, shape: Sequence[int], seed: int, output: Path) -> float:
        """Run a model on the random image of a `shape` and a `seed`, and save the output. Returns ms. Raises BenchFailed."""
        return self._run(model, shape, seed, output)

    def _run(self, model: str, shape: Sequence[int], seed: int, save: Path | None) -> float:
        assert self._process.stdin is not None and self._process.stdout is not None
        request = {"model": model, "shape": shape, "seed": seed, "save": None if save is None else str(save)}
        with suppress(BrokenPipeError):
            print(json.dumps(request), file=self._process.stdin, flush=True)
        if not select.select([self._process.stdout], [], [], callers.TIMEOUT)[0]:
            raise BenchFailed(self._kind, f"there was no answer within {callers.TIMEOUT} s")
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": "its process has ended"}
        if "error" in answer:
            raise BenchFailed(self._kind, answer["error"])
        self.cpu = float(answer["cpu"]) * 1000
        return float(answer["seconds"]) * 1000
