"""Convert the weights of a stored package to ONNX, so that code of the package never runs in a process that serves models.

    package -> random inputs, chosen here -> the original in a sandbox -> ONNX Runtime in another -> compared here
            -> the package's own test with the ONNX weights -> the store

Weights are accepted only if the original model, its trace (of PyTorch) and the ONNX weights give the same for every sample. The
package does not know the samples before its code gets them, so that a trace that is right for the test image alone is found out.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bioengine_contract.manifest import FILE_NAME, Manifest
from bioengine_contract.weights import CONVERTED
from pydantic import BaseModel

from bioengine_server.environments import can_build, environment, is_there
from bioengine_server.settings import Settings
from bioengine_server.store import layout, reader
from bioengine_server.store.conversion_run import NeedsModule, NotConverted, StepReport, read_array, run_step, write_arrays
from bioengine_server.store.conversion_samples import choose_samples, difference, is_same
from bioengine_server.store.converted import Conversion, put_converted, still_there, with_converted, without_converted
from bioengine_server.store.errors import NotAPackage, StoreError, StoreNotWritable
from bioengine_server.store.halo import with_halo
from bioengine_server.store.hostile_process import NotAFile, open_left_file
from bioengine_server.store.model_store import ModelStore, StoredModel
from bioengine_server.store.package import REPORTS
from bioengine_server.store.package_test import test_variables
from bioengine_server.store.package_test_run import run_test


@dataclass(frozen=True)
class _Way:
    """How weights of one format are converted.

    `environment`: which it needs. `tolerance`: the largest difference of an output, as a part of its largest absolute value.
    `is_traced`: whether the ONNX weights are made from a trace of the original, which has to agree as well.
    """

    environment: str
    tolerance: float
    is_traced: bool


# float32, and sums in another order. TensorFlow's convolutions differ less from those of ONNX Runtime than torch's do.
_WAYS = {
    "pytorch_state_dict": _Way("convert", tolerance=1e-4, is_traced=True),
    "tensorflow_saved_model_bundle": _Way("tensorflow", tolerance=1e-5, is_traced=False),
    "keras_hdf5": _Way("tensorflow", tolerance=1e-5, is_traced=False),
}

# Environments that have what `convert` has, and a library of networks besides.
_LIBRARIES = {"careamics": "careamics"}

ENVIRONMENTS = {*(way.environment for way in _WAYS.values()), *_LIBRARIES.values()}
"""The optional environments that convert models."""

_REFUSAL = "conversion.json"

_MAX_TEST = 900.0  # seconds
_MAX_WEIGHTS = 2 << 30  # bytes

Told = Callable[[str], None]
"""Told what is being done, in a few words."""


class _Refusal(BaseModel):
    """Why the weights of a package were not converted; the content of `reports/conversion.json`."""

    reason: str


class NoConversionHere(StoreError):
    code = "no_conversion_here"

    def __init__(self, id: str, converted_from: str, is_image: bool) -> None:
        name = environment_for(converted_from)
        remedy = (
            "Import the package on a machine without containers, and take the result of "
            f"`./bioengine models export {id} --converted` here (docs/containers.md)."
            if is_image
            else f"Run `./bioengine environments add {name}`, then `./bioengine models convert {id}`."
        )
        super().__init__(
            f"The {converted_from} weights of {id} can be converted to ONNX, but the environment for it is not here. {remedy}"
        )


def environment_for(converted_from: str) -> str:
    """The environment that the conversion of weights of this format needs."""
    return _WAYS[converted_from].environment


def is_wanted(manifest: Manifest) -> bool:
    """Whether a package is to be converted as soon as it is stored."""
    return manifest.convertible is not None and "onnx" not in manifest.weights


def refusal(model: StoredModel) -> str | None:
    """Why the package was not converted when this was last tried; None if it was, or if it was not tried."""
    with contextlib.suppress(OSError, ValueError):
        return _Refusal.model_validate_json((model.folder / REPORTS / _REFUSAL).read_text(encoding="utf-8")).reason
    return None


def has_environment(settings: Settings, manifest: Manifest) -> bool:
    """Whether what the conversion of a package needs is installed here."""
    needed = {"runner", *([environment_for(manifest.convertible)] if manifest.convertible else [])}
    return all(is_there(settings.environments, name) for name in needed)


def convert(model: StoredModel, store: ModelStore, settings: Settings, tell: Told = lambda text: None) -> StoredModel:
    """Convert the weights of a stored package, and return it as it is then. One at a time in a home: others wait.

    Raises NotConverted, NoConversionHere, StoreNotWritable, StoreBusy.
    """
    id, converted_from = model.manifest.id, model.manifest.convertible
    if converted_from is None:
        raise NotConverted(id, "it has no weights that need it")
    if model.manifest.code:
        raise NotConverted(id, f"it runs Python code with weights of any format ({'; '.join(model.manifest.code)})")
    if not has_environment(settings, model.manifest):
        raise NoConversionHere(id, converted_from, is_image=not can_build())
    try:
        with _alone(store.folder, tell), store.incoming(model.folder) as folder:
            package = without_converted(model.manifest, model.folder)
            try:
                manifest, file, about = _Conversion(package, model.folder, folder, settings, converted_from).run(tell)
            except NotConverted as error:
                _write_refusal(store, model, error.reason)
                raise
            if not put_converted(store.folder, manifest, file, about):
                raise NotConverted(id, "it was imported again or removed meanwhile")
            (model.folder / REPORTS / _REFUSAL).unlink(missing_ok=True)
    except OSError as error:
        raise StoreNotWritable(store.folder, error.strerror or str(error)) from error
    return store.find(f"{id}/{manifest.version}")


def _write_refusal(store: ModelStore, model: StoredModel, reason: str) -> None:
    with layout.lock(store.folder):
        if still_there(model.folder, model.manifest) is not None:  # it may have been imported again or removed meanwhile
            reports = model.folder / REPORTS
            reports.mkdir(exist_ok=True)
            layout.write_json(reports / _REFUSAL, _Refusal(reason=reason).model_dump())


@contextlib.contextmanager
def _alone(store: Path, tell: Told) -> Iterator[None]:
    with open(layout.locks(store) / "convert", "w") as file:
        if not layout.try_lock(file):
            tell("waiting for another conversion")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Conversion:
    """Of one package, in a folder of its own."""

    def __init__(self, manifest: Manifest, package: Path, folder: Path, settings: Settings, converted_from: str) -> None:
        """`manifest`: of the package without converted weights. `folder`: for what is made meanwhile; on the store's disk."""
        self._id = manifest.id
        self._manifest = manifest
        self._package = package
        self._folder = folder
        self._settings = settings
        self._from = converted_from
        self._way = _WAYS[converted_from]
        if CONVERTED in manifest.files:
            raise NotConverted(self._id, f"the package has a file {CONVERTED} of its own; import it again, which renames that")

    def run(self, tell: Told) -> tuple[Manifest, Path, Conversion]:
        """The manifest with the converted weights, their file, and how they were made. Raises NotConverted, StoreError."""
        started = time.monotonic()
        given, onnx = self._made("given"), self._made("onnx")
        samples = choose_samples(self._manifest, self._package)
        self._count = 1 + len(samples)
        for number, arrays in enumerate(samples, start=1):
            write_arrays(given, number, arrays)
        tell("running and exporting the original model")
        made, original = self._run_original(given)
        if self._way.is_traced:
            self._compare(original, original, "trace", "its trace", made.remarks)
        self._take(original / CONVERTED, given / CONVERTED)
        tell("running the converted weights")
        ran = run_step(self._id, "onnx", self._python("runner"), self._package, given, onnx)
        differences = self._compare(original, onnx, "onnx", "the converted weights", made.remarks)
        tell("testing the package with them")
        manifest = self._test(given / CONVERTED)
        about = Conversion(
            converted_from=self._from,
            source_sha256=manifest.weights[self._from].sha256,
            made=datetime.datetime.now(datetime.UTC),
            versions={**made.versions, **ran.versions},
            differences=differences,
            seconds=round(time.monotonic() - started, 1),
        )
        return manifest, given / CONVERTED, about

    def _run_original(self, given: Path) -> tuple[StepReport, Path]:
        """Have the original model run and exported; what it says, and the folder with what it has left. Raises NotConverted."""

        def run(name: str) -> tuple[StepReport, Path]:
            output = self._made(f"original, {name}")
            return run_step(self._id, self._from, self._python(name), self._package, given, output), output

        try:
            return run(self._way.environment)
        except NeedsModule as error:
            name = _LIBRARIES.get(error.module.partition(".")[0])
            if name is None or self._from != "pytorch_state_dict":
                raise
            if not is_there(self._settings.environments, name):
                remedy = f"run `./bioengine environments add {name}`, then `./bioengine models convert {self._id}`"
                raise NotConverted(self._id, f"its code needs the Python module {error.module}: {remedy}") from None
            return run(name)

    def _made(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir()
        return folder

    def _python(self, name: str) -> Path:
        return environment(self._settings.environments, name) / "bin" / "python"

    def _take(self, file: Path, target: Path) -> None:
        """Take the weights out of the folder that code of the package can write. They must be one plain file."""
        try:
            with open_left_file(file) as source, open(target, "xb") as copy:
                if os.fstat(source.fileno()).st_size > _MAX_WEIGHTS:
                    raise NotConverted(self._id, "the converted weights have more than 2 GB")
                shutil.copyfileobj(source, copy)
        except (FileNotFoundError, NotAFile):
            raise NotConverted(self._id, "its code has not left the converted weights as a file") from None
        try:
            is_alone = reader.is_alone_onnx(target, target)
        except NotAPackage:
            is_alone = False
        if not is_alone:
            raise NotConverted(self._id, "the converted weights refer to other files, or are no ONNX file")

    def _compare(self, original: Path, folder: Path, kind: str, name: str, hints: list[str]) -> list[float]:
        """For each sample, the largest difference of an output from that of the original model. Raises NotConverted.

        Args:
            original, folder: where the outputs of the original are, and those to compare.
            kind, name: how their files are called, and what they are, for people.
            hints: what the framework has warned of.
        """
        differences = []
        for sample in range(self._count):
            on = "the test image" if sample == 0 else f"random sample {sample}"
            differences.append(0.0)
            for number, spec in enumerate(self._manifest.outputs):
                expected = read_array(self._id, original / f"eager-{sample}-{number}.npy")
                found = read_array(self._id, folder / f"{kind}-{sample}-{number}.npy")
                what = f"the output '{spec.id}' of {name}"
                if found.shape != expected.shape:
                    raise NotConverted(self._id, f"on {on}, {what} has the shape {found.shape} instead of {expected.shape}")
                differs = difference(expected, found)
                if not is_same(expected, differs, self._way.tolerance):
                    why = ", because its code depends on the values or the size of an image" if hints else ""
                    raise NotConverted(self._id, f"on {on}, {what} differs by {differs:.2g} from the original{why}")
                differences[-1] = max(differences[-1], differs)
        return differences

    def _test(self, weights: Path) -> Manifest:
        """Run the package's own test on the converted weights; returns its manifest with them.

        Raises NotConverted, StoreError.
        """
        manifest = with_converted(self._manifest, weights, self._from)
        whole = self._made("package")
        for name in manifest.files:
            layout.link(self._package / name, whole / name)
        layout.link(weights, whole / CONVERTED)
        layout.write_json(whole / FILE_NAME, manifest.model_dump(mode="json"))
        variables = test_variables(self._settings)
        outcome = run_test(self._id, whole, self._python("runner"), ["onnx"], variables, _MAX_TEST)["onnx"]
        if outcome.status != "passed":
            raise NotConverted(self._id, f"its own test fails with the converted weights ({'; '.join(outcome.errors)[:300]})")
        return with_halo(manifest, whole, self._settings)
