"""`./bioengine models convert`, and the conversion of what was just imported or downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from bioengine_server.commands.shared import HomeOption, console, fail, keep_files_private, load_home_settings, told
from bioengine_server.untrusted import shown

if TYPE_CHECKING:
    from bioengine_server.settings import Settings
    from bioengine_server.store.model_store import ModelStore, StoredModel


def convert_models(
    id: Annotated[Optional[str], typer.Argument(help="A model's id, or id/version for one of its versions.")] = None,
    all: Annotated[bool, typer.Option("--all", help="All stored models that have no other weights to run yet.")] = False,
    home: HomeOption = None,
) -> None:
    """Convert the weights of stored models to ONNX, in a sandbox. The exit status is 1 if one cannot be converted.

    Models with a PyTorch state dict alone bring code of their own. Converted, they are served without that code. Models of
    TensorFlow and Keras are served only when they are converted.
    """
    from bioengine_server.store import conversion
    from bioengine_server.store.model_store import ModelStore

    if (id is None) != all:
        fail("Name a model to convert, or all of them with --all.")
    keep_files_private()
    settings = load_home_settings(home=home)
    store = ModelStore(settings.store, settings.max_package_size, settings.triton_models)
    failed = False
    with told():
        store.check_writable()
        store.renew_manifests()
        models = [store.find(id)] if id is not None else [each for each in store.models() if conversion.is_wanted(each.manifest)]
    for model in models:
        failed = _convert(model, store, settings) is None or failed
    if not models:
        console.print("No stored model is left to convert.")
    raise typer.Exit(1 if failed else 0)


def convert_if_wanted(model: StoredModel, store: ModelStore, settings: Settings) -> StoredModel:
    """Convert a package that was just stored, if it has no weights that run without its code; returns it as it is then."""
    from bioengine_server.store import conversion

    return (_convert(model, store, settings) or model) if conversion.is_wanted(model.manifest) else model


def _convert(model: StoredModel, store: ModelStore, settings: Settings) -> StoredModel | None:
    """Convert, and say what came of it. Returns None if it was not converted."""
    from bioengine_contract.errors import BioEngineError

    from bioengine_server.store.conversion import convert
    from bioengine_server.store.converted import read_conversion

    name = f"{model.manifest.id} {model.manifest.version}"
    try:
        with console.status(f"Converting {name} ...") as status:
            converted = convert(model, store, settings, lambda text: status.update(f"Converting {name}: {text} ..."))
    except BioEngineError as error:
        console.print(shown(error, 1000), style="yellow", markup=False)
        return None
    if about := read_conversion(converted.folder):
        differs = max(about.differences, default=0.0)
        console.print(
            f"Converted {name} from {about.converted_from} to onnx in {about.seconds:.0f} s: its outputs differ by at most "
            f"{differs:.1g} from the original's, on the test image and {len(about.differences) - 1} random ones.",
            markup=False,
        )
    return converted


def tell_conversion(model: StoredModel) -> None:
    """Print how the converted weights of a model were made, or why there are none."""
    from bioengine_server.store.conversion import is_wanted, refusal
    from bioengine_server.store.converted import read_conversion

    if about := read_conversion(model.folder):
        made_by = ", ".join(f"{shown(name, 30)} {shown(version, 30)}" for name, version in about.versions.items())
        console.print(
            f"  converted from {about.converted_from} (SHA-256 {about.source_sha256[:12]}…) on {about.made:%Y-%m-%d}, "
            f"by {made_by}; outputs differ by at most {max(about.differences, default=0.0):.1g}",
            markup=False,
        )
    elif is_wanted(model.manifest):
        if reason := refusal(model):
            console.print(f"  not converted to onnx: {shown(reason, 1000)}", markup=False)
        else:
            console.print(f"  not converted to onnx yet: `./bioengine models convert {model.manifest.id}` tries it", markup=False)
