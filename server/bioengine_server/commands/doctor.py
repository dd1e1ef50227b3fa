"""`doctor`: examine this machine and this set-up."""

from __future__ import annotations

from typing import Annotated, Optional

import typer
from rich.markup import escape
from rich.table import Table

from bioengine_server.commands.shared import HomeOption, OfflineOption, configure_logging, console, load_settings

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def doctor(
    home: HomeOption = None,
    port: Annotated[Optional[int], typer.Option(envvar="BIOENGINE_PORT", help="Port for all clients. [9520]")] = None,
    offline: OfflineOption = None,
) -> None:
    """Check the machine and the set-up, and say how to fix what is wrong. Changes nothing.

    The exit status is 1 if something does not work.
    """
    settings = load_settings(home=home, port=port, offline=offline)
    configure_logging(settings)
    from bioengine_server.doctor.examine import examine
    from bioengine_server.doctor.setup import Setup

    with console.status("Checking ..."):
        findings = list(examine(Setup.from_environment(settings)))
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        text = escape(finding.found) + (f"\n[dim]→ {escape(finding.advice)}[/]" if finding.advice else "")
        table.add_row(finding.subject, f"[{_STYLES[finding.verdict]}]{finding.verdict}[/]", text)
    console.print(table)
    problems = [finding for finding in findings if finding.verdict == "problem"]
    console.print(f"\n{len(problems)} {'problem' if len(problems) == 1 else 'problems'}." if problems else "\nAll is well.")
    raise typer.Exit(1 if problems else 0)
