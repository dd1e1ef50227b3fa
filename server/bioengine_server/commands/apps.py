"""`apps`: install, list and remove Triton models that existing programs call by name, such as `cellpose-python`."""

from __future__ import annotations

import sys
from typing import Annotated, Optional

import typer
from rich.table import Column, Table

from bioengine_server.commands.shared import (
    HomeOption,
    console,
    keep_files_private,
    load_home_settings,
    load_settings,
    safe,
    told,
)
from bioengine_server.untrusted import shown

app = typer.Typer(help="Apps: Cellpose, StarDist and others, by the names that existing programs use.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="cellpose, stardist or bestfitting.")]


@app.command()
def install(
    name: NameArgument,
    weights: Annotated[
        Optional[list[str]],
        typer.Option(help="The file with the weights; of cellpose TYPE=FILE, once for each model type. [TYPE: cyto]"),
    ] = None,
    model: Annotated[Optional[str], typer.Option(metavar="ID", help="A stored model, whose ONNX weights are used.")] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Agree to the licence of the weights without being asked.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Install an app with weights of your own. Nothing is overwritten, and no weights are downloaded.

    What the app needs is installed from the package index, once. A running server has it after its next start.
    """
    from bioengine_server.apps.catalogue import app_named
    from bioengine_server.apps.errors import NotAgreed
    from bioengine_server.apps.install import check_installable
    from bioengine_server.apps.install import install as install_app
    from bioengine_server.apps.weights import weights_of_files, weights_of_model
    from bioengine_server.store.model_store import ModelStore

    settings = load_home_settings(home=home)
    keep_files_private()
    with told():
        chosen = app_named(name)
        check_installable(chosen, settings)
        if model is not None and weights:
            raise typer.BadParameter("give --weights or --model, not both.")
        if model is None:
            found = weights_of_files(chosen, weights or [])
        else:
            found = weights_of_model(chosen, ModelStore(settings.store).find(model))
        print(chosen.licence)
        if found.licence:
            print(f"The licence in the description of {shown(model)}: {shown(found.licence)}")
        if not accept_licence and not _agrees():
            raise NotAgreed(chosen.name)
        folder = install_app(chosen, found, settings)
    console.print(f"Installed {folder}", markup=False, soft_wrap=True)
    console.print(f"After the server's next start, clients call it with model_name={chosen.triton_model!r}.", markup=False)


@app.command("list")
def list_apps(home: HomeOption = None) -> None:
    """List the apps, and which of them are installed."""
    from bioengine_server.apps.catalogue import APPS
    from bioengine_server.apps.install import installed

    found = {each.app.name: each for each in installed(load_settings(home=home))}
    table = Table(Column("app", no_wrap=True), Column("model_name", overflow="fold"), box=None, pad_edge=False)
    for column in ("installed", "weights", "what"):
        table.add_column(column)
    for each in APPS.values():
        here = found.get(each.name)
        state = "no" if here is None else "yes" if here.works else f"without the environment {each.environment}"
        table.add_row(each.name, each.triton_model, state, safe(", ".join(here.weights)) if here else "", each.title)
    console.print(table)


@app.command()
def remove(name: NameArgument, home: HomeOption = None) -> None:
    """Remove an app and its copy of the weights. A running server has it until its next start."""
    from bioengine_server.apps.catalogue import app_named
    from bioengine_server.apps.install import uninstall

    with told():
        folder = uninstall(app_named(name), load_home_settings(home=home))
    console.print(f"Removed {folder}", markup=False, soft_wrap=True)


def _agrees() -> bool:
    """Whether the user agrees; nobody is asked where nobody can answer."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    return typer.confirm("Do you agree to the licence of the weights?", err=True)
