"""The demo: nuclei that were drawn, segmented by the model that comes with the project, as pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bioengine_server.demo.nuclei import dice, draw
from bioengine_server.images.client import ModelClient
from bioengine_server.images.files import Image, write_image

MODEL = "drawn-nuclei"

_SEED = 7  # never seen in training
_TIMEOUT = 300.0  # seconds
_OUTLINE = np.array([255, 196, 0], np.uint8)


def segment_drawing(url: str, folder: Path) -> float:
    """Draw, run through the server at `url`, write input.png, mask.png and overlay.png; the Dice score of the mask.

    Raises NoServer, RunFailed, UnwritableImage.
    """
    drawing = draw(_SEED)
    with ModelClient(url, _TIMEOUT) as client:
        outputs, _ = client.run(MODEL, [drawing.image[None, None]])
    mask = outputs[0][0, 0] > 0.5
    folder.mkdir(parents=True, exist_ok=True)
    gray = displayed(drawing.image)
    write_image(folder / "input.png", Image(gray, "yx"))
    write_image(folder / "mask.png", Image(mask, "yx"))
    overlay = np.repeat(gray[None], 3, axis=0)
    overlay[:, outline(mask)] = _OUTLINE[:, None]
    write_image(folder / "overlay.png", Image(overlay, "cyx"))
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
