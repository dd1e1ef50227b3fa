"""The files that the admin names as weights of an app, and what is known beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bioengine_contract.labels import label_method, stardist_options

from bioengine_server.apps.catalogue import App
from bioengine_server.apps.errors import WeightsMissing, WeightsNotUsable
from bioengine_server.store.model_store import StoredModel
from bioengine_server.untrusted import shown

# The default of Cellpose, and of the public server.
_USUAL_TYPE = "cyto"
_TYPE = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")
_MAX_OPTIONS = 100_000  # bytes


@dataclass(frozen=True)
class AppWeights:
    """What becomes the folder of an app's weights.

    `files`: where each comes from, by its name in the app. `options`: of StarDist: `prob_thresh`, `nms_thresh`, `grid`, as far as
    known. `origin`: for the record. `licence`: of a stored model, as its description says.
    """

    files: dict[str, Path]
    origin: str
    options: dict[str, Any] = field(default_factory=dict)
    licence: str = ""


def weights_of_files(app: App, named: Sequence[str]) -> AppWeights:
    """The weights in files, given as FILE, or as TYPE=FILE for an app with several. Raises WeightsMissing, WeightsNotUsable."""
    files: dict[str, Path] = {}
    for text in named:
        type, file = _typed(text) if app.has_several else ("", Path(text))
        if not file.is_file():
            raise WeightsNotUsable(f"There is no file {shown(file, 300)}. Give the path of {app.takes}.")
        name = app.weights.format(type)
        if name in files:
            raise WeightsNotUsable(
                f"Both {files[name]} and {file} would be the weights {type!r}. Give each its type: --weights nuclei=FILE"
                if app.has_several
                else f"The app {app.name} has one file with weights, but {len(named)} were given. Give one."
            )
        files[name] = file
    if not files:
        raise WeightsMissing(app.name, app.takes, app.has_several)
    options = _beside(next(iter(files.values()))) if app.name == "stardist" else {}
    return AppWeights(files, ", ".join(str(file) for file in files.values()), options)


def weights_of_model(app: App, model: StoredModel) -> AppWeights:
    """The ONNX weights of a stored model. Raises WeightsNotUsable."""
    manifest = model.manifest
    if app.has_several:
        raise WeightsNotUsable(f"The app {app.name} takes files only. Give {app.takes}.")
    onnx = manifest.weights.get("onnx")
    if onnx is None or len(onnx.files) > 1:
        why = "has no ONNX weights" if onnx is None else "has ONNX weights in several files"
        raise WeightsNotUsable(f"The model '{manifest.id}' {why}. The app {app.name} takes {app.takes}.")
    options = {}
    if app.name == "stardist":
        method = label_method(manifest)
        if method is None or method.name != "stardist":
            raise WeightsNotUsable(f"The description of '{manifest.id}' has no `config.stardist`: it is not a model of StarDist.")
        options = method.options
    licence = str(manifest.rdf.get("license") or "")
    return AppWeights({app.weights: model.folder / onnx.source}, f"model {manifest.id}/{manifest.version}", options, licence)


def _typed(text: str) -> tuple[str, Path]:
    """The model type and the file of a `TYPE=FILE`, or of a `FILE`, whose own name may have an equals sign."""
    type, equals, file = text.partition("=")
    if equals and _TYPE.fullmatch(type) and (Path(file).is_file() or not Path(text).is_file()):
        return type, Path(file)
    return _USUAL_TYPE, Path(text)


def _beside(file: Path) -> dict[str, Any]:
    """What StarDist's own files in the same folder say: `thresholds.json` and `config.json`."""
    thresholds, config = (_json(file.with_name(name)) for name in ("thresholds.json", "config.json"))
    return stardist_options(thresholds, config if "n_rays" in config else {})


def _json(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            value = json.loads(opened.read(_MAX_OPTIONS))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
