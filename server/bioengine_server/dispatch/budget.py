"""How much memory models may hold, on the host and on the cards, and which of them make room for another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bioengine_contract.machine import machine_memory
from bioengine_contract.operations import Report
from bioengine_contract.package import Package

from bioengine_server.workers.memory import Memory

# What a model holds at rest, guessed for those that have not been measured yet: its process with its libraries, 250 to 300 MB on
# the host and 650 to 850 MB on a card, and so many times its weights.
_PROCESS = 350_000_000  # bytes
_PROCESS_ON_CARD = 850_000_000
_TIMES_WEIGHTS = 2

HOST_SETTING, CARDS_SETTING = "BIOENGINE_MEMORY_LIMIT", "BIOENGINE_GPU_MEMORY_LIMIT"

# Of the machine's memory, and of a card's; the rest is left to others.
_SHARE_OF_HOST, _SHARE_OF_CARDS = 0.75, 0.9

# A process that holds so much more than at rest, long after its last run, does not give it back.
_GROWN_TIMES, _GROWN_BYTES = 2.0, 1_000_000_000


class Budget:
    """The limits."""

    def __init__(self, host: int, cards: int) -> None:
        """
        Args:
            host: bytes that all models may hold (BIOENGINE_MEMORY_LIMIT); 0: three quarters of the machine's.
            cards: the same on all cards together (BIOENGINE_GPU_MEMORY_LIMIT); 0: nine tenths of what they have.
        """
        self._set = Memory(host, cards)
        self.limit = Memory(host or int(machine_memory() * _SHARE_OF_HOST), cards)
        """0 on the cards: there are none, as far as is known."""

    def learn(self, report: Report) -> None:
        """Take what a worker says of its machine; where it does not say, it is what it was."""
        host = int(report.memory * _SHARE_OF_HOST) or self.limit.host
        cards = int(sum(card.memory for card in report.cards) * _SHARE_OF_CARDS) or self.limit.cards
        self.limit = Memory(self._set.host or host, self._set.cards or cards)

    def need(self, package: Package, weight_formats: Sequence[str], known: Memory) -> Memory:
        """What a model will hold at rest: what it held before, or a guess by the size of its weights."""
        if known.host:
            return known
        weights = max((_size(package, name) for name in weight_formats[:1]), default=0)
        cards = _PROCESS_ON_CARD + _TIMES_WEIGHTS * weights if self.limit.cards else 0
        return Memory(_PROCESS + _TIMES_WEIGHTS * weights, cards)

    def exceeded(self, held: Memory) -> str:
        """The setting whose limit is exceeded by what is held; empty: none."""
        if held.host > self.limit.host:
            return HOST_SETTING
        return CARDS_SETTING if self.limit.cards and held.cards > self.limit.cards else ""

    def to_unload(self, held: Memory, idle: Iterable[tuple[str, Memory]]) -> list[str] | None:
        """Which models make room, so that nothing is exceeded any more; None where not even all of them do.

        Args:
            held: by all models, with what is to be loaded.
            idle: models that may be unloaded, in this order, and what each one holds.
        """
        names: list[str] = []
        for name, memory in idle:
            if not self.exceeded(held):
                break
            names.append(name)
            held = held - memory
        return None if self.exceeded(held) else names


def has_grown(now: Memory, at_rest: Memory) -> bool:
    """Whether a model's process holds so much more than at rest that another one is better."""
    pairs = ((now.host, at_rest.host), (now.cards, at_rest.cards))
    return any(holds > _GROWN_TIMES * held and holds - held > _GROWN_BYTES for holds, held in pairs if held)


def _size(package: Package, weight_format: str) -> int:
    weights = package.manifest.weights.get(weight_format)
    try:
        return sum((package.folder / name).stat().st_size for name in weights.files) if weights else 0
    except OSError:
        return 0  # it says itself what is wrong when it is opened
