"""The parts of a plot, as text of SVG. Lengths are pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

GRID = "#e2e2e2"
_TEXT = "#333333"


def document(width: float, height: float, parts: Sequence[str]) -> str:
    """The whole file."""
    begin = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    return "\n".join([*begin, *parts, "</svg>\n"])


def legend(left: float, middle: float, names: Sequence[tuple[str, str]], dashed: bool = False) -> list[str]:
    """Names with their colors, side by side."""
    parts = []
    for name, color in names:
        parts += [line(left, middle, left + 22, middle, color, dashed, width=2.5), text(left + 28, middle + 4, name)]
        left += 50 + 7 * len(name)
    return parts


def ticks(highest: float) -> list[float]:
    """From 0 to at least `highest`, round numbers."""
    rough = max(highest, 1e-9) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [number * step for number in range(math.ceil(highest / step) + 1)]


def curve(points: Sequence[tuple[float, float]], color: str) -> str:
    """A line through points (x, y)."""
    through = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{through}" fill="none" stroke="{color}" stroke-width="1.8"/>'


def line(left: float, top: float, right: float, bottom: float, color: str, dashed: bool = False, width: float = 1.0) -> str:
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<line x1="{left}" y1="{top}" x2="{right}" y2="{bottom}" stroke="{color}" stroke-width="{width}"{dashes}/>'


def text(left: float, baseline: float, text: str, size: int = 13, anchor: str = "start") -> str:
    return f'<text x="{left}" y="{baseline}" font-size="{size}" fill="{_TEXT}" text-anchor="{anchor}">{escape(text)}</text>'
