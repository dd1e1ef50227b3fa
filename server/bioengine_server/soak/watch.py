"""What a stack holds, looked at all the while: memory, shared memory, descriptors, threads."""

from __future__ import annotations

import contextlib
import glob
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from bioengine_server.bench.stack import BenchStack, pss
from bioengine_server.errors import StackError

_SHARED_MEMORY = Path("/dev/shm")
_CARD = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
_PATIENCE = 5.0  # seconds


@dataclass(frozen=True)
class Sample:
    """One look.

    Attributes:
        seconds: since the first one.
        server, triton, models: bytes (PSS) of the server's process, of Triton with the model runner, and of models' processes.
        card: bytes in use on all cards, whoever's; None without a card.
        shared: bytes of the stack's files in /dev/shm.
        descriptors, threads: of the server's process.
    """

    seconds: float
    server: int
    triton: int
    models: int
    card: int | None
    shared: int
    descriptors: int
    threads: int

    def as_json(self) -> dict[str, float | None]:
        return asdict(self)


@dataclass(frozen=True)
class Series:
    """One thing that is looked at.

    Attributes:
        name: in the report.
        of: its value in a sample.
        share, more: how much it may grow in the second half of a soak, as a share of what it was, and in its own unit beside.
        is_bytes: or a number.
    """

    name: str
    of: Callable[[Sample], float | None]
    share: float
    more: float
    is_bytes: bool = True

    def values(self, samples: Sequence[Sample]) -> list[float]:
        return [value for sample in samples if (value := self.of(sample)) is not None]

    def text(self, value: float) -> str:
        return f"{value / 1e6:.0f} MB" if self.is_bytes else f"{value:.0f}"


# A tenth, and what comes and goes: in the server what it keeps for the next image (`bioengine_server.memory`), in Triton the
# instances of a model runner that has been replaced, and of the models those that were killed or have just run a large image.
SERIES = [
    Series("memory of the server", lambda sample: sample.server, 0.1, 64e6),
    Series("memory of Triton", lambda sample: sample.triton, 0.1, 192e6),
    Series("memory of models", lambda sample: sample.models, 0.1, 256e6),
    Series("memory of the cards", lambda sample: sample.card, 0.1, 512e6),
    Series("/dev/shm", lambda sample: sample.shared, 0.1, 128e6),
    Series("descriptors of the server", lambda sample: sample.descriptors, 0.1, 16, is_bytes=False),
    Series("threads of the server", lambda sample: sample.threads, 0.0, 4, is_bytes=False),
]


@dataclass(frozen=True)
class Growth:
    """What grew in the second half, from the median of its first part to that of its last part."""

    series: Series
    start: float
    end: float

    def __str__(self) -> str:
        return f"{self.series.name} grew from {self.series.text(self.start)} to {self.series.text(self.end)}"


# In the first minutes, models are still being loaded for the first time.
JUDGED_FROM = 120.0  # seconds


def is_judged(samples: Sequence[Sample]) -> bool:
    """Whether they are of a time that says something about growth."""
    return bool(samples) and samples[-1].seconds >= JUDGED_FROM


def growths(samples: Sequence[Sample]) -> list[Growth]:
    """What grew by more than it may."""
    if not is_judged(samples):
        return []
    found = []
    for series in SERIES:
        values = series.values(samples)
        half = values[len(values) // 2 :]
        if len(half) < 4:
            continue
        start, end = statistics.median(half[: len(half) // 2]), statistics.median(half[len(half) // 2 :])
        if end > start * (1 + series.share) + series.more:
            found.append(Growth(series, start, end))
    return found


class Watch:
    """Looks at a stack."""

    def __init__(self, stack: BenchStack) -> None:
        self._stack = stack
        self._started = time.monotonic()
        self._has_card = True
        self.samples: list[Sample] = []

    def run(self, over: threading.Event, interval: float) -> None:
        """Look each `interval` seconds, until `over`. Raises StackError."""
        while not over.wait(interval):
            self.look()

    def look(self) -> None:
        """Raises StackError where there is no server any more."""
        try:
            self.samples.append(self._sample(psutil.Process(self._stack.pid)))
        except psutil.NoSuchProcess as error:
            raise StackError("The server ended by itself in the middle of the soak. `./bioengine up` may show why.") from error

    def _sample(self, server: psutil.Process) -> Sample:
        groups = self._stack.processes()
        return Sample(
            seconds=time.monotonic() - self._started,
            server=pss([server]),
            triton=_pss(groups["Triton"] + groups["runner"]),
            models=_pss(groups["models"]),
            card=self._card(),
            shared=shared_memory(self._stack.settings.shm_prefix),
            descriptors=server.num_fds(),
            threads=server.num_threads(),
        )

    def _card(self) -> int | None:
        if not self._has_card:
            return None
        try:
            answer = subprocess.run(_CARD, capture_output=True, text=True, timeout=_PATIENCE, check=True)
            return sum(int(line) << 20 for line in answer.stdout.split())
        except (OSError, subprocess.SubprocessError, ValueError):
            self._has_card = False
            return None


def _pss(pids: Sequence[int]) -> int:
    processes = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(pid))
    return pss(processes)


def shared_memory(prefix: str) -> int:
    """Bytes of files below /dev/shm that have a name of the stack's. They may go while it looks, folders too."""
    total = 0
    tops = glob.glob(f"{prefix}*", root_dir=_SHARED_MEMORY)
    for name in {*tops, *glob.glob(f"{prefix}*/**", root_dir=_SHARED_MEMORY, recursive=True)}:
        with contextlib.suppress(OSError):
            total += (_SHARED_MEMORY / name).lstat().st_blocks * 512
    return total
