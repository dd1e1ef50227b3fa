"""`zoo-report`: fetch, import and test models of a collection, or packages of a folder, and write what came of each."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from bioengine_server.commands.shared import HomeOption, console, fail, keep_files_private, load_settings, safe, told
from bioengine_server.untrusted import shown

if TYPE_CHECKING:
    from bioengine_server.settings import Settings

_JSON, _MARKDOWN = "zoo-report.json", "zoo-report.md"


def zoo_report(
    ids: Annotated[Optional[list[str]], typer.Argument(help="Ids of the collection.")] = None,
    all: Annotated[bool, typer.Option("--all", help="All models that the collection lists.")] = False,
    packages: Annotated[
        Optional[Path],
        typer.Option(exists=True, file_okay=False, help="Import the packages of this folder: folders, .zip files."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help=f"The folder for {_JSON} and {_MARKDOWN}.")] = Path(),
    again: Annotated[bool, typer.Option("--again", help="Try models again that the report has already.")] = False,
    keep: Annotated[bool, typer.Option(help="Whether models that were not stored before stay in the store.")] = True,
    home: HomeOption = None,
) -> None:
    """Find out which models run here: download or import each, test it, and write a table.

    The report is written after each model. If it is interrupted, the same command goes on where it stopped.
    """
    from bioengine_server.zoo.outcome import as_json, read_outcomes
    from bioengine_server.zoo.run import outcome_of
    from bioengine_server.zoo.table import as_markdown

    keep_files_private()
    settings = load_settings(home=home)
    wanted = _wanted(ids or [], all, packages, settings)
    table, figures = output / _MARKDOWN, output / _JSON
    if table.exists() and not figures.exists():
        fail(f"{table} exists, but not {figures}: it is not this command's. Choose another folder with --output.")
    try:
        output.mkdir(parents=True, exist_ok=True)
        with told():
            outcomes = read_outcomes(figures)
        for number, (asked, package) in enumerate(wanted.items(), 1):
            if asked in outcomes and not again:
                continue
            with console.status(f"{number} of {len(wanted)}: {safe(asked)} ..."):
                outcomes[asked] = outcome = outcome_of(asked, package, settings, keep)
            for file, text in ((figures, as_json(outcomes)), (table, as_markdown(outcomes.values()).encode())):
                _write(file, text)
            told_too = f": {safe(outcome.reason)}" if outcome.reason else ""
            console.print(f"{safe(asked)}: {outcome.status}{told_too}")
    except OSError as error:
        fail(f"The report cannot be written to {output}: {error.strerror or error}. Choose another folder with --output.")
    run = sum(outcomes[asked].status == "runs" for asked in wanted)
    console.print(f"{run} of {len(wanted)} models run here. The table is in {table}.", markup=False)


def _write(file: Path, text: bytes) -> None:
    from bioengine_server.whole_file import whole_file

    with whole_file(file) as opened:
        opened.write(text)


def _wanted(ids: list[str], all: bool, packages: Path | None, settings: Settings) -> dict[str, Path | None]:
    """What to try, by its name in the report: the package to import, or None for an id of the collection."""
    wanted: dict[str, Path | None] = dict.fromkeys(ids)
    if all:
        wanted |= dict.fromkeys(_listed(settings))
    if packages is not None:
        wanted |= {each.name: each for each in sorted(packages.iterdir()) if each.is_dir() or each.suffix.lower() == ".zip"}
    if not wanted and packages is not None:
        fail(f"{shown(packages, 500)} contains no packages. Expected a folder with packages in it, each a folder or a .zip.")
    if not wanted:
        fail("Name models, or a folder with --packages, or take all that the collection lists with --all.")
    return wanted


def _listed(settings: Settings) -> list[str]:
    from bioengine_server.store.service import StoreService

    with told(), console.status("Asking the collection ..."):
        found = asyncio.run(StoreService(settings).search([]))
    if found is None:
        fail("The collection has no list of models (BIOENGINE_COLLECTION_LISTING_URL).")
    return sorted({model.id for model in found})
