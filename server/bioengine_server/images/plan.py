"""Which files go in together, and where each result goes: settled, and refused, before anything is run."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from bioengine_server.images.errors import NoFormat, OutputIsInput, SameOutput, WrongImageCount, WrongKind
from bioengine_server.images.files import FORMATS, IMAGE_FORMATS, TABLE_FORMATS, format_of
from bioengine_server.images.model import Model, TensorAxes
from bioengine_server.images.png import why_not_png
from bioengine_server.output_file import OutputNotPossible, check_outputs


@dataclass(frozen=True)
class Job:
    """One run: a file for each input of the model, and the file for each output that is written, by the output's number."""

    images: list[Path]
    outputs: dict[int, Path]

    @property
    def name(self) -> str:
        return ", ".join(image.name for image in self.images)


def check_output_name(output: str) -> bool:
    """Whether an output, as it was typed, is a folder. Raises NoFormat, OutputNotPossible."""
    path = Path(output)
    if output.endswith(os.sep) or path.is_dir() or not path.suffix:
        if os.path.lexists(path) and not path.is_dir():
            raise OutputNotPossible(path, "it is a file, not a folder, and its name does not say in which format to write")
        return True
    if format_of(path) not in FORMATS:
        raise NoFormat(path, FORMATS)
    return False


def plan_runs(images: Sequence[Path], model: Model, output: str, all_outputs: bool = False, overwrite: bool = False) -> list[Job]:
    """The runs for a list of images: one for each group of as many as the model has inputs.

    Optional inputs are left out, unless `output` is a file and images for them are there.

    `output` is a file for one run, or a folder, in which results are called by the image and the model. No file is an image, or
    that of two results, and none is there already unless `overwrite`.

    Raises NoFormat, WrongImageCount, WrongKind, SameOutput, OutputIsInput, OutputExists, OutputNotPossible.
    """
    is_folder = check_output_name(output)
    count = needed = sum(not spec.optional for spec in model.inputs) or 1
    if not is_folder and needed <= len(images) <= len(model.inputs):
        count = len(images)
    groups = [list(images[start : start + count]) for start in range(0, len(images), count)]
    if len(groups[-1]) != count or (len(groups) > 1 and not is_folder):
        raise WrongImageCount(len(images), [spec.name for spec in model.inputs], Path(output))
    numbers = range(len(model.outputs) if all_outputs else 1)
    jobs = []
    for group, label in zip(groups, _labels(groups) if is_folder else [""]):
        if is_folder:
            first = Path(output) / f"{label}_{_for_file(model.id)}{_usual_suffix(model.outputs[0], group[0])}"
        else:
            first = Path(output)
            _check_kind(first, model.outputs[0])
        others = {
            number: first.with_name(f"{first.stem}-{_for_file(spec.name)}{_suffix_beside(first, spec)}")
            for number, spec in enumerate(model.outputs)
            if number and number in numbers
        }
        jobs.append(Job(group, {0: first, **others}))
    _check_distinct(jobs)
    _check_no_inputs(jobs, images)
    check_outputs([file for job in jobs for file in job.outputs.values()], overwrite)
    return jobs


def check_batch(job: Job, model: Model, batch: int) -> None:
    """Whether the files hold as many samples as the images have. Raises WrongKind."""
    for number, file in job.outputs.items():
        _check_kind(file, model.outputs[number], batch)


def _check_kind(file: Path, spec: TensorAxes, batch: int = 1) -> None:
    """Raises WrongKind where the model's output cannot be written as such a file."""
    suffix, reason = format_of(file), None
    formats: tuple[str, ...] = IMAGE_FORMATS
    if not spec.is_image:
        formats = TABLE_FORMATS if len(spec.axes) <= 2 else (".npy",)
        if suffix not in formats:
            reason = "it has no y and x axes, so it is no image" if suffix != ".csv" else "a .csv has rows and columns alone"
    elif suffix == ".png":
        reason = why_not_png(spec.axes, spec.channels, spec.dtype, batch)
        formats = tuple(name for name in formats if name != ".png")
    elif suffix not in formats:
        reason = "it is an image, and a table was named"
    if reason is not None:
        raise WrongKind(file, spec.name, spec.axes, reason, formats)


def _usual_suffix(spec: TensorAxes, image: Path) -> str:
    """Of a result in a folder: TIFF or CSV, which hold any image and table; NumPy where that came in."""
    if image.suffix.lower() == ".npy":
        return ".npy"
    return ".tif" if spec.is_image else _table_suffix(spec)


def _suffix_beside(first: Path, spec: TensorAxes) -> str:
    """Of a further output: that of the first, where it can be."""
    try:
        _check_kind(first, spec)
    except WrongKind:
        return ".tif" if spec.is_image else _table_suffix(spec)
    return first.suffix


def _table_suffix(spec: TensorAxes) -> str:
    return ".csv" if len(spec.axes) <= 2 else ".npy"


def _for_file(name: str) -> str:
    """A name of a model or output as part of a file's name: ids have slashes, and names may be anything."""
    return re.sub(r"[^\w.-]+", "-", name)[:100]


def _labels(groups: Sequence[Sequence[Path]]) -> list[str]:
    """A name for each group's result, all different: the first image's own, with as much of the others as it takes.

    That is its suffix, the other images of the group, the folders that it lies in; where these differ by case alone, a number.
    Raises SameOutput for images that are given twice.
    """
    seen: dict[tuple[str, ...], Sequence[Path]] = {}
    for group in groups:
        if (key := tuple(map(os.path.abspath, group))) in seen:
            raise SameOutput(Path(group[0].stem), [", ".join(map(str, images)) for images in (seen[key], group)])
        seen[key] = group
    choices = [[*_more_and_more(group), f"{group[0].stem}-{number}"] for number, group in enumerate(groups, start=1)]
    level = [0] * len(groups)
    while True:
        labels = [choice[min(depth, len(choice) - 1)] for choice, depth in zip(choices, level)]
        keys = [_key(label) for label in labels]
        often = Counter(keys)
        if max(often.values()) == 1:
            return labels
        same = [index for index, key in enumerate(keys) if often[key] > 1]
        if all(level[index] >= len(choices[index]) for index in same):
            return labels  # not seen yet; that two results would be one file is found where all names are compared
        for index in same:
            level[index] += 1


def _more_and_more(group: Sequence[Path]) -> list[str]:
    """Names for a group of images, each telling it from more others than the one before."""
    first = group[0]
    together = "-".join(image.stem for image in group)
    with_suffixes = "-".join(image.name.replace(".", "-") for image in group)
    folders = [part for part in reversed(first.absolute().parent.parts) if part != os.sep]
    longer = accumulate(folders, lambda name, folder: f"{folder}-{name}", initial=with_suffixes)
    parents = accumulate(folders, lambda name, folder: f"{folder}-{name}", initial=together)
    return [first.stem, together, *[name for pair in zip(longer, parents) for name in reversed(pair)][1:]]


def _check_distinct(jobs: Sequence[Job]) -> None:
    seen: dict[str, Job] = {}
    for job in jobs:
        for file in job.outputs.values():
            key = _key(os.path.realpath(file))
            if key in seen:
                raise SameOutput(file, [seen[key].name, job.name])
            seen[key] = job


def _check_no_inputs(jobs: Sequence[Job], images: Sequence[Path]) -> None:
    """No output is an image, by whatever name or link. Raises OutputIsInput."""
    by_path = {os.path.realpath(image): image for image in images}
    by_node = {node: image for image in images if (node := _node(image)) is not None}
    for job in jobs:
        for file in job.outputs.values():
            node = _node(file)
            image = by_path.get(os.path.realpath(file)) or (by_node.get(node) if node else None)
            if image is not None:
                raise OutputIsInput(file, image)


def _key(name: str) -> str:
    """The same for names that some file systems do not tell apart, by case or by Unicode's forms."""
    return unicodedata.normalize("NFC", name).casefold()


def _node(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
