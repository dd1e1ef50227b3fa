"""The demo: nuclei that were drawn, segmented by the model that comes with the project, as pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bioengine_server.demo.nuclei import dice, draw
from bioengine_server.images.client import ModelClient
from bioengine_server.images.files import write_image
from bioengine_server.images.image import Image

MODEL = "drawn-nuclei"
PICTURES = ("input.png", "mask.png", "overlay.png")

_SEED = 7  # never seen in training
_TIMEOUT = 300.0  # seconds
_OUTLINE = np.array([255, 196, 0], np.uint8)


def segment_drawing(url: str, folder: Path, overwrite: bool = False) -> float:
    """Draw, run through the server at `url`, write input.png, mask.png and overlay.png; the Dice score of the mask.

    Raises what `ModelClient` raises, UnwritableImage, OutputExists.
    """
    drawing = draw(_SEED)
    with ModelClient(url, _TIMEOUT) as client:
        outputs = client.run(MODEL, [drawing.image[None, None]]).outputs
    mask = outputs[0][0, 0] > 0.5
    gray = displayed(drawing.image)
    overlay = np.repeat(gray[None], 3, axis=0)
    overlay[:, outline(mask)] = _OUTLINE[:, None]
    for name, picture in zip(PICTURES, (Image(gray, "yx"), Image(mask, "yx"), Image(overlay, "cyx"))):
        write_image(folder / name, picture, overwrite)
    return dice(mask, drawing.labels > 0)


def displayed(image: np.ndarray) -> np.ndarray:
    """An image, (y, x), stretched to uint8 between its 0.5th and 99.8th percentiles."""
    low, high = np.percentile(image, (0.5, 99.8))
    stretched: np.ndarray = (np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    return stretched


def outline(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask, (y, x), that have a neighbour outside of it."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge: np.ndarray = mask & ~inner
    return edge
