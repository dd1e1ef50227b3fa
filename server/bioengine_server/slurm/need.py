"""How many workers are needed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection

from bioengine_server.slurm.server import Figures

USUAL_PLACES = 4
"""Of a worker, until one of the loop's own has joined and said how many it has (BIOENGINE_PLACES)."""


def needed_now(figures: Figures, jobs: Collection[str]) -> int:
    """How many jobs the server's requests need, beside workers that are not the loop's.

    Args:
        figures: of the server.
        jobs: ids of the loop's jobs.
    """
    own = [worker for worker in figures.workers if any(worker.is_of(job) for job in jobs)]
    others = sum(worker.places for worker in figures.workers if worker not in own and not worker.draining)
    places = max((worker.places for worker in own), default=USUAL_PLACES)
    return math.ceil(max(0, figures.waiting + figures.running - others) / places)


class Need:
    """How many workers there shall be: as many as were needed at any moment of the last while, within bounds.

    So workers are added at once, and given up only when they were not needed for that long.
    """

    def __init__(self, minimum: int, maximum: int, idle: float) -> None:
        self._minimum, self._maximum, self._idle = minimum, maximum, idle
        self._seen: deque[tuple[float, int]] = deque()  # times, and what was needed then; each more than all that follow

    def see(self, needed: int, now: float) -> None:
        """What is needed now."""
        while self._seen and self._seen[-1][1] <= needed:
            self._seen.pop()
        self._seen.append((now, needed))
        while self._seen[0][0] < now - self._idle:
            self._seen.popleft()

    @property
    def workers(self) -> int:
        return min(self._maximum, max(self._minimum, self._seen[0][1] if self._seen else 0))
