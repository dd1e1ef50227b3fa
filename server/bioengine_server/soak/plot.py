"""A soak as a picture (SVG): what the stack held, and when something was killed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from bioengine_server.soak.kills import KINDS
from bioengine_server.soak.tally import Tally
from bioengine_server.soak.watch import SERIES, Series

_WIDTH, _LEFT, _RIGHT, _TOP = 960, 78, 24, 64  # pixels
_HEIGHT, _GAP = 190, 56  # of a panel, and between two
_COLORS = ("#0b6cb3", "#d1495b", "#2e8b57", "#8a5fbf")
_KILL_COLORS = dict(zip(KINDS, ("#9db8a5", "#d9a441", "#222222")))
_MAX_LINES = 40  # for kills, from top to bottom; more of them are marks at the bottom
_TEXT, _GRID = "#333333", "#e2e2e2"

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
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        _text(_LEFT, 24, title, size=16),
        *_legend(_LEFT, 46, [(f"{kind} killed", color) for kind, color in _KILL_COLORS.items()], dashed=True),
    ]
    for number, (name, series) in enumerate(_PANELS):
        top = _TOP + number * (_HEIGHT + _GAP) + 24
        parts += _panel(name, series, tally, end, top)
    return "\n".join([*parts, "</svg>\n"])


def _panel(name: str, series: Sequence[Series], tally: Tally, end: float, top: float) -> list[str]:
    scale = [1e6 if each.is_bytes else 1.0 for each in series]
    lines = [
        [(sample.seconds, value / unit) for sample in tally.samples if (value := each.of(sample)) is not None]
        for each, unit in zip(series, scale)
    ]
    ticks = _ticks(max([value for line in lines for _, value in line] + [1.0]))
    bottom, highest = top + _HEIGHT, ticks[-1]

    def x(seconds: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * seconds / end, 1)

    def y(value: float) -> float:
        return round(bottom - _HEIGHT * value / highest, 1)

    parts = [_text(_LEFT, top - 8, name, size=14)]
    parts += _legend(_LEFT + 130, top - 12, [(each.name, color) for each, line, color in zip(series, lines, _COLORS) if line])
    for tick in ticks:
        parts.append(_line(_LEFT, y(tick), _WIDTH - _RIGHT, y(tick), _GRID))
        parts.append(_text(_LEFT - 8, y(tick) + 4, f"{tick:g}", anchor="end"))
    for tick in _ticks(end / 60):
        if tick * 60 <= end:
            parts.append(_text(x(tick * 60), bottom + 18, f"{tick:g} min", anchor="middle"))
    mark_top = top if len(tally.kills) <= _MAX_LINES else bottom - 10
    for kill in tally.kills:
        at = x(min(end, max(0.0, kill.started - tally.started)))
        parts.append(_line(at, mark_top, at, bottom, _KILL_COLORS[kill.kind], dashed=mark_top == top))
    for line, color in zip(lines, _COLORS):
        points = " ".join(f"{x(seconds)},{y(value)}" for seconds, value in line)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.8"/>')
    return parts


def _legend(left: float, middle: float, names: Sequence[tuple[str, str]], dashed: bool = False) -> list[str]:
    parts = []
    for name, color in names:
        parts += [_line(left, middle, left + 22, middle, color, dashed, width=2.5), _text(left + 28, middle + 4, name)]
        left += 50 + 7 * len(name)
    return parts


def _ticks(highest: float) -> list[float]:
    """From 0 to at least `highest`, round numbers."""
    rough = max(highest, 1e-9) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [number * step for number in range(math.ceil(highest / step) + 1)]


def _line(left: float, top: float, right: float, bottom: float, color: str, dashed: bool = False, width: float = 1.0) -> str:
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<line x1="{left}" y1="{top}" x2="{right}" y2="{bottom}" stroke="{color}" stroke-width="{width}"{dashes}/>'


def _text(left: float, baseline: float, text: str, size: int = 13, anchor: str = "start") -> str:
    return f'<text x="{left}" y="{baseline}" font-size="{size}" fill="{_TEXT}" text-anchor="{anchor}">{escape(text)}</text>'
