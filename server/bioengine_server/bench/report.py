"""Write measurements as a table for people, and as JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence

from rich.table import Table

from bioengine_server.bench.measurement import Measurement


def table(measurements: Sequence[Measurement]) -> Table:
    """One row for each measurement. Ratios and differences refer to the nearest row above that has none."""
    result = Table(box=None, pad_edge=False, header_style="bold")
    result.add_column("measurement", no_wrap=True)
    for column in ("median", "best", "added", "ratio", "limit", ""):
        result.add_column(column, justify="right" if column else "left", no_wrap=True)
    for item in measurements:
        result.add_row(
            item.name,
            f"{item.median:.1f} {item.unit}",
            f"{item.best:.1f} {item.unit}",
            "" if item.added is None else f"{item.added:+.1f} {item.unit}",
            "" if item.ratio is None else f"{item.ratio:.2f} x",
            limit_of(item),
            verdict(item),
        )
    return result


def cpu_table(measurements: Sequence[Measurement]) -> Table:
    """The CPU time of each process, for measurements that recorded it: medians in ms."""
    watched = [item for item in measurements if item.cpu]
    groups = list(dict.fromkeys(group for item in watched for group in item.cpu))
    result = Table(box=None, pad_edge=False, header_style="bold")
    result.add_column("CPU time in ms", no_wrap=True)
    for group in (*groups, "all"):
        result.add_column(group, justify="right", no_wrap=True)
    for item in watched:
        medians = [statistics.median(item.cpu[group]) for group in groups]
        result.add_row(item.name, *(f"{median:.1f}" for median in medians), f"{sum(medians):.1f}")
    return result


def limit_of(item: Measurement) -> str:
    limits = [
        "" if item.limit is None else f"{item.limit:.0f} {item.unit}",
        "" if item.ratio_limit is None else f"{item.ratio_limit:.2f} x",
        "" if item.added_limit is None else f"+{item.added_limit:.0f} {item.unit}",
    ]
    return ", ".join(filter(None, limits))


def verdict(item: Measurement) -> str:
    if not limit_of(item):
        return ""
    return "EXCEEDED" if item.exceeded else "ok"


def summary(measurements: Sequence[Measurement]) -> str:
    """Which limits are exceeded, in words."""
    exceeded = [item for item in measurements if item.exceeded]
    if not exceeded:
        return "All within their limits."
    lines = [f"  {item.name}: {_figure(item)}, at most {limit_of(item)}" for item in exceeded]
    return "\n".join(["Limits exceeded:", *lines])


def as_json(measurements: Sequence[Measurement]) -> str:
    """All figures, with the value of each round; times in ms, memory in MB (10^6 bytes)."""
    document = {
        "machine": {"processors": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "measurements": [
            {
                "name": item.name,
                "unit": item.unit,
                "median": item.median,
                "best": item.best,
                "values": item.values,
                "compared_with": None if item.reference is None else item.reference.name,
                "ratio": item.ratio,
                "added": item.added,
                "limit": item.limit,
                "ratio_limit": item.ratio_limit,
                "added_limit": item.added_limit,
                "exceeded": item.exceeded,
                "cpu": {process: {"median": statistics.median(values), "values": values} for process, values in item.cpu.items()},
            }
            for item in measurements
        ],
    }
    return json.dumps(document, indent=2) + "\n"


def _figure(item: Measurement) -> str:
    compared = f" ({item.added:+.1f} {item.unit}, {item.ratio:.2f} x {item.reference.name})" if item.reference else ""
    return f"{item.median:.1f} {item.unit}{compared}"
