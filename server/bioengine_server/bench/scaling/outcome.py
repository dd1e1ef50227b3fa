"""What came of a simulation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bioengine_server.bench.scaling.scenario import Scenario


@dataclass
class Outcome:
    """
    Attributes:
        sent, answered: requests, from the beginning; at most one of each caller is unanswered at the end.
        waits: seconds from a request to its answer, after the simulation had settled.
        loads: of models, in that time.
        loop, devices: shares of that time that the busiest server's loop, and the workers' devices, were at work.
    """

    scenario: Scenario
    sent: int = 0
    answered: int = 0
    waits: list[float] = field(default_factory=list)
    loads: int = 0
    loop: float = 0.0
    devices: float = 0.0

    @property
    def per_second(self) -> float:
        """Answers."""
        return len(self.waits) / self.scenario.seconds

    def wait(self, percentile: float) -> float:
        """Seconds until so many of a hundred requests had their answer; nan if there were none."""
        return float(np.percentile(self.waits, percentile)) if self.waits else float("nan")
