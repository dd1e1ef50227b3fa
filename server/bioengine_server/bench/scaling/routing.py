"""Which worker gets a request: the rules of `dispatch/pool.py`, on plain figures.

Each model has an order of all workers of its own (rendezvous hashing), so that a worker more or less moves few models. The first
one that has the model loaded and a place takes the request. If all places are taken for as long as loading takes, another worker
loads the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b


@dataclass
class Seat:
    """A worker, as the server sees it.

    Attributes:
        room: how many models it holds without another having to go.
        in_flight: requests that it was given, by model.
        ready_at: when each of its models is loaded, or will be.
        used: when each was last given a request.
    """

    name: str
    places: int
    room: int
    in_flight: dict[int, int] = field(default_factory=dict)
    ready_at: dict[int, float] = field(default_factory=dict)
    used: dict[int, float] = field(default_factory=dict)

    @property
    def carried(self) -> int:
        return sum(self.in_flight.values())

    def has(self, model: int, now: float) -> bool:
        return self.ready_at.get(model, float("inf")) <= now

    @property
    def has_room(self) -> bool:
        return len(self.ready_at) < self.room


@dataclass(frozen=True)
class Choice:
    """
    Attributes:
        seat: who gets the request.
        load: who else begins to load the model.
    """

    seat: Seat
    load: Sequence[Seat] = ()


class Router:
    """Of one server."""

    def __init__(self, seats: Sequence[Seat], load_seconds: float) -> None:
        self._seats, self._load_seconds = seats, load_seconds
        self._orders: dict[int, list[Seat]] = {}
        self._full_since: dict[int, float] = {}

    def choose(self, model: int, now: float) -> Choice:
        """The worker that runs a request for a model now."""
        ranked = self.order(model)
        have = [seat for seat in ranked if seat.has(model, now)]
        if not have:
            loading = (seat for seat in ranked if model in seat.ready_at)
            with_room = (seat for seat in ranked if seat.has_room)
            return Choice(next(loading, None) or next(with_room, None) or ranked[0])
        load = [ranked[0]] if model not in ranked[0].ready_at and ranked[0].has_room else []
        if free := [seat for seat in have if seat.carried < seat.places]:
            self._full_since.pop(model, None)
            return Choice(free[0], load)
        if now - self._full_since.setdefault(model, now) >= self._load_seconds:
            load += [seat for seat in ranked if seat not in have][:1]
        more = [seat for seat in load if model not in seat.ready_at and seat.has_room]
        return Choice(min(have, key=lambda seat: seat.carried / seat.places), more)

    def order(self, model: int) -> list[Seat]:
        """All workers in the order in which this model prefers them."""
        if model not in self._orders:
            self._orders[model] = sorted(self._seats, key=lambda seat: rank(seat.name, f"model-{model}"))
        return self._orders[model]


def rank(worker: str, model: str) -> bytes:
    """The least comes first; as in `dispatch/pool.py`."""
    return blake2b(f"{worker}\0{model}".encode(), digest_size=8).digest()
