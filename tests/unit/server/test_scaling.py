"""The simulation of docs/scaling.md, small: it is the same each time, loses nothing, and routes as the pool does."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bioengine_server.bench.scaling import run
from bioengine_server.bench.scaling.report import plot, table
from bioengine_server.bench.scaling.routing import Router, Seat, rank
from bioengine_server.bench.scaling.scenario import CPU, GPU, Scenario
from bioengine_server.bench.scaling.simulation import simulate
from bioengine_server.dispatch import pool

TINY = Scenario(3, 12, CPU, seconds=60.0, settle=30.0, models=9)


def test_the_same_seed_gives_the_same_and_another_one_does_not() -> None:
    first, again, other = simulate(TINY), simulate(TINY), simulate(replace(TINY, seed=2))
    assert first == again and first.waits != other.waits


@pytest.mark.parametrize(
    "scenario",
    [
        TINY,
        replace(TINY, machine=GPU, workers=1, callers=40),
        replace(TINY, machine=GPU, workers=6, servers=2, callers=60),
        replace(TINY, machine=replace(GPU, models=1), workers=2),
    ],
)
def test_no_request_is_lost_and_nothing_works_more_than_always(scenario: Scenario) -> None:
    outcome = simulate(scenario)
    assert outcome.answered > 0 and 0 <= outcome.sent - outcome.answered <= scenario.callers
    assert 0 < outcome.loop <= 1 + 1e-9 and 0 < outcome.devices <= 1 + 1e-9
    assert min(outcome.waits) > 0 and outcome.wait(50) <= outcome.wait(95)


def test_one_request_alone_takes_what_its_steps_take() -> None:
    alone = replace(TINY, workers=1, callers=1, models=1, weight=0.0, hurried=0.0, pause=5.0)
    outcome = simulate(alone)
    pixels = [256**2, 1024**2, 2048**2]
    megabytes = [each * 4e-6 for each in pixels]
    loop = [2 * (0.001 + each * (alone.cpu_per_megabyte + alone.relay_per_megabyte)) for each in megabytes]
    ways = [2 * each * 1e6 / alone.network + 2 * each * alone.copy for each in megabytes]
    steps = [a + b + CPU.per_pixel * each for a, b, each in zip(loop, ways, pixels)]
    assert all(any(math.isclose(wait, each, rel_tol=1e-6) for each in steps) for wait in outcome.waits)


def test_the_loop_bounds_what_more_workers_can_do_and_several_servers_lift_it() -> None:
    busy = replace(TINY, machine=GPU, workers=8, callers=200, hurried=1.0)
    one, two = simulate(busy), simulate(replace(busy, servers=2))
    assert one.loop > 0.97 and one.devices < 0.5
    assert two.per_second > 1.5 * one.per_second


def test_more_workers_answer_more_where_computing_takes_long() -> None:
    slow = replace(TINY, callers=100, hurried=1.0)
    assert simulate(replace(slow, workers=12)).per_second > 2.5 * simulate(slow).per_second


def test_a_worker_more_moves_only_the_models_that_it_takes() -> None:
    def favourites(number: int) -> list[str]:
        router = Router([Seat(f"worker-{each}", 4, 20) for each in range(number)], 5.0)
        return [router.order(model)[0].name for model in range(300)]

    before, after = favourites(4), favourites(5)
    moved = [new for old, new in zip(before, after) if old != new]
    assert set(moved) == {"worker-4"} and 30 < len(moved) < 90
    assert rank("a", "b") == pool._rank("a", "b")


def test_a_full_favourite_is_passed_over_and_a_further_worker_loads_when_it_pays() -> None:
    seats = [Seat(f"worker-{each}", 2, 20) for each in range(3)]
    router = Router(seats, 5.0)
    first, second, third = router.order(7)
    assert router.choose(7, 0.0).seat is first
    first.ready_at[7] = 0.0
    first.in_flight[7] = 2
    assert router.choose(7, 1.0) == pytest.approx(router.choose(7, 5.9)) and not router.choose(7, 5.9).load
    assert [*router.choose(7, 6.1).load] == [second]
    second.ready_at[7] = 11.0
    assert router.choose(7, 8.0).seat is first
    assert router.choose(7, 12.0).seat is second
    assert third.ready_at == {}


def test_the_table_and_the_plot_have_every_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = [simulate(replace(TINY, workers=workers, callers=callers)) for workers in (1, 2) for callers in (3, 6)]
    assert len(table(outcomes).splitlines()) == 6
    picture = ElementTree.fromstring(plot(outcomes, "a & b"))
    assert len(picture.findall("{*}polyline")) == 2 and "a & b" in "".join(picture.itertext())
    monkeypatch.setattr(run, "grid", lambda seed: outcomes)
    monkeypatch.setattr(run, "beyond", lambda seed: [("four", outcomes[0])])
    monkeypatch.setattr(sys, "argv", ["run", "--plot", str(tmp_path / "plot.svg")])
    run.main()
    assert "| four |" in capsys.readouterr().out and (tmp_path / "plot.svg").stat().st_size > 1000
