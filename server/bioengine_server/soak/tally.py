"""The result of a soak test: wrong and unexpected answers, slow recoveries, and memory that grew."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from bioengine_server.soak.caller import NO_ANSWER, Outcome
from bioengine_server.soak.kills import MAX_RECOVERY, Kill
from bioengine_server.soak.watch import Growth, Sample, growths

# So long after a recovery, an answer may still be to a request from before it, and be an error because of the kill.
_AFTERWARDS = 2.0  # seconds


@dataclass(frozen=True)
class Tally:
    """A whole soak.

    Attributes:
        seed: from which the soak drew what its callers did and what was killed.
        minutes: how long it was meant to last.
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
        """Outcomes that are not right and that no kill explains, such as a failed run, or bad input with the wrong code."""
        return [
            each
            for each in self.outcomes
            if each.outcome not in (*each.action.right, "wrong") and (each.outcome == NO_ANSWER or not self._is_excused(each))
        ]

    @property
    def slow(self) -> list[Kill]:
        """Kills after which it took too long until everything worked again."""
        return [kill for kill in self.kills if kill.seconds > MAX_RECOVERY]

    @property
    def recovery(self) -> dict[str, float]:
        """For each kind of process that was killed, the longest time until everything worked again, in seconds."""
        longest: dict[str, float] = {}
        for kill in self.kills:
            longest[kill.kind] = max(kill.seconds, longest.get(kill.kind, 0.0))
        return longest

    @property
    def by_kind(self) -> dict[str, Counter[str]]:
        """How often each outcome occurred, for each kind of action."""
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for each in self.outcomes:
            counts[each.action.kind][each.outcome] += 1
        return dict(sorted(counts.items()))

    @property
    def longest_wait(self) -> float:
        """The longest time that a caller waited for an answer, in seconds."""
        return max((each.ended - each.started for each in self.outcomes), default=0.0)

    @property
    def problems(self) -> list[str]:
        """All that is not as it should be, one line for each."""
        return [
            *(f"wrong answer of {each.action.request['model_id']} to {each.caller}: {each.text}" for each in self.wrong),
            *(f"{each.action.kind}, {each.caller}: {each.outcome} ({each.text})" for each in self.unexpected),
            *(f"{kill.kind} was killed, and it took {kill.seconds:.1f} s until all was well" for kill in self.slow),
            *map(str, self.grown),
        ]

    def _is_excused(self, outcome: Outcome) -> bool:
        """Whether something was killed while the caller waited, or shortly before, which explains a failure."""
        return any(outcome.ended >= kill.started and outcome.started <= kill.ended + _AFTERWARDS for kill in self.kills)
