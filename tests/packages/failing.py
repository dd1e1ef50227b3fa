"""Packages that fail on their way into memory, or at work, each in its own way; and one with a file name that is not ASCII."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from onnx import helper

from tests.packages.writing import BATCH, Package, channels, image_value, space, tensor

SHAPE = (1, 1, 8, 8)
IMAGE = np.arange(64, dtype=np.float32).reshape(SHAPE)
CRASH = "ctypes.string_at(0)"

# What the package's code does when it is asked for its step.
OPENING = {
    "raises": "raise ValueError('no such step\\nand more lines')",
    "exits": "sys.exit(3)",
    "just-ends": "os._exit(3)",
    "is-killed": "os.kill(os.getpid(), signal.SIGKILL)",  # as the kernel does where memory is full
    "crashes": CRASH,
    "takes-all-memory": "resource.setrlimit(resource.RLIMIT_AS, (1 << 20, -1)); bytearray(1 << 40)",
}
# What the step does with an image.
WORKING = {"exits-at-work": "sys.exit(3)", "crashes-at-work": CRASH}


def doubled_plus_one(package: Package, file: str = "weights.onnx") -> None:
    """Weights that make 2 x + 1 of `raw`, as `out`."""
    package.onnx(
        [helper.make_node("Mul", ["raw", "two"], ["twice"]), helper.make_node("Add", ["twice", "one"], ["out"])],
        [image_value("raw", *SHAPE)],
        [image_value("out", *SHAPE)],
        {"two": np.array(2, np.float32), "one": np.array(1, np.float32)},
    )
    if file != "weights.onnx":
        (package.folder / "weights.onnx").rename(package.folder / file)
        package.rdf["weights"]["onnx"]["source"] = file


def umlaut_weights(folder: Path) -> None:
    package = Package(folder, "umlaut-weights")
    doubled_plus_one(package, "gewichte_ü.onnx")
    axes = [{**BATCH, "size": 1}, channels("value"), space("y", 8), space("x", 8)]
    package.save([(tensor("raw", "float32", axes), IMAGE)], [(tensor("out", "float32", axes), 2 * IMAGE + 1)])


def coded(name: str, made: str, step: str, folder: Path) -> None:
    """A package with Python code of its own: `made` runs when it is opened, `step` at each of its runs."""
    package = Package(folder, name)
    doubled_plus_one(package)
    (package.folder / "steps.py").write_text(
        "import ctypes, os, resource, signal, sys\n\n\n"
        f"def make():\n    {made}\n\n    def step(image):\n        {step}\n        return image\n\n    return step\n"
    )
    custom = {"id": "custom", "callable": "make", "source": "steps.py", "sha256": package.sha256("steps.py"), "kwargs": {}}
    package.rdf["format_version"] = "0.5.12"
    axes = [{**BATCH, "size": 1}, channels("value"), space("y", 8), space("x", 8)]
    package.save(
        [(tensor("raw", "float32", axes), IMAGE)],
        [(tensor("out", "float32", axes, postprocessing=[custom]), 2 * IMAGE + 1)],
    )


FAILING: tuple[Callable[[Path], None], ...] = (
    umlaut_weights,
    *(partial(coded, name, code, "pass") for name, code in OPENING.items()),
    *(partial(coded, name, "pass", code) for name, code in WORKING.items()),
)
