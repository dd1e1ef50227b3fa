"""Run a model on image files: read the images, run the model, write the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bioengine_server.images.axes import Arranged, fits, from_model_axes, to_model_axes
from bioengine_server.images.client import ModelClient
from bioengine_server.images.errors import UnfitFormat, WrongAxesCount, WrongValues
from bioengine_server.images.files import read_image, write_image
from bioengine_server.images.image import Image, PixelSize, rescaled
from bioengine_server.images.model import Model, TensorAxes
from bioengine_server.images.plan import Job, check_batch
from bioengine_server.images.progress import Progress
from bioengine_server.output_file import OutputExists

_INSTEAD = (".tif", ".npy")  # kinds of files, of which the last holds anything
_MAX_NAMES = 1000  # that are tried for a result that its own file does not hold


@dataclass(frozen=True)
class Options:
    """How a model is run.

    `axes`: the axes of the images, if their files do not have them: the same for all images, or a list with commas, one entry for
    each image of a run. `weights`: the weight format; None for the server's choice. `series`: the number of the image in a TIFF,
    from 1. `overwrite`: whether to replace existing files. `labels`: whether objects are numbered, instead of the first output.
    """

    axes: str | None = None
    weights: str | None = None
    series: int | None = None
    overwrite: bool = False
    labels: bool = False


@dataclass(frozen=True)
class Written:
    """An output that was written."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Report:
    """The outcome of a run.

    `left_out`: the names of outputs that were not written. `notes`: sentences about the images, the run and the files, for the
    user.
    """

    written: list[Written]
    left_out: list[str]
    seconds: float
    notes: list[str]


def run_on_files(
    client: ModelClient, model: Model, job: Job, options: Options, progress: Progress = lambda words: None
) -> Report:
    """Run the model for one job. Errors that can be found in advance are raised before anything is run.

    `progress`: called with the progress of the run. Raises ImageError, RunFailed, ConnectionLost, OutputExists.
    """
    images = [read_image(file, options.series) for file in job.images]
    notes = [f"{file.name}: {note}." for file, image in zip(job.images, images) for note in image.notes]
    chosen = model.inputs_of(len(images))
    arranged = _arranged(images, [model.inputs[number] for number in chosen], options.axes)
    notes += [f"{file.name}: {note}." for file, array in zip(job.images, arranged) for note in array.notes]
    for image, array, number in zip(images, arranged, chosen):
        check_values(array.data, model.inputs[number], image.name)
    before = dict(zip(model.inputs[chosen[0]].axes, arranged[0].data.shape))
    check_batch(job, model, before.get("b", 1))
    arrays = dict(zip(chosen, (array.data for array in arranged)))
    inputs = [arrays.get(number) for number in range(max(chosen) + 1)]
    numbers = sorted(job.outputs)
    left_out = [spec.name for number, spec in enumerate(model.outputs) if number not in job.outputs]
    names = [model.outputs[number].asked_as for number in numbers] if left_out else None
    answer = client.run(model.id, inputs, options.weights, progress, names, options.labels)
    notes += [f"{job.name}: {warning}" for warning in answer.warnings]
    written = []
    for number, output in zip(numbers, answer.outputs):
        spec, file = model.outputs[number], job.outputs[number]
        size = rescaled(images[0].pixel_size, before, dict(zip(spec.axes, output.shape)), spec.scales)
        result = _result(output, spec, arranged[0], size, file)
        file, said = _write(file, result, options.overwrite, [*job.outputs.values()])
        notes += [f"{file.name}: {note}." for note in said]
        written.append(Written(file, result.data.shape, result.data.dtype.name))
    return Report(written, left_out, answer.seconds, notes)


def _write(file: Path, result: Image, overwrite: bool, planned: Sequence[Path]) -> tuple[Path, tuple[str, ...]]:
    """Write a result. If this kind of file turns out not to fit, write another kind beside it: the run may have been long.

    Returns the file that was written, and sentences about it. It is never a file that is `planned` for another result. Raises
    UnwritableImage, OutputExists.
    """
    try:
        return file, write_image(file, result, overwrite)
    except UnfitFormat as error:
        unfit = error
    for suffix in _INSTEAD:
        for number in range(_MAX_NAMES):
            other = file.with_name(f"{file.stem}-{number}{suffix}" if number else f"{file.stem}{suffix}")
            if other in planned:
                continue
            try:
                said = write_image(other, result)  # replacing what has this name was not asked for
            except OutputExists:
                continue
            except UnfitFormat:
                break
            return other, (f"it was written instead of {file.name}: {unfit.reason}", *said)
    raise unfit


def _arranged(images: Sequence[Image], specs: Sequence[TensorAxes], axes: str | None) -> list[Arranged]:
    """The images with the axes of the model's inputs.

    Axes without a comma are used for all images that they fit; for the others, the file and the model decide. If they fit no
    image, the error is about the first one. Raises WrongAxesCount, UnclearAxes, WrongChannels.
    """
    said: list[str | None] = [part.strip() or None for part in axes.split(",")] if axes else [None] * len(images)
    if len(said) == 1 and (one := said[0]) is not None:
        can = [fits(image, one, spec) for image, spec in zip(images, specs)]
        said = [one if fit or not any(can) else None for fit in can]
    if len(said) != len(images):
        raise WrongAxesCount(axes or "", [image.name for image in images])
    flags = [",".join("{}" if other == index else part or "" for other, part in enumerate(said)) for index in range(len(said))]
    flags = [f'"{flag}"' if "," in flag else flag for flag in flags]
    return [to_model_axes(*each) for each in zip(images, said, specs, flags)]


def check_values(array: np.ndarray, spec: TensorAxes, name: str = "") -> None:
    """Raises WrongValues if the model's integer dtype cannot represent the values of an image."""
    wanted = np.dtype(spec.dtype) if spec.dtype in np.sctypeDict else None
    if wanted is None or wanted.kind not in "iu" or np.can_cast(array.dtype, wanted, "safe"):
        return
    limits = np.iinfo(wanted)
    known = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    low, high = (float(known.min()), float(known.max())) if known.size else (float("nan"), float("nan"))
    whole = array.dtype.kind != "f" or (known.size == array.size and np.array_equal(known, np.trunc(known)))
    if not whole or low < limits.min or high > limits.max:
        raise WrongValues(array.dtype.name, low, high, array.size - known.size, spec.dtype, (limits.min, limits.max), name)


def _result(output: np.ndarray, spec: TensorAxes, image: Arranged, size: PixelSize, file: Path) -> Image:
    """What to write of a model's output: arrays as they are, images with the axes of their input."""
    if file.suffix.lower() == ".npy" or not spec.is_image:
        return Image(output, spec.axes)
    data, axes = from_model_axes(output, spec.axes, image)
    return Image(data, axes, size)
