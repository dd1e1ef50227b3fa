"""A server without a Triton, workers that each are a process tree of their own, and clients who compare every answer."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bioengine_server.settings import Settings
from bioengine_server.worker_side.run import JOINED

from tests.stack.harness import ROOT, Stack, bioengine, example_input, get, python, wait_for

MODELS = ("old-otter", "conscientious-seashell")


class WorkerBox(Stack):
    """`./bioengine worker`, as on a box of its own."""

    def __init__(self, url: str, folder: Path, name: str, token_file: Path, prefix: Sequence[str] = ()) -> None:
        """`prefix`: what begins the command, on another host."""
        arguments = (url, "--token-file", str(token_file), "--name", name)
        program = (*prefix, str(ROOT / "bioengine"))
        super().__init__(folder / name, *arguments, command="worker", wait=False, program=program)
        self.name = name

    @property
    def settings(self) -> Settings:
        (home,) = (self.home / "workers").iterdir()
        return Settings(home=home)

    def is_joined(self) -> bool:
        return (self.home / "workers").is_dir() and (self.settings.node_folder / JOINED).exists()


class Cluster:
    """A server and its workers."""

    def __init__(self, home: Path, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.server = Stack(home, "--workers-only", *arguments)
        self.token_file = folder / "worker.token"
        self.token_file.write_text(self.server.token("workers", "--worker"))
        self.boxes: dict[str, WorkerBox] = {}

    def add(self, name: str) -> WorkerBox:
        box = self.boxes[name] = WorkerBox(self.server.url, self.folder, name, self.token_file)
        box.start()
        return box

    def workers(self) -> dict[str, dict[str, Any]]:
        """What the server says of each."""
        found = json.loads(bioengine("workers", "--json", "--home", str(self.server.home)).stdout)
        return {each["name"]: each for each in found["workers"]}

    def ready(self) -> int:
        return int(get(f"{self.server.url}/health/readiness")[1].get("workers", 0))

    def wait_for_workers(self, number: int, seconds: float = 60) -> float:
        return wait_for(lambda: self.ready() == number, seconds, f"{number} workers")

    def stop(self) -> None:
        for box in self.boxes.values():
            if box.process is not None and box.process.poll() is None:
                box.process.send_signal(signal.SIGCONT)
                box.stop()
        if self.server.process is not None and self.server.process.poll() is None:
            self.server.stop()


class Load:
    """Clients of both generations who compare every answer."""

    def __init__(self, cluster: Cluster, packages: Path, of_each: int = 8) -> None:
        cases: dict[str, Any] = {"ids": " ".join(MODELS)}
        for id in MODELS:
            cases[f"{id}-input"], cases[f"{id}-output"] = (
                example_input(packages, id)[0],
                np.load(packages / id / "test_output.npy"),
            )
        file = cluster.folder / "cases.npz"
        np.savez(file, **cases)
        program = str(ROOT / "tests" / "stack" / "cluster_client.py")
        self._programs = [
            subprocess.Popen(
                [python(f"client-{library}"), program, library, cluster.server.url, str(of_each), str(file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # their libraries tell there how they connect again
                text=True,
            )
            for library in ("imjoy", "hypha")
        ]
        self.right = 0
        self.answered: set[tuple[int, int]] = set()
        self._callers = of_each * len(self._programs)

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        for program in self._programs:
            program.kill()
            program.wait()

    def told(self) -> tuple[list[str], float]:
        """The failures since the last time, and the longest time without a right answer, in seconds. No answer is wrong."""
        failures: list[str] = []
        gap = 0.0
        for number, program in enumerate(self._programs):
            assert program.stdin and program.stdout
            print("", file=program.stdin, flush=True)
            said = json.loads(program.stdout.readline())
            assert said["wrong"] == 0
            self.right += said["right"]
            self.answered |= {(number, caller) for caller in said["answered"]}
            failures += said["failures"]
            gap = max(gap, said["gap"])
        return failures, gap

    def has_all_callers(self) -> bool:
        """Whether each has had a right answer since `answered` was cleared."""
        self.told()
        return len(self.answered) == self._callers

    def survives(self, what: str, event: Callable[[], object], seconds: float = 6, most: float = 10) -> None:
        """No answer is lost when something happens, and right ones go on coming, with gaps of `most` seconds at most."""
        before = self.right
        event()
        time.sleep(seconds)
        failures, gap = self.told()
        print(f"{what}: {self.right - before} right answers, longest gap {gap:.1f} s, {len(failures)} failures")
        assert failures == [] and gap < most and self.right > before, (what, failures[:3], gap)
