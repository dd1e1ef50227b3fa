"""Which card a model is loaded on, and which of its copies runs a request, where there are several cards.

A model comes to the card that has most memory free. While all of its copies have several requests each, another one is loaded on
a card that has room for it without unloading anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bioengine_contract.operations import Card

# Requests that each copy of a model has before another one is worth its memory.
_BUSY = 2


class Placement:
    """The cards of one worker."""

    def __init__(self, allowed: frozenset[int]) -> None:
        """`allowed`: numbers of the cards that may be used; empty: all."""
        self._allowed = allowed
        self._cards: dict[int, Card] = {}
        self._promised: dict[int, int] = {}

    def learn(self, cards: Sequence[Card]) -> None:
        """Take what a worker reports of its cards. None are reported where the driver does not say: they are what they were."""
        if not cards:
            return
        self._cards = {card.index: card for card in cards if not self._allowed or card.index in self._allowed}
        self._promised = {}

    @property
    def cards(self) -> list[int]:
        """The numbers of the cards to choose from; empty where there is no choice."""
        return sorted(self._cards) if len(self._cards) > 1 or self._allowed else []

    def emptiest(self, but: Sequence[int] = ()) -> int | None:
        """The card with most memory free, but for some."""
        left = [card for card in self.cards if card not in but]
        return max(left, key=self.free, default=None)

    def free(self, card: int) -> int:
        """Bytes of a card that are free, and not promised to a model that is being loaded."""
        return self._cards[card].free - self._promised.get(card, 0)

    def promise(self, card: int, size: int) -> None:
        """Count bytes of a card as taken until the next report."""
        self._promised[card] = self._promised.get(card, 0) + size

    def choose(self, loaded: Sequence[int], requests: Callable[[int], int]) -> int | None:
        """The card whose copy of a model runs the next request; None where there is no choice.

        Args:
            loaded: the cards that have a copy.
            requests: of the copy on a card.
        """
        return min(loaded, key=requests) if loaded else self.emptiest()

    def further(self, loaded: Sequence[int], requests: Callable[[int], int], need: int) -> int | None:
        """The card that gets another copy of a model; None where none is needed, or none has room."""
        if not loaded or any(requests(card) < _BUSY for card in loaded):
            return None
        card = self.emptiest(but=loaded)
        return card if card is not None and self.free(card) >= need else None
