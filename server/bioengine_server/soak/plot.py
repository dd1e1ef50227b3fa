"""A soak as a picture (SVG): what the stack held, and when something was killed."""

from __future__ import annotations

from collections.abc import Sequence

from bioengine_server import svg
from bioengine_server.soak.kills import KINDS
from bioengine_server.soak.tally import Tally
from bioengine_server.soak.watch import SERIES, Series

_WIDTH, _LEFT, _RIGHT, _TOP = 960, 78, 24, 64  # pixels
_HEIGHT, _GAP = 190, 56  # of a panel, and between two
_COLORS = ("#0b6cb3", "#d1495b", "#2e8b57", "#8a5fbf")
_KILL_COLORS = dict(zip(KINDS, ("#9db8a5", "#d9a441", "#222222")))
_MAX_LINES = 40  # for kills, from top to bottom; more of them are marks at the bottom

_PANELS: tuple[tuple[str, tuple[Series, ...]], ...] = (
    ("Memory, MB", tuple(SERIES[:4])),
    ("/dev/shm, MB", (SERIES[4],)),
    ("Of the server", tuple(SERIES[5:])),
)


def plot(tally: Tally) -> str:
    """The text of the SVG."""
    seconds = [sample.seconds for sample in tally.samples]
    end = max([*seconds, 1.0])
    height = _TOP + len(_PANELS) * (_HEIGHT + _GAP)
    command = f"bioengine soak --minutes {tally.minutes:g} --seed {tally.seed}"
    title = f"{command}: {len(tally.outcomes)} requests, {len(tally.kills)} kills"
    parts = [
        svg.text(_LEFT, 24, title, size=16),
        *svg.legend(_LEFT, 46, [(f"{kind} killed", color) for kind, color in _KILL_COLORS.items()], dashed=True),
    ]
    for number, (name, series) in enumerate(_PANELS):
        top = _TOP + number * (_HEIGHT + _GAP) + 24
        parts += _panel(name, series, tally, end, top)
    return svg.document(_WIDTH, height, parts)


def _panel(name: str, series: Sequence[Series], tally: Tally, end: float, top: float) -> list[str]:
    scale = [1e6 if each.is_bytes else 1.0 for each in series]
    lines = [
        [(sample.seconds, value / unit) for sample in tally.samples if (value := each.of(sample)) is not None]
        for each, unit in zip(series, scale)
    ]
    ticks = svg.ticks(max([value for line in lines for _, value in line] + [1.0]))
    bottom, highest = top + _HEIGHT, ticks[-1]

    def x(seconds: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * seconds / end, 1)

    def y(value: float) -> float:
        return round(bottom - _HEIGHT * value / highest, 1)

    parts = [svg.text(_LEFT, top - 8, name, size=14)]
    parts += svg.legend(_LEFT + 130, top - 12, [(each.name, color) for each, line, color in zip(series, lines, _COLORS) if line])
    for tick in ticks:
        parts.append(svg.line(_LEFT, y(tick), _WIDTH - _RIGHT, y(tick), svg.GRID))
        parts.append(svg.text(_LEFT - 8, y(tick) + 4, f"{tick:g}", anchor="end"))
    for tick in svg.ticks(end / 60):
        if tick * 60 <= end:
            parts.append(svg.text(x(tick * 60), bottom + 18, f"{tick:g} min", anchor="middle"))
    mark_top = top if len(tally.kills) <= _MAX_LINES else bottom - 10
    for kill in tally.kills:
        at = x(min(end, max(0.0, kill.started - tally.started)))
        parts.append(svg.line(at, mark_top, at, bottom, _KILL_COLORS[kill.kind], dashed=mark_top == top))
    for line, color in zip(lines, _COLORS):
        parts.append(svg.curve([(x(seconds), y(value)) for seconds, value in line], color))
    return parts
