"""The right answers: what bioimageio.core itself makes of the same images, in a process of its own."""

from __future__ import annotations

from pathlib import Path

from bioengine_server.bench.stack import BenchStack
from bioengine_server.soak.plan import IMAGES, Image


def right_answers(stack: BenchStack) -> dict[Image, Path]:
    """A .npy file for each image of the plan. Raises BenchFailed."""
    files = {image: stack.folder / f"right-{number}.npy" for number, image in enumerate(IMAGES)}
    with stack.core_user() as core:
        for image, file in files.items():
            core.predict(image.model, image.shape, image.seed, file)
    return files
