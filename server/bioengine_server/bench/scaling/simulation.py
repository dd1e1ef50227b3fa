"""The simulation: discrete events, one after the other, from a seed.

caller -> server's loop -> queue -> worker: loaded? -> network -> compute -> network -> server's loop -> caller

The loop and a worker's device do one thing at a time, in the order of arrival; a network is as fast for one as for many.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from bioengine_server.bench.scaling.outcome import Outcome
from bioengine_server.bench.scaling.routing import Router, Seat
from bioengine_server.bench.scaling.scenario import MEGABYTE, Image, Scenario, Zoo


class Line:
    """Does one thing after the other."""

    def __init__(self) -> None:
        self._free_at = 0.0
        self._spans: list[tuple[float, float]] = []

    def take(self, now: float, seconds: float) -> float:
        """When what is begun now, or after all that came before, is done."""
        begin = max(now, self._free_at)
        self._free_at = begin + seconds
        self._spans.append((begin, self._free_at))
        return self._free_at

    def used(self, begin: float, end: float) -> float:
        """The share of this time that it was at work."""
        return sum(max(0.0, min(last, end) - max(first, begin)) for first, last in self._spans) / (end - begin)


@dataclass(frozen=True)
class Request:
    caller: int
    model: int
    image: Image
    sent: float


@dataclass
class Worker:
    seat: Seat
    device: Line = field(default_factory=Line)
    copied: set[int] = field(default_factory=set)  # packages in its own store


class Server:
    """One server with its workers."""

    def __init__(self, scenario: Scenario, number: int) -> None:
        names = [f"worker-{each}" for each in range(scenario.workers) if each % scenario.servers == number]
        seats = [Seat(name, scenario.places, scenario.machine.models) for name in names]
        self.workers = {seat.name: Worker(seat) for seat in seats}
        self.router = Router(seats, scenario.machine.load)
        self.loop = Line()
        self.waiting: list[Request] = []
        self.running: Counter[int] = Counter()
        self._most, self._most_of_model = scenario.concurrency * len(seats), scenario.model_concurrency * len(seats)

    def next(self) -> Request | None:
        """Who has waited longest of those whose turn it may be."""
        if self.running.total() >= self._most:
            return None
        turn = (number for number, each in enumerate(self.waiting) if self.running[each.model] < self._most_of_model)
        return None if (found := next(turn, None)) is None else self.waiting.pop(found)


class Simulation:
    """One scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._random = np.random.default_rng(scenario.seed)
        self._zoo = Zoo(scenario, self._random)
        self._now, self._number = 0.0, itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._servers = [Server(scenario, number) for number in range(scenario.servers)]
        self._models = [self._zoo.model() for _ in range(scenario.callers)]
        self._outcome = Outcome(scenario)

    def run(self) -> Outcome:
        """From the beginning to the end."""
        scenario = self._scenario
        for caller in range(scenario.callers):
            self._at(float(self._random.uniform(0.0, scenario.pause)), partial(self._send, caller))
        end = scenario.settle + scenario.seconds
        while self._events and self._events[0][0] <= end:
            self._now, _, happen = heapq.heappop(self._events)
            happen()
        devices = [worker.device.used(scenario.settle, end) for server in self._servers for worker in server.workers.values()]
        self._outcome.devices = float(np.mean(devices))
        self._outcome.loop = max(server.loop.used(scenario.settle, end) for server in self._servers)
        return self._outcome

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._number), happen))  # of two at one time, the first scheduled comes first

    def _send(self, caller: int) -> None:
        if self._random.random() < 1 / self._scenario.session:
            self._models[caller] = self._zoo.model()
        request = Request(caller, self._models[caller], self._zoo.image(), self._now)
        server = self._servers[request.model % len(self._servers)]
        self._outcome.sent += 1
        self._at(server.loop.take(self._now, self._loop_seconds(request)), partial(self._arrive, server, request))

    def _arrive(self, server: Server, request: Request) -> None:
        server.waiting.append(request)
        self._dispatch(server)

    def _dispatch(self, server: Server) -> None:
        while (request := server.next()) is not None:
            server.running[request.model] += 1
            choice = server.router.choose(request.model, self._now)
            for seat in (choice.seat, *choice.load):
                if request.model not in seat.ready_at:
                    self._load(server.workers[seat.name], request.model)
            seat = choice.seat
            seat.in_flight[request.model] = seat.in_flight.get(request.model, 0) + 1
            seat.used[request.model] = self._now
            begin = max(self._now + self._way(request), seat.ready_at[request.model])
            self._at(begin, partial(self._compute, server, server.workers[seat.name], request))

    def _load(self, worker: Worker, model: int) -> None:
        seat = worker.seat
        idle = [each for each in seat.ready_at if not seat.in_flight.get(each)]
        if not seat.has_room and idle:
            del seat.ready_at[min(idle, key=lambda each: seat.used.get(each, 0.0))]
        copy = 0.0 if model in worker.copied else self._zoo.package(model) / self._scenario.store_network
        worker.copied.add(model)
        seat.ready_at[model] = self._now + copy + self._scenario.machine.load
        self._outcome.loads += self._now > self._scenario.settle

    def _compute(self, server: Server, worker: Worker, request: Request) -> None:
        machine, pixels = self._scenario.machine, request.image.pixels
        seconds = (machine.base + machine.per_pixel * pixels) * self._zoo.weight(request.model)
        done = worker.device.take(self._now, seconds)
        # The process that copies an image is not the device: other images are computed meanwhile.
        copying = 2 * request.image.megabytes * self._scenario.copy
        self._at(done + copying + self._way(request), partial(self._finish, server, worker, request))

    def _finish(self, server: Server, worker: Worker, request: Request) -> None:
        worker.seat.in_flight[request.model] -= 1
        server.running[request.model] -= 1
        self._at(server.loop.take(self._now, self._loop_seconds(request)), partial(self._answer, request))
        self._dispatch(server)

    def _answer(self, request: Request) -> None:
        scenario = self._scenario
        self._outcome.answered += 1
        if self._now > scenario.settle:
            self._outcome.waits.append(self._now - request.sent)
        hurried = request.caller < scenario.hurried * scenario.callers
        pause = 0.0 if hurried else float(self._random.exponential(scenario.pause))
        self._at(self._now + pause, partial(self._send, request.caller))

    def _way(self, request: Request) -> float:
        """Seconds on the network, in one direction."""
        return request.image.megabytes * MEGABYTE / self._scenario.network

    def _loop_seconds(self, request: Request) -> float:
        """Of the server's loop, in one direction."""
        each = self._scenario.cpu_per_megabyte + self._scenario.relay_per_megabyte
        return self._scenario.cpu_per_request / 2 + request.image.megabytes * each


def simulate(scenario: Scenario) -> Outcome:
    """Run a scenario. The same scenario, the same outcome."""
    return Simulation(scenario).run()
