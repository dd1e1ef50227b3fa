"""Packages for the specification's processing steps: one for each step, before and after a model that squares its input.

The formulas are those of bioimageio.core. Version 0.11 takes all statistics from the inputs as they come in: it cannot run a
postprocessing that needs those of an output, such as `scale_mean_variance`; nor can it run `binarize` along an axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from tests.packages.writing import BATCH, EPS, Package, channels, image_value, like, space, tensor, tensor_0_4

COLOURS = 3
LOWER, UPPER = 5.0, 90.0
GAINS, OFFSETS = [2.0, 0.5, 1.0], [0.0, 1.0, -1.0]
IMAGE = np.random.default_rng(40).gamma(2, 0.5, (1, COLOURS, 12, 16)).astype(np.float32)
Formula = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Step:
    """A processing step with its parameters, and its formula on (b, c, y, x).

    `before`, `after`: whether bioimageio.core runs it as pre- and as postprocessing. `dtype`: what it gives.
    """

    name: str
    formula: Formula
    kwargs: dict[str, Any] = field(default_factory=dict)
    variant: str = ""
    before: bool = True
    after: bool = True
    dtype: str = "float32"


def along_channels(values: Sequence[float]) -> np.ndarray:
    return np.array(values).reshape(1, -1, 1, 1)


def normalized(axes: tuple[int, ...] | None) -> Formula:
    def formula(image: np.ndarray) -> np.ndarray:
        return (image - image.mean(axes, keepdims=True)) / (image.std(axes, keepdims=True) + EPS)

    return formula


def scaled(axes: tuple[int, ...] | None, reference: np.ndarray | None = None) -> Formula:
    def formula(image: np.ndarray) -> np.ndarray:
        lower, upper = np.percentile(image if reference is None else reference, [LOWER, UPPER], axes, keepdims=True)
        return (image - lower) / (upper - lower + EPS)

    return formula


def clipped_to_percentiles(image: np.ndarray) -> np.ndarray:
    return np.clip(image, *np.percentile(image, [LOWER, UPPER], (2, 3), keepdims=True, method="inverted_cdf"))


def like_the_input(image: np.ndarray) -> np.ndarray:
    return normalized((1, 2, 3))(image) * (IMAGE.std() + EPS) + IMAGE.mean()


def sigmoid(image: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-image))


def softmax(image: np.ndarray) -> np.ndarray:
    return np.exp(image) / np.exp(image).sum(1, keepdims=True)


PERCENTILES = {"min_percentile": LOWER, "max_percentile": UPPER}
STEPS = (
    Step("binarize", lambda image: image > 0.5, {"threshold": 0.5}, dtype="bool"),
    Step("clip", lambda image: image.clip(0.25, 0.75), {"min": 0.25, "max": 0.75}),
    Step("clip", clipped_to_percentiles, {"axes": ["y", "x"], **PERCENTILES}, "percentiles", after=False),
    Step("ensure_dtype", lambda image: image.astype(np.uint8), {"dtype": "uint8"}, dtype="uint8"),
    Step("fixed_zero_mean_unit_variance", lambda image: (image - 0.5) / (2.0 + EPS), {"mean": 0.5, "std": 2.0}),
    Step(
        "fixed_zero_mean_unit_variance",
        lambda image: (image - along_channels(OFFSETS)) / (along_channels(GAINS) + EPS),
        {"axis": "channel", "mean": OFFSETS, "std": GAINS},
        "channels",
    ),
    Step("scale_linear", lambda image: image * 2.0 + 1.0, {"gain": 2.0, "offset": 1.0}),
    Step(
        "scale_linear",
        lambda image: image * along_channels(GAINS) + along_channels(OFFSETS),
        {"axis": "channel", "gain": GAINS, "offset": OFFSETS},
        "channels",
    ),
    Step("scale_mean_variance", like_the_input, {"reference_tensor": "image", "axes": ["channel", "y", "x"]}, before=False),
    Step("scale_range", scaled((2, 3)), {"axes": ["y", "x"], **PERCENTILES}, after=False),
    Step("scale_range", scaled(None), PERCENTILES, "dataset", after=False),
    Step(
        "scale_range",
        scaled((2, 3), IMAGE),
        {"axes": ["y", "x"], "reference_tensor": "image", **PERCENTILES},
        "reference",
        before=False,
    ),
    Step("sigmoid", sigmoid),
    Step("softmax", softmax, {"axis": "channel"}),
    Step("zero_mean_unit_variance", normalized((2, 3)), {"axes": ["y", "x"]}, after=False),
    Step("zero_mean_unit_variance", normalized((1, 2, 3)), {"axes": ["channel", "y", "x"]}, "samples", after=False),
    Step("zero_mean_unit_variance", normalized(None), {}, "dataset", after=False),
    Step("zero_mean_unit_variance", normalized((0, 2, 3)), {"axes": ["batch", "y", "x"]}, "batches", after=False),
)
STEPS_0_4 = (
    Step("binarize", lambda image: image > 0.5, {"threshold": 0.5}),
    Step("clip", lambda image: image.clip(0.25, 0.75), {"min": 0.25, "max": 0.75}),
    Step("scale_linear", lambda image: image * 2.0 + 1.0, {"gain": 2.0, "offset": 1.0}, after=False),
    Step("scale_range", scaled((2, 3)), {"mode": "per_sample", "axes": "yx", **PERCENTILES}, after=False),
    Step("scale_range", scaled((0, 2, 3)), {"mode": "per_dataset", "axes": "yx", **PERCENTILES}, "dataset", after=False),
    Step("sigmoid", sigmoid),
    Step("zero_mean_unit_variance", normalized((2, 3)), {"mode": "per_sample", "axes": "yx"}, after=False),
    Step("zero_mean_unit_variance", normalized((0, 2, 3)), {"mode": "per_dataset", "axes": "yx"}, "dataset", after=False),
    Step(
        "zero_mean_unit_variance",
        lambda image: (image - 0.5) / (2.0 + EPS),
        {"mode": "fixed", "axes": "cyx", "mean": 0.5, "std": 2.0},
        "fixed",
    ),
)


def processed(folder: Path, step: Step, old: bool) -> None:
    """`squared` is the input, preprocessed and squared; `processed` is the same, postprocessed. In format 0.4 where `old`."""
    parts = ("old" if old else "step", step.name.replace("_", "-"), step.variant)
    package = Package(folder, "-".join(part for part in parts if part))
    outputs = ["squared", "processed"] if step.after else ["squared"]
    free = ["b", COLOURS, "y", "x"]
    package.onnx(
        [helper.make_node("Mul", ["image", "image"], [name]) for name in outputs],
        [image_value("image", *free)],
        [image_value(name, *free) for name in outputs],
        {},
    )
    described = {"name" if old else "id": step.name, **({"kwargs": step.kwargs} if step.kwargs else {})}
    # The model takes float32 whatever comes before it.
    cast = [] if step.dtype == "float32" else [{"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}]
    before: Any = {"preprocessing": [described, *cast]} if step.before else {}
    after: Any = [{"dtype": "float32"}, {"dtype": step.dtype, "postprocessing": [described]}]
    squared = ((step.formula(IMAGE) if step.before else IMAGE).astype(np.float64) ** 2).astype(np.float32)
    arrays = [squared, step.formula(squared).astype(step.dtype)]
    if old:
        shape = {"min": [1, COLOURS, 1, 1], "step": [0, 0, 1, 1]}
        following = {"reference_tensor": "image", "scale": [1.0] * 4, "offset": [0] * 4}
        package.save_0_4(
            [(tensor_0_4("image", shape, **before), IMAGE)],
            [(tensor_0_4(name, following, **more), array) for name, more, array in zip(outputs, after, arrays)],
        )
        return
    colours, size = channels("red", "green", "blue"), {"min": 1, "step": 1}
    axes = [BATCH, colours, *(space(id, like("image", id)) for id in "yx")]
    package.save(
        [(tensor("image", "float32", [BATCH, colours, *(space(id, size) for id in "yx")], **before), IMAGE)],
        [(tensor(name, axes=axes, **more), array) for name, more, array in zip(outputs, after, arrays)],
    )


PROCESSING = tuple(partial(processed, step=step, old=old) for old, steps in ((False, STEPS), (True, STEPS_0_4)) for step in steps)
