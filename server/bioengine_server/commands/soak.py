"""`soak`: bad input, cancels, vanishing clients and killed processes, and every answer compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from bioengine_server.commands.shared import console, load_settings, told, write_figures

_TABLE_WIDTH = 140


def soak(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long it lasts.")] = 10,
    seed: Annotated[int, typer.Option(help="What happens follows from it: the same seed, the same requests and kills.")] = 1,
    pause: Annotated[
        float, typer.Option(min=0, help="Seconds that each caller waits between two requests, where the machine has other work.")
    ] = 0,
    json: Annotated[Optional[Path], typer.Option(help="File for all figures, as JSON.")] = None,
    plot: Annotated[Optional[Path], typer.Option(help="File for a picture of memory over time, as SVG.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace these files where they are there already.")] = False,
) -> None:
    """Put a server of its own, in a temporary home, through bad input, cancels, vanishing clients and killed processes.

    Ends with status 1 if an answer was wrong or missing, a kill took longer than 10 s to heal, or memory kept growing.
    """
    from bioengine_server.output_file import check_outputs
    from bioengine_server.soak.plot import plot as drawn
    from bioengine_server.soak.report import as_json, kills_table, outcomes_table, series_table, summary
    from bioengine_server.soak.run import run_soak

    with told():
        check_outputs([file for file in (json, plot) if file], overwrite)
    with told(), console.status("") as status:
        tally = run_soak(load_settings(), minutes, seed, pause, tell=lambda what: status.update(f"{what} ..."))
    wide = Console(width=max(console.width, _TABLE_WIDTH), highlight=False)
    wide.print(outcomes_table(tally), "", kills_table(tally), "", series_table(tally), "", sep="\n")
    wide.print(*summary(tally), sep="\n", markup=False)
    for file, text in ((json, as_json), (plot, drawn)):
        if file is not None:
            write_figures(file, text(tally), overwrite)
    raise typer.Exit(1 if tally.problems else 0)
