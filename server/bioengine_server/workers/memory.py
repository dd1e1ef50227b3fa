"""Memory of the host and of the cards."""

from __future__ import annotations

from dataclasses import dataclass

from bioengine_contract.operations import ModelProcess


@dataclass(frozen=True)
class Memory:
    """Bytes on the host, and on the cards."""

    host: int = 0
    cards: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.host + other.host, self.cards + other.cards)

    def __sub__(self, other: Memory) -> Memory:
        return Memory(self.host - other.host, self.cards - other.cards)

    @classmethod
    def of(cls, process: ModelProcess) -> Memory:
        """What a model's process holds."""
        return cls(process.memory, process.gpu_memory)
