"""The report as Markdown: a summary, and a table with a line for each model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from bioengine_contract.version import VERSION

from bioengine_server.untrusted import printable
from bioengine_server.zoo.outcome import Outcome

_HEAD = ("model", "version", "formats", "runs as", "outcome", "own test", "tiles", "s", "MB", "reason")


def as_markdown(outcomes: Iterable[Outcome]) -> str:
    lines = sorted(outcomes, key=lambda outcome: (outcome.status != "runs", outcome.asked))
    counts = Counter(outcome.status for outcome in lines)
    run = counts.pop("runs", 0)
    others = "; ".join(f"{status}: {number}" for status, number in counts.most_common())
    rows = [_HEAD, ("---",) * len(_HEAD), *map(_row, lines)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"# Models on this server\n\nBioEngine {VERSION}: {run} of {len(lines)} models run here. {others}\n\n{table}\n"


def _row(outcome: Outcome) -> tuple[str, ...]:
    memory = "" if outcome.memory is None else f"{outcome.memory / 1e6:.0f}"
    cells = (outcome.id or outcome.asked, outcome.version, ", ".join(outcome.formats), outcome.way, outcome.status)
    more = (outcome.test, outcome.tiles, f"{outcome.seconds:.1f}", memory, outcome.reason)
    return tuple(map(_cell, (*cells, *more)))


def _cell(text: str) -> str:
    """Text of a package, as one cell: no line ends it, and none of it is HTML or a link."""
    plain = printable(" ".join(text.split())[:300])
    for character in "\\|<>[]`*_&":
        plain = plain.replace(character, f"\\{character}")
    return plain
