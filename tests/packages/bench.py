"""The packages that `bioengine bench` measures with. The built ones are a part of the server (`bioengine_server/bench`)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from onnx import helper

from tests.packages.network import convolutions
from tests.packages.sizes import convolutional, image_of, normalized
from tests.packages.writing import BATCH, Package, channels, image_value, like, space, tensor


def bench_echo(folder: Path) -> None:
    """What comes goes back: what is measured is the way there and back."""
    package = Package(folder, "bench-echo")
    package.rdf["description"] = "Gives back its input, for `bioengine bench`."
    package.onnx(
        [helper.make_node("Identity", ["image"], ["same"])],
        [image_value("image", "b", 1, "y", "x")],
        [image_value("same", "b", 1, "y", "x")],
        {},
    )
    image = np.random.default_rng(5).random((1, 1, 4, 6), np.float32)
    free = {"min": 1, "step": 1}
    package.save(
        [(tensor("image", "float32", [BATCH, channels("value"), space("y", free), space("x", free)]), image)],
        [
            (
                tensor(
                    "same",
                    "float32",
                    [BATCH, channels("value"), space("y", like("image", "y")), space("x", like("image", "x"))],
                ),
                image,
            )
        ],
    )


BENCH = (
    bench_echo,
    # Work enough for a second or so on two cores, where the volume is 64 x 256 x 256.
    partial(
        convolutional, id="bench-volume", network=convolutions(10, 4, dimensions=3, channels=16),
        image=image_of(10, 1, 1, 16, 20, 24), size={"min": 16, "step": 4}, halo=4,
    ),
    partial(normalized, id="bench-uint16", dtype="uint16"),
)  # fmt: skip
