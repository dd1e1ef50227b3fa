"""The packages that `bioengine bench` measures with. The built ones are a part of the server (`bioengine_server/bench`)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from onnx import helper

from tests.packages.sizes import image_of, normalized
from tests.packages.unet import UNet, unet
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
    partial(
        unet, id="bench-unet", network=UNet(2, features=32, levels=3), image=image_of(10, 1, 1, 104, 112),
        size={"min": 104, "step": 8}, halo=48,
    ),
    # Its halo is less than what it sees, which would be half of a test tensor of its own: it is for images that are run whole.
    partial(
        unet, id="bench-unet-3d", network=UNet(3, features=16, levels=2), image=image_of(11, 1, 1, 20, 24, 28),
        size={"min": 20, "step": 4}, halo=8,
    ),
    partial(normalized, id="bench-uint16", dtype="uint16"),
)  # fmt: skip
