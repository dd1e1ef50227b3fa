"""Run the scenarios of docs/scaling.md: `python -m bioengine_server.bench.scaling.run [--seed N] [--plot FILE]`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from bioengine_server.bench.scaling.outcome import Outcome
from bioengine_server.bench.scaling.report import plot, seconds, table
from bioengine_server.bench.scaling.scenario import CPU, GPU, Scenario
from bioengine_server.bench.scaling.simulation import simulate

_WORKERS = (1, 2, 4, 8, 16, 32, 64)
_CALLERS = (10, 30, 100, 300, 1000)
_IN_TABLE = (1, 4, 16, 64), (10, 100, 1000)
# Clients of plain HTTP with MessagePack cost the server 12.5 ms for 4.2 MB there and back, not 31.
_PLAIN_HTTP = 0.0125 / 8.4


def grid(seed: int) -> list[Outcome]:
    """Every number of workers with every number of callers."""
    return [
        simulate(Scenario(workers, callers, machine, seed=seed))
        for machine in (CPU, GPU)
        for workers in _WORKERS
        for callers in _CALLERS
    ]


def beyond(seed: int) -> list[tuple[str, Outcome]]:
    """What moves the end of one server's loop: several servers, other clients, or models that compute longer."""
    base = Scenario(64, 1000, GPU, seed=seed)
    long = replace(GPU, base=GPU.base * 100, per_pixel=GPU.per_pixel * 100)
    scenarios = {
        "one server": base,
        "two servers": replace(base, servers=2),
        "four servers": replace(base, servers=4),
        "one server, plain HTTP": replace(base, cpu_per_megabyte=_PLAIN_HTTP),
        "four servers, plain HTTP": replace(base, servers=4, cpu_per_megabyte=_PLAIN_HTTP),
        "one server, models that compute 100 times as long": replace(base, machine=long),
        "one server, 4 workers": replace(base, workers=4),
        "one server, 4 workers, all models equally popular": replace(base, workers=4, exponent=0.0),
        "one server, 4 workers with room for 8 models": replace(base, workers=4, machine=replace(GPU, models=8)),
    }
    return [(name, simulate(scenario)) for name, scenario in scenarios.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="file for the plot, as SVG")
    arguments = parser.parse_args()
    outcomes = grid(arguments.seed)
    workers, callers = _IN_TABLE
    print(table([each for each in outcomes if each.scenario.workers in workers and each.scenario.callers in callers]))
    print()
    for name, each in beyond(arguments.seed):
        loads = each.loads / each.scenario.seconds * 60
        print(
            f"| {name} | {each.per_second:.1f} | {seconds(each.wait(50))} | {each.loop:.0%} | {each.devices:.0%} | {loads:.0f} |"
        )
    if arguments.plot:
        title = f"One server, 1 to 64 workers (simulated, seed {arguments.seed})"
        arguments.plot.write_text(plot(outcomes, title), encoding="utf-8")


if __name__ == "__main__":
    main()
