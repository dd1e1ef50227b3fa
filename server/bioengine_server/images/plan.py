"""Plan the runs before anything is run: which files are run together, and which file each result is written to."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from bioengine_server.images.errors import NoFormat, NoName, OutputIsInput, SameOutput, WrongImageCount, WrongKind
from bioengine_server.images.files import FORMATS, IMAGE_FORMATS, TABLE_FORMATS, format_of
from bioengine_server.images.model import Model, TensorAxes
from bioengine_server.images.png import why_not_png
from bioengine_server.output_file import OutputNotPossible, check_outputs

_MAX_NAME = 255  # bytes, of a file in most file systems


@dataclass(frozen=True)
class Job:
    """One run: a file for each input of the model, and the file for each output that is written, by the output's number."""

    images: list[Path]
    outputs: dict[int, Path]

    @property
    def name(self) -> str:
        return ", ".join(image.name for image in self.images)


def check_output_name(output: str) -> bool:
    """Whether an output, as the user typed it, is a folder. Raises NoFormat, NoName, OutputNotPossible."""
    path = Path(output)
    if not output.endswith(os.sep) and not path.is_dir() and _lacks_a_part(path.name):
        raise NoName(path)
    if output.endswith(os.sep) or path.is_dir() or not path.suffix:
        if os.path.lexists(path) and not path.is_dir():
            says = (
                "without the slash, it is the file to write"
                if format_of(path) in FORMATS
                else "its name does not say which format to write"
            )
            raise OutputNotPossible(path, f"it is a file, not a folder; {says}")
        return True
    if format_of(path) not in FORMATS:
        raise NoFormat(path, FORMATS)
    return False


def _lacks_a_part(name: str) -> bool:
    """Whether a name is only a suffix, or ends with a dot: that is neither a supported file nor a plausible folder."""
    return (
        format_of(Path(f"name{name}")) in FORMATS if name.startswith(".") and name != ".." else name[-1:] == "." and name != ".."
    )


def plan_runs(images: Sequence[Path], model: Model, output: str, all_outputs: bool = False, overwrite: bool = False) -> list[Job]:
    """The runs for a list of images: one for each group of as many as the model has inputs.

    Optional inputs are left out, unless `output` is a file and images for them are there.

    `output` is a file for one run, or a folder, in which results are called by the image and the model. No file is an image, or
    that of two results, and none exists already unless `overwrite` is set.

    Raises NoFormat, NoName, WrongImageCount, WrongKind, SameOutput, OutputIsInput, OutputExists, OutputNotPossible.
    """
    is_folder = check_output_name(output)
    count = needed = sum(not spec.optional for spec in model.inputs) or 1
    if not is_folder and needed <= len(images) <= len(model.inputs):
        count = len(images)
    groups = [list(images[start : start + count]) for start in range(0, len(images), count)]
    if len(groups[-1]) != count or (len(groups) > 1 and not is_folder):
        wanted, optional = ([spec.name for spec in model.inputs if spec.optional is kind] for kind in (False, True))
        raise WrongImageCount(len(images), wanted, optional, Path(output), is_folder)
    numbers = range(len(model.outputs) if all_outputs else 1)
    jobs = []
    for group, label in zip(groups, _labels(groups, _room(model)) if is_folder else [""]):
        if is_folder:
            first = Path(output) / f"{label}_{_for_file(model.id)}{_usual_suffix(model.outputs[0], group[0])}"
        else:
            first = Path(output)
            _check_kind(first, model.outputs[0])
        jobs.append(Job(group, _beside(first, [model.outputs[number] for number in numbers])))
    _check_distinct(jobs)
    _check_no_inputs(jobs, images)
    check_outputs([file for job in jobs for file in job.outputs.values()], overwrite)
    return jobs


def _beside(first: Path, specs: Sequence[TensorAxes]) -> dict[int, Path]:
    """The file of each output, named after that of the first; if two names would be the same, the later ones get numbers."""
    files, taken = {0: first}, {_key(first.name)}
    for number, spec in list(enumerate(specs))[1:]:
        stem, suffix = f"{first.stem}-{_for_file(spec.name)}", _suffix_beside(first, spec)
        names = (stem + suffix, *(f"{stem}-{more}{suffix}" for more in range(2, len(specs) + 2)))
        name = next(name for name in names if _key(name) not in taken)
        taken.add(_key(name))
        files[number] = first.with_name(name)
    return files


def check_batch(job: Job, model: Model, batch: int) -> None:
    """Whether the files hold as many samples as the images have. Raises WrongKind."""
    for number, file in job.outputs.items():
        _check_kind(file, model.outputs[number], batch)


def _check_kind(file: Path, spec: TensorAxes, batch: int = 1) -> None:
    """Raises WrongKind if the model's output cannot be written as such a file."""
    suffix, reason = format_of(file), None
    formats: tuple[str, ...] = IMAGE_FORMATS
    if not spec.is_image:
        formats = TABLE_FORMATS if len(spec.axes) <= 2 else (".npy",)
        if suffix not in formats:
            reason = "it has no y and x axes, so it is not an image" if suffix != ".csv" else "a .csv has only rows and columns"
    elif suffix == ".png":
        reason = why_not_png(spec.axes, spec.channels, spec.dtype, batch)
        formats = tuple(name for name in formats if name != ".png")
    elif suffix not in formats:
        reason = "it is an image, but a .csv is a table"
    if reason is not None:
        raise WrongKind(file, spec.name, spec.axes, reason, formats)


def _usual_suffix(spec: TensorAxes, image: Path) -> str:
    """The suffix of a result in a folder: TIFF for images, CSV for tables, or NumPy if the input was a NumPy file."""
    if image.suffix.lower() == ".npy":
        return ".npy"
    return ".tif" if spec.is_image else _table_suffix(spec)


def _suffix_beside(first: Path, spec: TensorAxes) -> str:
    """The suffix of a further output: that of the first output if this kind of file can contain it."""
    try:
        _check_kind(first, spec)
    except WrongKind:
        return ".tif" if spec.is_image else _table_suffix(spec)
    return first.suffix


def _table_suffix(spec: TensorAxes) -> str:
    return ".csv" if len(spec.axes) <= 2 else ".npy"


def _for_file(name: str) -> str:
    """A model's or output's name as part of a file's name: ids contain slashes, and names any characters."""
    return _cut(re.sub(r"[^\w.-]+", "-", name), 100)


def _room(model: Model) -> int:
    """The number of bytes in a result's name that are left for the names of its images."""
    outputs = max(len(os.fsencode(_for_file(spec.name))) for spec in model.outputs)
    return _MAX_NAME - len(os.fsencode(_for_file(model.id))) - outputs - len("_--999.tiff")


def _cut(name: str, most: int) -> str:
    """The beginning of a name that has at most so many bytes, without cutting a letter."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= most else encoded[:most].decode(errors="ignore")


def _labels(groups: Sequence[Sequence[Path]], room: int) -> list[str]:
    """A name for each group's result, all different: the first image's own, with as much of the others as it takes.

    That is its suffix, the other images of the group, the folders that it lies in; where these differ by case alone, a number.
    None has more bytes than `room`. Raises SameOutput for images that are given twice.
    """
    seen: dict[tuple[str, ...], Sequence[Path]] = {}
    for group in groups:
        if (key := tuple(map(os.path.abspath, group))) in seen:
            raise SameOutput(Path(group[0].stem), [", ".join(map(str, seen[key]))] * 2)
        seen[key] = group
    numbers = [f"-{number}" for number in range(1, len(groups) + 1)]
    choices = [
        [*(_cut(name, room) for name in _more_and_more(group)), _cut(group[0].stem, room - len(number)) + number]
        for group, number in zip(groups, numbers)
    ]
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
    """Names for a group of images, each of them more specific than the one before."""
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
                raise SameOutput(file, [job.name] if seen[key] is job else [seen[key].name, job.name])
            seen[key] = job


def _check_no_inputs(jobs: Sequence[Job], images: Sequence[Path]) -> None:
    """Check that no output would overwrite an image, by whatever name or link. Raises OutputIsInput."""
    by_path = {os.path.realpath(image): image for image in images}
    by_node = {node: image for image in images if (node := _node(image)) is not None}
    for job in jobs:
        for file in job.outputs.values():
            node = _node(file)
            image = by_path.get(os.path.realpath(file)) or (by_node.get(node) if node else None)
            if image is not None:
                raise OutputIsInput(file, image)


def _key(name: str) -> str:
    """A key that is equal for names that some file systems consider the same, because of case or Unicode forms."""
    return unicodedata.normalize("NFC", name).casefold()


def _node(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
