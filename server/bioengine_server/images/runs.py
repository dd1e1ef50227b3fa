"""A model on image files: which files go in together, and where the results go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bioengine_server.errors import WrongImageCount
from bioengine_server.images.axes import from_model_axes, to_model_axes
from bioengine_server.images.client import Model, ModelClient, TensorAxes
from bioengine_server.images.files import SUFFIXES, Image, read_image, rescaled, write_image


@dataclass(frozen=True)
class Job:
    """One run: a file for each input of the model, and the file for its first output."""

    images: list[Path]
    output: Path

    @property
    def name(self) -> str:
        return ", ".join(image.name for image in self.images)


@dataclass(frozen=True)
class Written:
    """An output that was written."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Report:
    """What a run gave. `left_out`: names of outputs that were not written."""

    written: list[Written]
    left_out: list[str]
    seconds: float


def plan_runs(images: Sequence[Path], inputs: Sequence[TensorAxes], output: Path) -> list[Job]:
    """The runs for a list of images: one for each group of as many as the model has inputs.

    `output` is a file for one run, and a folder for several. Raises WrongImageCount.
    """
    count = len(inputs)
    groups = [list(images[start : start + count]) for start in range(0, len(images), count)]
    is_folder = output.is_dir() or output.suffix.lower() not in SUFFIXES
    if len(groups[-1]) != count or (len(groups) > 1 and not is_folder):
        raise WrongImageCount(len(images), [spec.name for spec in inputs], output)
    if not is_folder:
        return [Job(groups[0], output)]
    return [Job(group, output / f"{group[0].stem}{_suffix_for(group[0])}") for group in groups]


def run_on_files(client: ModelClient, model: Model, job: Job, axes: str | None, weights: str | None, all_outputs: bool) -> Report:
    """Read, run, write. Raises UnreadableImage, UnclearAxes, RunFailed, UnwritableImage.

    Args:
        client: connected.
        model: as `client.describe` says.
        job: of `plan_runs`.
        axes: of the images, where their files do not say.
        weights: the weights format, None for the server's choice.
        all_outputs: write the others too, as `<name>-<output>.<suffix>`.
    """
    images = [read_image(file) for file in job.images]
    arrays = [to_model_axes(image, axes, spec.axes) for image, spec in zip(images, model.inputs)]
    outputs, seconds = client.run(model.id, arrays, weights)
    before = dict(zip(model.inputs[0].axes, arrays[0].shape))
    job.output.parent.mkdir(parents=True, exist_ok=True)
    written, left_out = [], []
    for number, (output, spec) in enumerate(zip(outputs, model.outputs)):
        if number and not all_outputs:
            left_out.append(spec.name)
            continue
        file = job.output if number == 0 else job.output.with_stem(f"{job.output.stem}-{spec.name}")
        size = rescaled(images[0].pixel_size, before, dict(zip(spec.axes, output.shape)))
        data, kept = from_model_axes(output, spec.axes) if file.suffix != ".npy" else (output, spec.axes)
        write_image(file, Image(data, kept, size))
        written.append(Written(file, data.shape, data.dtype.name))
    return Report(written, left_out, seconds)


def _suffix_for(image: Path) -> str:
    """Of a result in a folder: TIFF, which holds any result, unless arrays came in."""
    return ".npy" if image.suffix == ".npy" else ".tif"
