"""Which processes serve this Triton, and what came of them: one small file for each, in the run dir.

    processes/models/<Triton model>.json        a model's process
    processes/instances/<instance>.json         an instance of the runner itself

Each process writes its own, whole or not at all. It names pid and start time, so that a dead process is known as dead.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bioengine_contract.processes import Process

from bioengine_runner.rundir import Boot

logger = logging.getLogger(__name__)

MODELS, INSTANCES = "models", "instances"


@dataclass(frozen=True)
class Record:
    """What a process says of itself."""

    pid: int
    started: int
    fingerprint: str = ""
    """Of the package that a model's process was started for."""
    weight_format: str = ""
    """What it has opened; empty before."""
    device: str = ""
    details: str = ""
    """How it computes and why, for people: a fact on each line."""
    gpu_memory: int = 0
    """The bytes that it holds on a card, as it estimates itself."""
    problem: str = ""
    """Why it can open nothing, for users."""
    code: str = ""
    """Of that error."""
    before: list[list[int]] = field(default_factory=list)
    """Id and start time of earlier processes under the same name that were still alive."""

    @property
    def process(self) -> Process:
        return Process(self.pid, self.started)

    @property
    def is_usable(self) -> bool:
        """Whether it lives, and has opened its package or still may."""
        return not self.problem and self.process.is_alive()


class Records:
    """The records of one kind, of one start of Triton."""

    def __init__(self, boot: Boot, kind: str) -> None:
        self._folder = boot.processes / kind

    def begin(self, name: str, fingerprint: str = "") -> Record:
        """Have this process serve `name` from now on. Raises OSError."""
        process, last = Process.current(), self.get(name)
        earlier = [] if last is None else [*last.before, [last.pid, last.started]]
        before = [[pid, started] for pid, started in earlier if Process(pid, started).is_alive()]
        record = Record(process.pid, process.started, fingerprint, before=before)
        self._write(name, record)
        return record

    def opened(self, name: str, record: Record, weight_format: str, device: str, details: str = "", gpu_memory: int = 0) -> None:
        """The process can run its model, and holds so many bytes on a card. Raises OSError."""
        now = replace(record, weight_format=weight_format, device=device, details=details, gpu_memory=gpu_memory)
        self._write(name, now)

    def failed(self, name: str, record: Record, problem: str, code: str) -> None:
        """The process lives and cannot run its model. Raises OSError."""
        self._write(name, replace(record, problem=problem, code=code))

    def get(self, name: str) -> Record | None:
        """None for a file that is not there, or is no record: a model may write here. Raises OSError for others."""
        try:
            return Record(**_read(self._folder / f"{name}.json"))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            logger.warning("The record of %s cannot be read (%s)", name, error)
            return None

    def forget(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self._folder / f"{name}.json").unlink()

    def all(self) -> dict[str, Record]:
        """By name. Raises OSError."""
        found = {file.stem: self.get(file.stem) for file in self._folder.glob("*.json")}
        return {name: record for name, record in found.items() if record is not None}

    def _write(self, name: str, record: Record) -> None:
        beside = self._folder / f".{name}.{os.getpid()}"
        try:
            beside.write_text(json.dumps(asdict(record)), encoding="utf-8")
            os.replace(beside, self._folder / f"{name}.json")
        except OSError:
            beside.unlink(missing_ok=True)
            raise


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8")))
