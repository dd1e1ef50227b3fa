"""A soak for people, as text, and for programs, as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Sequence

from rich.table import Table

from bioengine_server.soak.kills import MAX_RECOVERY
from bioengine_server.soak.tally import Tally
from bioengine_server.soak.watch import JUDGED_FROM, SERIES, is_judged

_MOST_SHOWN = 20  # problems
_BARS = "▁▂▃▄▅▆▇█"
_COLUMNS = 40  # of a line of bars


def outcomes_table(tally: Tally) -> Table:
    """What came of each kind of action; outcomes that are as they should be stand first."""
    result = Table("action", "requests", "outcomes", box=None, pad_edge=False, header_style="bold")
    for kind, counts in tally.by_kind.items():
        told = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
        result.add_row(kind, str(counts.total()), told)
    return result


def kills_table(tally: Tally) -> Table:
    result = Table("killed", "times", "well again after, at most", box=None, pad_edge=False, header_style="bold")
    for kind, seconds in tally.recovery.items():
        times = sum(kill.kind == kind for kill in tally.kills)
        result.add_row(kind, str(times), f"{seconds:.1f} s of {MAX_RECOVERY:g} s")
    return result


def series_table(tally: Tally) -> Table:
    """What the stack held: at the start, in the middle and at the end of the soak, and all the while."""
    result = Table(box=None, pad_edge=False, header_style="bold")
    result.add_column("held", no_wrap=True)
    for column in ("first", "middle", "last", "most"):
        result.add_column(column, justify="right", no_wrap=True)
    result.add_column("over time, from 0", no_wrap=True)
    for series in SERIES:
        if values := series.values(tally.samples):
            told = (values[0], values[len(values) // 2], values[-1], max(values))
            result.add_row(series.name, *map(series.text, told), bars(values))
    return result


def bars(values: Sequence[float]) -> str:
    """A line of bars, each the largest of its part of the values."""
    columns, highest = min(_COLUMNS, len(values)), max(*values, 1e-9)
    parts = (values[number * len(values) // columns : (number + 1) * len(values) // columns] for number in range(columns))
    return "".join(_BARS[min(len(_BARS) - 1, int(max(part) / highest * len(_BARS)))] for part in parts)


def summary(tally: Tally) -> Iterator[str]:
    """Lines at the end."""
    yield f"{len(tally.outcomes)} requests, {len(tally.wrong)} wrong answers; the longest wait was {tally.longest_wait:.1f} s."
    if not is_judged(tally.samples):
        yield f"It was too short to say whether something grows: that is judged from {JUDGED_FROM / 60:.0f} minutes on."
    if not (problems := tally.problems):
        yield "All as it should be."
        return
    yield f"Not as it should be ({len(problems)}):"
    yield from (f"  {problem[:500]}" for problem in problems[:_MOST_SHOWN])
    if len(problems) > _MOST_SHOWN:
        yield f"  and {len(problems) - _MOST_SHOWN} more; --json FILE has them all"


def as_json(tally: Tally) -> str:
    whole = {
        "machine": {"system": platform.platform(), "processors": os.cpu_count(), "load": os.getloadavg()},
        "minutes": tally.minutes,
        "seed": tally.seed,
        "requests": len(tally.outcomes),
        "wrong_answers": len(tally.wrong),
        "longest_wait": tally.longest_wait,
        "outcomes": tally.by_kind,
        "examples": {each.outcome: each.text for each in tally.outcomes if each.text},
        "recovery": tally.recovery,
        "kills": [{"kind": kill.kind, "seconds": kill.started - tally.started, "recovery": kill.seconds} for kill in tally.kills],
        "problems": tally.problems,
        "samples": [sample.as_json() for sample in tally.samples],
    }
    return json.dumps(whole, indent=1)
