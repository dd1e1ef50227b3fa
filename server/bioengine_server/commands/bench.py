"""`bench`: how fast, and how much memory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from bioengine_server.commands.shared import console, fail, load_settings, told

_TABLE_WIDTH = 120


def bench(
    rounds: Annotated[int, typer.Option(min=1, help="How many times each is measured.")] = 10,
    huge: Annotated[
        bool, typer.Option("--huge", help="Also run an image of 16384 x 16384 pixels: minutes, and gigabytes.")
    ] = False,
    json: Annotated[Optional[Path], typer.Option(help="File for the figures, as JSON.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace that file if it already exists.")] = False,
) -> None:
    """Measure speed and memory on this machine, with a server of its own in a temporary home.

    Ends with status 1 where a limit is exceeded. A server that runs already is left alone, and takes its share of the machine.
    """
    from bioengine_server.bench.report import as_json, cpu_table, summary, table
    from bioengine_server.bench.run import run_bench
    from bioengine_server.output_file import check_outputs, output_file

    with told():
        check_outputs([json] if json else [], overwrite)
    with told(), console.status("") as status:
        measurements = run_bench(load_settings(), rounds, huge, tell=lambda what: status.update(f"{what} ..."))
    # Whole, also where the output goes to a file or is read by a program.
    Console(width=max(console.width, _TABLE_WIDTH)).print(table(measurements), "", cpu_table(measurements), "", sep="\n")
    console.print(summary(measurements), markup=False)
    if json is not None:
        try:
            with told(), output_file(json, overwrite) as file:
                file.write(as_json(measurements).encode())
        except OSError as error:
            fail(f"{json} could not be written: {error.strerror or error}. The figures are above.")
    raise typer.Exit(1 if any(item.exceeded for item in measurements) else 0)
