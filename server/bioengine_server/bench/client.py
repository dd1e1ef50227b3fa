"""A client process (`callers.py`), as the measurements use it."""

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
    """Start a program that takes requests on its stdin and answers on its stdout, a line each."""
    # Not of our process group, so that Ctrl-C reaches us alone; it ends when its stdin does.
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


class Client:
    """One client in a process of its own; open it as a context."""

    def __init__(self, python: Path, kind: str, address: str, folder: Path) -> None:
        """
        Args:
            python: of the library's environment.
            kind: one of `callers.KINDS`.
            address: a URL, or host and port, or a folder, as the kind has it.
            folder: for its temporary files; ONNX Runtime leaves one of its own.
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
        """Milliseconds for an image of `side` x `side` float32 there and back, compared. Raises BenchFailed."""
        return self._run(_ECHO, (1, 1, side, side), next(_SEEDS), None)

    def predict(self, model: str, shape: Sequence[int], seed: int, output: Path) -> float:
        """Milliseconds of a model's run on an image that `shape` and `seed` say; saves what it made of it. Raises BenchFailed."""
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
