"""Measure, at import, the halo of a package that takes images of one size and declares none.

The measurement runs the package's model, so it is confined as the test of a package is. Where it cannot be made, the package is
imported all the same, its manifest says why, and the model runner uses its default.
"""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path

from bioengine_contract.axes import IMAGE_AXES
from bioengine_contract.following import output_follows
from bioengine_contract.manifest import FILE_NAME, Manifest, MeasuredHalo
from bioengine_contract.trust import usable_weights

from bioengine_server.environments import environment
from bioengine_server.settings import Settings
from bioengine_server.store.errors import StoreError
from bioengine_server.store.layout import write_json
from bioengine_server.store.model_store import ModelStore
from bioengine_server.store.package_test_run import run_halo_test
from bioengine_server.untrusted import shown

_LONGEST = 120.0  # seconds; most models take 5

_one_at_a_time = threading.Lock()
"""Each measurement takes the memory of a loaded model, and the server may download several models at once."""


def with_halo(manifest: Manifest, folder: Path, settings: Settings) -> Manifest:
    """The manifest of a package with its halo, if it has to be measured.

    Args:
        manifest: of the package.
        folder: where its files are; the manifest is written there, for the process that measures.
        settings: of the server.
    """
    if not _lacks_halo(manifest):
        return manifest
    # Without trust: no code of the package runs here.
    formats = usable_weights(manifest, frozenset())
    python = environment(settings.environments, "runner") / "bin" / "python"
    if not formats:
        return _not_measured(manifest, "it has no weights that can be run without its own code")
    if not python.exists():
        return _not_measured(manifest, "the model runner's environment is not here")
    write_json(folder / FILE_NAME, manifest.model_dump(mode="json"))
    # On the CPU: a card may be full, or work for clients.
    variables = {**os.environ, "BIOENGINE_TRUSTED_MODELS": "", "BIOENGINE_ACCELERATOR": "cpu", "BIOENGINE_PRECISION": "exact"}
    try:
        with _one_at_a_time:
            found = run_halo_test(manifest.id, folder, python, formats[0], variables, _LONGEST)
    except StoreError as error:
        return _not_measured(manifest, str(error))
    if found.problem is not None:
        return _not_measured(manifest, shown(found.problem, 300))
    return manifest.model_copy(update={"halo": MeasuredHalo(found.pixels, found.difference, formats[0])})


def measuring_store(settings: Settings) -> ModelStore:
    """The store of one home, which has the halos measured of what is imported."""
    measure = partial(with_halo, settings=settings)
    return ModelStore(settings.store, settings.max_package_size, settings.triton_models, measure)


def in_words(manifest: Manifest) -> str:
    """What is known of the halo, as a sentence without its subject "tiles"; empty for a halo that the description declares."""
    halo = manifest.halo
    if halo is None:
        return ""
    if halo.problem:
        return f"their halo was not measured: {halo.problem.rstrip('.')}"
    pixels = ", ".join(f"{axis} {size}" for axis, size in halo.pixels.items())
    if halo.is_exact:
        return f"halo of {pixels} pixels, measured with its {halo.weight_format} weights on its test image"
    return (
        f"inexact. The model looks farther than its tiles can overlap: at a halo of {pixels} pixels, results differ by up to "
        f"{halo.difference:.0%} of their range (measured with its {halo.weight_format} weights on its test image)"
    )


def _not_measured(manifest: Manifest, problem: str) -> Manifest:
    return manifest.model_copy(update={"halo": MeasuredHalo({}, 0.0, "", problem)})


def _lacks_halo(manifest: Manifest) -> bool:
    """Whether there is an image axis of one size, which an output follows, and for which no output declares a halo."""
    inputs = manifest.inputs
    fixed = {
        (spec.id, axis.id)
        for spec in inputs
        for axis in spec.axes
        if axis.type in IMAGE_AXES and axis.step == 0 and axis.reference is None
    }
    halos: dict[tuple[str, str], int] = {}
    for spec in manifest.outputs:
        for axis in spec.axes:
            if (follows := output_follows(axis, inputs)) is not None:
                key = (follows.tensor, follows.axis)
                halos[key] = max(halos.get(key, 0), axis.halo)
    return any(halos.get(key) == 0 for key in fixed)
