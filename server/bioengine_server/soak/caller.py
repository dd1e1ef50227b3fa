"""A client's process (`program.py`), as the soak uses it: started again when it has vanished."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bioengine_server.bench.client import client_process
from bioengine_server.bench.stack import CLIENT_ENVIRONMENTS
from bioengine_server.soak import program
from bioengine_server.soak.plan import Action

# A first load may come on top of what the program itself waits.
_PATIENCE = 2.0 * program.TIMEOUT  # seconds

NO_ANSWER = "no answer"
VANISHED = "vanished"


@dataclass(frozen=True)
class Outcome:
    """What came of an action.

    Attributes:
        caller: a kind of `program.KINDS`.
        action: what was done.
        outcome: as the program says it, or that it has vanished, or gave no answer.
        text: of an error.
        started, ended: in seconds of `time.monotonic`.
    """

    caller: str
    action: Action
    outcome: str
    text: str
    started: float
    ended: float


class Caller:
    """One client; close it at the end."""

    def __init__(self, kind: str, environments: Path, url: str, folder: Path) -> None:
        """
        Args:
            kind: one of `program.KINDS`.
            environments: folder of the environments.
            url: of the server.
            folder: for its temporary files.
        """
        self.kind = kind
        python = environments / CLIENT_ENVIRONMENTS.get(kind, "server") / "bin" / "python"
        self._command = [str(python), "-P", program.__file__, kind, url]
        self._environment = {**os.environ, "TMPDIR": str(folder)}
        self._process: subprocess.Popen[str] | None = None

    def do(self, action: Action) -> Outcome:
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        started = time.monotonic()
        with suppress(BrokenPipeError):
            print(json.dumps(action.told()), file=process.stdin, flush=True)
        line = process.stdout.readline() if select.select([process.stdout], [], [], _PATIENCE)[0] else None
        if line and action.then == "vanish":
            process.wait()  # it was answered before it vanished
        if line:
            answer = json.loads(line)
            return Outcome(self.kind, action, answer["outcome"], answer["text"], started, time.monotonic())
        outcome = VANISHED if line == "" and action.then == "vanish" else NO_ANSWER
        self.close()
        return Outcome(self.kind, action, outcome, "", started, time.monotonic())

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = client_process(self._command, self._environment)
        return self._process
