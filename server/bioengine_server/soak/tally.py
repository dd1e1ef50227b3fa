"""What came of it all, and whether that is right."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from bioengine_server.soak.caller import NO_ANSWER, Outcome
from bioengine_server.soak.kills import MAX_RECOVERY, Kill
from bioengine_server.soak.watch import Growth, Sample, growths

# After a recovery: answers to what was asked for before it.
_AFTERWARDS = 2.0  # seconds


@dataclass(frozen=True)
class Tally:
    """A whole soak.

    Attributes:
        seed: of it.
        minutes: that it was to last.
        outcomes, kills, samples: in the order in which they came.
        started: in seconds of `time.monotonic`.
    """

    seed: int
    minutes: float
    started: float
    outcomes: Sequence[Outcome]
    kills: Sequence[Kill]
    samples: Sequence[Sample]
    grown: Sequence[Growth] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "grown", growths(self.samples))

    @property
    def wrong(self) -> list[Outcome]:
        """Answers that differ from the right ones."""
        return [each for each in self.outcomes if each.outcome == "wrong"]

    @property
    def unexpected(self) -> list[Outcome]:
        """What came out otherwise than it should, with nothing killed meanwhile: failed runs, bad input with another code."""
        return [
            each
            for each in self.outcomes
            if each.outcome not in (*each.action.right, "wrong") and (each.outcome == NO_ANSWER or not self._is_excused(each))
        ]

    @property
    def slow(self) -> list[Kill]:
        """Kills after which it took too long until all was well."""
        return [kill for kill in self.kills if kill.seconds > MAX_RECOVERY]

    @property
    def recovery(self) -> dict[str, float]:
        """The longest time that a kill of each kind took to heal, in seconds."""
        longest: dict[str, float] = {}
        for kill in self.kills:
            longest[kill.kind] = max(kill.seconds, longest.get(kill.kind, 0.0))
        return longest

    @property
    def by_kind(self) -> dict[str, Counter[str]]:
        """How often each outcome was, by kind of action."""
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for each in self.outcomes:
            counts[each.action.kind][each.outcome] += 1
        return dict(sorted(counts.items()))

    @property
    def longest_wait(self) -> float:
        """Seconds that a caller waited for an answer."""
        return max((each.ended - each.started for each in self.outcomes), default=0.0)

    @property
    def problems(self) -> list[str]:
        """What is not as it should be, a line for each."""
        return [
            *(f"wrong answer of {each.action.request['model_id']} to {each.caller}: {each.text}" for each in self.wrong),
            *(f"{each.action.kind}, {each.caller}: {each.outcome} ({each.text})" for each in self.unexpected),
            *(f"{kill.kind} was killed, and it took {kill.seconds:.1f} s until all was well" for kill in self.slow),
            *map(str, self.grown),
        ]

    def _is_excused(self, outcome: Outcome) -> bool:
        return any(outcome.ended >= kill.started and outcome.started <= kill.ended + _AFTERWARDS for kill in self.kills)
