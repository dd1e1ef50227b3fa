"""`./bioengine models`: download, import, list, test and remove models of the store."""

from __future__ import annotations

import asyncio
import datetime
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from bioengine_contract.axes import BATCH, CHANNEL, SPACE
from bioengine_contract.errors import BioEngineError
from bioengine_contract.labels import label_method
from bioengine_contract.trust import code_of, trust_entry, usable_weights
from bioengine_contract.weights import RUN_CODE, RUNNABLE
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.table import Column, Table

from bioengine_server.commands.conversion import convert_if_wanted, tell_conversion
from bioengine_server.commands.shared import (
    HomeOption,
    OfflineOption,
    console,
    fail,
    keep_files_private,
    load_home_settings,
    load_settings,
    safe,
    told,
)
from bioengine_server.store.layout import is_read_only
from bioengine_server.untrusted import shown

if TYPE_CHECKING:
    from bioengine_contract.manifest import Axis, Manifest, Tensor

    from bioengine_server.store.download import Progress as Report
    from bioengine_server.store.model_store import ModelStore

app = typer.Typer(help="Manage the stored models.", no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(help="A model's id, or id/version for one of its versions.")]


@app.command()
def pull(
    ids: Annotated[list[str], typer.Argument(help="Nicknames, with /version if wanted, or DOIs.")],
    home: HomeOption = None,
    offline: OfflineOption = None,
) -> None:
    """Download models from the collection."""
    from bioengine_contract.ids import parse_model_id

    from bioengine_server.store.service import StoreService

    settings = load_settings(home=home, offline=offline)
    _store_to_change(home)
    service = StoreService(settings)
    failures = []
    for id in ids:
        try:
            parse_model_id(id)
            with _download_bars() as report:
                asyncio.run(service.fetch(id, caller=None, progress=report, on_convert=lambda: console.print("Converting ...")))
        except BioEngineError as error:
            failures.append(str(error))
        else:
            model = _store(home).find(id)
            _tell(model.manifest, "Stored", settings.trusted)
            tell_conversion(model)
    if failures:
        fail("\n".join(failures))


@app.command("import")
def import_model(
    package: Annotated[Path, typer.Argument(help="A package folder, or a .zip; - takes a .zip from standard input.")],
    id: Annotated[Optional[str], typer.Option(help="The id to store it under, instead of its own.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Let a name that belongs to another package or version mean this one from now on.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Import a bioimage.io package. If its name already means another package or version, --replace is needed."""
    store = _store_to_change(home)
    with told(), console.status(f"Importing {safe(package)} ..."), _package_file(package, store) as source:
        model = store.import_package(source, id, replace)
    model = convert_if_wanted(model, store, load_settings(home=home))
    _tell(model.manifest, "Imported", load_settings(home=home).trusted)
    if further := sorted(store.names(model) - {model.manifest.id, model.place}):
        console.print(f"  also called: {', '.join(further)}", markup=False)
    if model.refused:
        refused = ", ".join(shown(name) for name in model.refused)
        console.print(
            f"  not called {refused}, the name in its description: it is already used, or reserved.", style="yellow", markup=False
        )


@app.command()
def export(
    id: IdArgument,
    output: Annotated[
        Optional[Path], typer.Option("--output", "-o", help="The .zip to write, or a folder for it. [ID-VERSION.zip]")
    ] = None,
    converted: Annotated[
        bool, typer.Option("--converted", help="With weights that were converted here, as weights of the package.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Write a stored model to a package that can be imported elsewhere."""
    store = _store(home)
    with told():
        model = store.find(id)
        usual = f"{model.manifest.id}-{model.manifest.version}.zip"
        target = Path(usual) if output is None else output / usual if os.path.isdir(output) else output
        with console.status(f"Writing {safe(target)} ..."):
            store.export(model, target, converted)
    console.print(f"Wrote {target} ({target.stat().st_size / 1e6:.1f} MB).", markup=False)


@app.command("list")
def list_models(home: HomeOption = None) -> None:
    """List the stored models."""
    from bioengine_server.store.usage import last_uses

    store = _store(home)
    models = store.models()
    if not models:
        console.print("No models yet. Get one with: ./bioengine models pull ID, or ./bioengine models import FOLDER_OR_ZIP")
        return
    uses = last_uses(store.folder)
    trusted = load_settings(home=home).trusted
    table = Table(Column("id", no_wrap=True), "version", "weights", "disk", "last use", "name", box=None, pad_edge=False)
    for model in models:
        manifest = model.manifest
        version = manifest.version if model.is_default else f"{manifest.version} (older)"
        used = uses.get(model.place)
        weights, size = _weights(manifest, trusted), _megabytes(manifest.size)
        table.add_row(manifest.id, version, weights, size, _ago(used) if used else "never", safe(manifest.name))
    console.print(table)


@app.command()
def show(id: IdArgument, home: HomeOption = None) -> None:
    """Show a stored model: its inputs, outputs and weights, and how to trust its code if it contains any.

    If a server runs with this home, also how it computes the model.
    """
    from bioengine_server.commands.running_model import tell_running

    settings, store = load_settings(home=home), _store(home)
    with told():
        model = store.find(id)
    manifest = model.manifest
    console.print(f"[bold]{manifest.id}[/] {manifest.version}: {safe(manifest.name)}")
    if text := " ".join(str(manifest.rdf.get("description") or "").split()):
        console.print(f"  {shown(text, 2000)}", markup=False)
    for title, tensors in (("goes in", manifest.inputs), ("comes out", manifest.outputs)):
        for tensor in tensors:
            console.print(f"  {title}: {_in_words(tensor)}", markup=False)
    console.print(f"  weights: {_weights(manifest, settings.trusted)}")
    if (method := label_method(manifest)) is not None:
        console.print(f"  labels: by {method.name} (`run --labels`)", markup=False)
    tell_conversion(model)
    _tell_trust(manifest, settings.trusted)
    _tell_found(manifest)
    names = sorted(store.names(model) - {manifest.id})
    console.print(f"  also called: {', '.join(names)}", markup=False)
    console.print(f"  from: {shown(manifest.origin, 300)}", markup=False)
    console.print(f"  in: {model.folder} ({_megabytes(manifest.size)})", markup=False)
    tell_running(load_home_settings(home=home), model.place)


@app.command()
def search(words: Annotated[list[str], typer.Argument(help="Words that a model's entry in the list must contain.")]) -> None:
    """Search the collection for models."""
    from bioengine_server.store.service import StoreService

    settings = load_settings()
    if settings.offline:
        fail("This server is offline (BIOENGINE_OFFLINE), so the collection cannot be searched.")
    with told(), console.status("Asking the collection ..."):
        found = asyncio.run(StoreService(settings).search(words))
    if found is None:
        fail("The collection has no list of models to search (BIOENGINE_COLLECTION_LISTING_URL).")
    if not found:
        console.print("Nothing found.")
        return
    table = Table(Column("id", no_wrap=True), "name", Column("description", overflow="ellipsis", no_wrap=True), box=None)
    for item in found:
        table.add_row(safe(item.id), safe(item.name), safe(" ".join(item.description.split()), 500))
    console.print(table)


@app.command("test")
def test_models(
    id: Annotated[Optional[str], typer.Argument(help="A model's id, or id/version for one of its versions.")] = None,
    all: Annotated[bool, typer.Option("--all", help="Test all stored models.")] = False,
    home: HomeOption = None,
) -> None:
    """Test stored models with bioimageio.core's own test, in the environment that runs them. The exit status is 1 if one fails.

    Also shows how far results in tiles differ: from that for the whole test image, or for a model that takes images of one size,
    from those in tiles that lie elsewhere. If the difference is not negligible, the model looks farther than its halo.
    """
    from bioengine_server.store.package_test import test_package

    if (id is None) != all:
        fail("Name a model to test, or all of them with --all.")
    keep_files_private()
    settings = load_settings(home=home)
    store = _store(home)
    table = Table(Column("id", no_wrap=True), "version", "weights", "result", "", box=None, pad_edge=False)
    failed = False
    with told():
        models = store.models() if id is None else [store.find(id)]
        for model in models:
            with console.status(f"Testing {model.manifest.id} ..."):
                results = test_package(model, settings)
            for result in results:
                failed = failed or result.status == "failed"
                color = {"passed": "green", "failed": "red"}.get(result.status, "yellow")
                told_too = "\n".join(safe(text, 500) for text in (result.detail, result.tiles, result.precision) if text)
                table.add_row(model.manifest.id, model.manifest.version, result.weights, f"[{color}]{result.status}[/]", told_too)
    console.print(table)
    if is_read_only(store.folder):
        console.print("The store is read-only here, so the reports are not stored.")
    raise typer.Exit(1 if failed else 0)


@app.command()
def remove(id: IdArgument, home: HomeOption = None) -> None:
    """Remove a model from the store."""
    with told():
        removed = _store_to_change(home).remove(id)
    console.print(f"Removed {', '.join(removed)}.")


@app.command()
def prune(
    keep_gb: Annotated[float, typer.Option(min=0, help="How much to keep, in GB.")],
    home: HomeOption = None,
) -> None:
    """Remove the least recently used models until the rest fits."""
    store = _store_to_change(home)
    with told():
        removed = store.prune(int(keep_gb * 1e9))
    console.print(f"Removed {', '.join(removed)}." if removed else "Nothing to remove.")


def _store(home: Path | None) -> ModelStore:
    from bioengine_server.store.halo import measuring_store

    settings = load_home_settings(home=home)
    store = measuring_store(settings)
    store.renew_manifests()
    return store


def _store_to_change(home: Path | None) -> ModelStore:
    keep_files_private()
    store = _store(home)
    with told():
        store.check_writable()
    return store


@contextmanager
def _package_file(package: Path, store: ModelStore) -> Iterator[Path]:
    """The package to import. Standard input is first written to a temporary file on the store's disk. Raises StoreNotWritable."""
    if str(package) != "-":
        yield package
        return
    with store.incoming("standard input") as folder:  # if we are killed, the next change of the store removes it
        source = folder / "package.zip"
        with open(source, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield source


def _tell(manifest: Manifest, what: str, trusted: frozenset[str]) -> None:
    console.print(f"{what} [bold]{manifest.id}[/] {manifest.version} ({_megabytes(manifest.size)}): {safe(manifest.name)}")
    usable = usable_weights(manifest, trusted)
    if usable:
        console.print(f"  Weights: {', '.join(map(manifest.named_weights, usable))}")
        for tensor in manifest.inputs:
            console.print(f"  goes in: {_in_words(tensor)}", markup=False)
        _tell_found(manifest)
    elif code := code_of(manifest):
        console.print(f"  It contains Python code of its own: {shown('; '.join(code), 500)}.", style="yellow", markup=False)
        advice = f"./bioengine models show {manifest.id}/{manifest.version}"
        console.print(f"  It is not run unless you trust it: {advice} shows how.", style="yellow")
    elif manifest.convertible is not None:
        console.print(f"  It is not run before its {manifest.convertible} weights are converted to onnx.", style="yellow")
    else:
        console.print(f"  It cannot be run: it has only {', '.join(manifest.unsupported_weights)} weights.", style="yellow")


def _tell_trust(manifest: Manifest, trusted: frozenset[str]) -> None:
    if not (code := code_of(manifest)):
        return
    console.print(f"  contains Python code of its own: {shown('; '.join(code), 500)}", markup=False)
    if (entry := trust_entry(manifest)) in trusted:
        console.print("  trusted by you, with its present content (BIOENGINE_TRUSTED_MODELS)")
        return
    if any(weights.converted_from is not None for weights in manifest.weights.values()):
        console.print("  the converted weights do not need it")
    console.print("  not trusted, so this code is not run. It would have all rights of the user who starts the server:")
    console.print("  read it first. To trust it, add this to BIOENGINE_TRUSTED_MODELS (several are separated by commas):")
    print(f"    {entry}")


def _tell_found(manifest: Manifest) -> None:
    """Print what the import found out, because the description does not say it."""
    from bioengine_server.store.halo import in_words

    if tiles := in_words(manifest):
        console.print(f"  tiles: {shown(tiles, 500)}", markup=False)
    if manifest.unpinned:
        files = shown(", ".join(manifest.unpinned), 300)
        console.print(f"  no SHA-256 in the description: {files}; verified from now on against what came at import", markup=False)


def _weights(manifest: Manifest, trusted: frozenset[str]) -> str:
    if usable := usable_weights(manifest, trusted):
        return ", ".join(map(manifest.named_weights, usable))
    if code_of(manifest):
        return "not run (contains code, not trusted)"
    without_code = " or ".join(name for name in RUNNABLE if name not in RUN_CODE)
    return f"not run ({'not converted' if manifest.convertible else f'no {without_code}'})"


def _in_words(tensor: Tensor) -> str:
    optional = ", optional" if tensor.optional else ""
    axes = ", ".join(_axis_in_words(axis) for axis in tensor.axes)
    return shown(f"'{tensor.id}'{optional}, {tensor.dtype}, with the axes {axes}", 1000)


def _axis_in_words(axis: Axis) -> str:
    unit = {SPACE: " pixels", CHANNEL: " channels" if axis.min != 1 else " channel"}.get(axis.type, "")
    if axis.reference is not None:
        return f"{axis.id} (depends on {axis.reference.axis} of '{axis.reference.tensor}')"
    if axis.type == BATCH and axis.step == 1:
        return f"{axis.id} (any number)"
    if axis.step == 0:
        return f"{axis.id} ({axis.min}{unit})"
    if axis.step == 1:
        return f"{axis.id} ({axis.min}{unit} or more)"
    return f"{axis.id} ({axis.min}, {axis.min + axis.step}, {axis.min + 2 * axis.step}, …{unit})"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _ago(moment: datetime.datetime) -> str:
    seconds = (datetime.datetime.now(datetime.UTC) - moment).total_seconds()
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {unit}{'' if number == 1 else 's'} ago"
    return "just now"


@contextmanager
def _download_bars() -> Iterator[Report]:
    """Show a progress bar for each file."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def report(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(safe(name), total=total)
            progress.update(tasks[name], completed=done, total=total)

        yield report
