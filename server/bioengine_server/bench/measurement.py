"""Measured values, how they compare with each other, and whether they are within their limits."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Unit = Literal["ms", "MB"]


@dataclass(frozen=True)
class Measurement:
    """One quantity, measured once in each round."""

    name: str
    unit: Unit
    values: tuple[float, ...]
    reference: Measurement | None = None
    """What it is compared with, measured in the same rounds."""
    limit: float | None = None
    """Of the median, in `unit`."""
    ratio_limit: float | None = None
    """Of the ratio to the reference."""
    added_limit: float | None = None
    """Of what it is above the reference, in `unit`."""
    cpu: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """CPU time in ms, of each round, by process."""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def best(self) -> float:
        return min(self.values)

    @property
    def ratio(self) -> float | None:
        """The ratio to the reference: the median over the rounds, so that a round that is slow as a whole does not matter."""
        if self.reference is None:
            return None
        return statistics.median(own / other for own, other in zip(self.values, self.reference.values, strict=True))

    @property
    def added(self) -> float | None:
        """The difference from the reference: the median over the rounds, in `unit`."""
        if self.reference is None:
            return None
        return statistics.median(own - other for own, other in zip(self.values, self.reference.values, strict=True))

    @property
    def exceeded(self) -> bool:
        judged = ((self.median, self.limit), (self.ratio, self.ratio_limit), (self.added, self.added_limit))
        return any(figure is not None and limit is not None and figure > limit for figure, limit in judged)


def is_trial(rounds: int) -> bool:
    """Whether a bench is for trying the command: one round shows that all works, and no figures to rely on."""
    return rounds == 1


def interleaved(
    cases: Mapping[str, Callable[[], float]], rounds: int, warm_up: int, rest: float = 0.0
) -> dict[str, tuple[float, ...]]:
    """Measure all cases in each round, so that noise affects them alike. Returns the values of each case, one for each round.

    Args:
        cases: for each name, a function that measures once.
        rounds: the number of rounds that count.
        warm_up: the number of rounds before them; not more than those that count.
        rest: seconds to wait before each measurement.
    """
    values: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    warm_up = min(warm_up, rounds)
    for number in range(warm_up + rounds):
        # In alternating order, so that no case always follows the same other one.
        for name in names if number % 2 else reversed(names):
            time.sleep(rest)
            value = cases[name]()
            if number >= warm_up:
                values[name].append(value)
    return {name: tuple(measured) for name, measured in values.items()}
