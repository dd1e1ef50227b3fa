"""A client process (`callers.py`), as the measurements use it."""

from __future__ import annotations

import itertools
import json
import select
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from bioengine_server.bench import callers
from bioengine_server.errors import BenchFailed

_SEEDS = itertools.count()


class EchoClient:
    """One client in a process of its own; open it as a context."""

    def __init__(self, python: Path, kind: str, address: str) -> None:
        """
        Args:
            python: of the library's environment.
            kind: one of `callers.KINDS`.
            address: a URL, or host and port, as the kind has it.
        """
        self._command = [str(python), "-P", callers.__file__, kind, address]
        self._kind = kind

    def __enter__(self) -> EchoClient:
        # Not of our process group, so that Ctrl-C reaches us alone; it ends when its stdin does.
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._process.kill()
        self._process.communicate()

    def echo(self, side: int) -> float:
        """Milliseconds for an image of `side` x `side` float32 there and back, compared. Raises BenchFailed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            print(json.dumps({"side": side, "seed": next(_SEEDS)}), file=self._process.stdin, flush=True)
        if not select.select([self._process.stdout], [], [], callers.TIMEOUT)[0]:
            raise BenchFailed(self._kind, f"there was no answer within {callers.TIMEOUT} s")
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": "its process has ended"}
        if "error" in answer:
            raise BenchFailed(self._kind, answer["error"])
        if not answer["equal"]:
            raise BenchFailed(self._kind, "what came back differs from what was sent")
        return float(answer["seconds"]) * 1000
