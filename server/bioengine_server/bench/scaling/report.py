"""Outcomes as a table in Markdown, and as a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bioengine_server import svg
from bioengine_server.bench.scaling.outcome import Outcome

_WIDTH, _LEFT, _RIGHT, _TOP = 960, 60, 24, 84
_HEIGHT, _GAP = 230, 76  # of a panel, and between two
_COLORS = ("#0b6cb3", "#d1495b", "#2e8b57", "#8a5fbf", "#d9a441")


def table(outcomes: Sequence[Outcome]) -> str:
    """A line for each outcome."""
    lines = [
        "| workers | each on | callers | answers/s | median, s | 95 of 100 within, s | loop busy | devices busy | loads/min |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in outcomes:
        of = each.scenario
        cells = [
            str(of.workers),
            of.machine.name,
            str(of.callers),
            f"{each.per_second:.1f}",
            seconds(each.wait(50)),
            seconds(each.wait(95)),
            f"{each.loop:.0%}",
            f"{each.devices:.0%}",
            f"{each.loads / of.seconds * 60:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def seconds(value: float) -> str:
    """With two digits where that says more."""
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def plot(outcomes: Sequence[Outcome], title: str) -> str:
    """Answers a second by workers: a panel for each machine, a line for each number of callers. The text of the SVG."""
    machines = list(dict.fromkeys(each.scenario.machine.name for each in outcomes))
    callers = sorted({each.scenario.callers for each in outcomes})
    colors = dict(zip(callers, _COLORS))
    height = _TOP + len(machines) * (_HEIGHT + _GAP)
    parts = [svg.text(_LEFT, 24, title, size=16), *svg.legend(_LEFT, 48, [(f"{each} callers", colors[each]) for each in callers])]
    for number, machine in enumerate(machines):
        of_machine = [each for each in outcomes if each.scenario.machine.name == machine]
        parts += _panel(machine, of_machine, colors, _TOP + number * (_HEIGHT + _GAP) + 24)
    return svg.document(_WIDTH, height, parts)


def _panel(machine: str, outcomes: Sequence[Outcome], colors: dict[int, str], top: float) -> list[str]:
    workers = sorted({each.scenario.workers for each in outcomes})
    ticks = svg.ticks(max(each.per_second for each in outcomes))
    first, last, bottom = math.log2(workers[0]), math.log2(workers[-1]), top + _HEIGHT

    def x(count: int) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * (math.log2(count) - first) / max(last - first, 1e-9), 1)

    def y(value: float) -> float:
        return round(bottom - _HEIGHT * value / ticks[-1], 1)

    parts = [svg.text(_LEFT, top - 10, f"Answers per second, workers with {machine} each", size=14)]
    for tick in ticks:
        parts += [svg.line(_LEFT, y(tick), _WIDTH - _RIGHT, y(tick), svg.GRID)]
        parts += [svg.text(_LEFT - 8, y(tick) + 4, f"{tick:g}", anchor="end")]
    parts += [svg.text(x(count), bottom + 18, f"{count}", anchor="middle") for count in workers]
    parts += [svg.text((_WIDTH + _LEFT - _RIGHT) / 2, bottom + 36, "workers", anchor="middle")]
    for callers, color in colors.items():
        line = sorted((each.scenario.workers, each.per_second) for each in outcomes if each.scenario.callers == callers)
        parts.append(svg.curve([(x(count), y(value)) for count, value in line], color))
    return parts
