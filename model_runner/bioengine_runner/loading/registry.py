"""Which models are loaded and which processes serve them: one SQLite file that all routers and models share.

One file for each start of Triton, so no row outlives what it speaks of; rows of processes name pid and start time, so a
dead one is known as dead. Changes to a model are made under that model's file lock: one load out of many, different
models side by side.
"""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bioengine_runner.loading.processes import Process
from bioengine_runner.rundir import Boot

_SCHEMA = """
CREATE TABLE IF NOT EXISTS models (
    name TEXT PRIMARY KEY,       -- of the Triton model
    package TEXT NOT NULL,       -- fingerprint of the package it was loaded from
    generation INTEGER NOT NULL, -- counts its loads
    error TEXT,                  -- why the load failed, NULL when it did not
    changed REAL NOT NULL        -- seconds since 1970
);
CREATE TABLE IF NOT EXISTS processes (
    owner TEXT PRIMARY KEY,      -- 'model:<name>' or 'router:<instance>'
    pid INTEGER NOT NULL,
    started INTEGER NOT NULL,
    weight_format TEXT,          -- what a model's process has opened
    device TEXT,                 -- and where it computes
    problem TEXT                 -- why it could open nothing
);
"""


@dataclass(frozen=True)
class LoadedModel:
    """What is known of a model's last load."""

    package: str
    generation: int
    error: str | None
    changed: float


class Registry:
    """The registry of one start of Triton, which `create` has made."""

    def __init__(self, boot: Boot) -> None:
        self._boot = boot
        # Autocommit: every statement here is a whole change.
        self._connection = sqlite3.connect(boot.registry, timeout=30, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA synchronous=OFF")

    @staticmethod
    def create(boot: Boot) -> None:
        """Make the file, before anybody opens it.

        Not by the first of those who do: of several at once, SQLite has one change the mode, and fails the others at once.
        """
        with contextlib.closing(sqlite3.connect(boot.registry)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # readers never wait for the writer
            connection.executescript(_SCHEMA)

    def model(self, name: str) -> LoadedModel | None:
        row = self._connection.execute(
            "SELECT package, generation, error, changed FROM models WHERE name = ?", (name,)
        ).fetchone()
        return None if row is None else LoadedModel(*row)

    def record_model(self, name: str, package: str, generation: int, error: str | None) -> None:
        self._connection.execute("REPLACE INTO models VALUES (?, ?, ?, ?, ?)", (name, package, generation, error, time.time()))

    def record_process(self, owner: str) -> None:
        """This process serves `owner` from now on."""
        process = Process.current()
        self._connection.execute(
            "REPLACE INTO processes (owner, pid, started) VALUES (?, ?, ?)", (owner, process.pid, process.started)
        )

    def record_opened(self, owner: str, weight_format: str, device: str) -> None:
        """The process of `owner` has opened weights of this format on this device."""
        self._connection.execute(
            "UPDATE processes SET weight_format = ?, device = ? WHERE owner = ?", (weight_format, device, owner)
        )

    def record_problem(self, owner: str, problem: str) -> None:
        """The process of `owner` lives and cannot run its model."""
        self._connection.execute("UPDATE processes SET problem = ? WHERE owner = ?", (problem, owner))

    def has_opened(self, owner: str) -> bool:
        """Whether the process of `owner` can run its model."""
        return self.opened(owner)["weight_format"] is not None

    def problem(self, owner: str) -> str | None:
        row = self._connection.execute("SELECT problem FROM processes WHERE owner = ?", (owner,)).fetchone()
        return None if row is None else row[0]

    def opened(self, owner: str) -> dict[str, str | None]:
        """What the process of `owner` computes with: its `weight_format` and `device`, None where that is not known."""
        row = self._connection.execute("SELECT weight_format, device FROM processes WHERE owner = ?", (owner,)).fetchone()
        return dict(zip(("weight_format", "device"), row or (None, None)))

    def process(self, owner: str) -> Process | None:
        row = self._connection.execute("SELECT pid, started FROM processes WHERE owner = ?", (owner,)).fetchone()
        return None if row is None else Process(*row)

    def forget_process(self, owner: str) -> None:
        self._connection.execute("DELETE FROM processes WHERE owner = ?", (owner,))

    def processes(self, kind: str) -> dict[str, Process]:
        """The processes whose owner begins with `kind`, by the rest of the owner's name."""
        rows = self._connection.execute("SELECT owner, pid, started FROM processes")
        prefix = f"{kind}:"
        return {owner.removeprefix(prefix): Process(pid, started) for owner, pid, started in rows if owner.startswith(prefix)}

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the lock of a Triton model; the system gives it back when this process dies."""
        self._boot.locks.mkdir(exist_ok=True)
        with open(self._boot.locks / name, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
