"""`bench`: measure speed and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from bioengine_server.commands.shared import console, load_settings, told, write_figures

_TABLE_WIDTH = 120


def bench(
    rounds: Annotated[int, typer.Option(min=1, help="How often each figure is measured.")] = 10,
    huge: Annotated[
        bool,
        typer.Option("--huge", help="Also run an image of 16384 x 16384 pixels, which takes minutes and gigabytes of memory."),
    ] = False,
    json: Annotated[Optional[Path], typer.Option(help="Write the figures to this file, as JSON.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace that file if it already exists.")] = False,
) -> None:
    """Measure speed and memory on this machine, with a server of its own in a temporary home.

    The exit status is 1 if a limit is exceeded. A server that is already running is not stopped; it also uses the machine.
    """
    from bioengine_server.bench.report import as_json, cpu_table, summary, table
    from bioengine_server.bench.run import run_bench
    from bioengine_server.output_file import check_outputs

    with told():
        check_outputs([json] if json else [], overwrite)
    with told(), console.status("") as status:
        measurements = run_bench(load_settings(), rounds, huge, tell=lambda what: status.update(f"{what} ..."))
    # The whole table, even if the output goes to a file or a program.
    Console(width=max(console.width, _TABLE_WIDTH)).print(table(measurements), "", cpu_table(measurements), "", sep="\n")
    console.print(summary(measurements), markup=False)
    if json is not None:
        write_figures(json, as_json(measurements), overwrite)
    raise typer.Exit(1 if any(item.exceeded for item in measurements) else 0)
