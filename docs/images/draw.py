"""Draw the pictures of docs/images.md, with a server that runs.

    .environments/client-notebook/bin/python docs/images/draw.py http://127.0.0.1:9520 [FOLDER]

Images are drawn as for the demo, and run by the server; where tiles are, the runner's own planner says (tiles.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from imjoy_rpc.hypha.sync import connect_to_server
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

HERE = Path(__file__).resolve().parent
# The drawing is the server's, for the demo; it needs NumPy alone, so it can be taken from there without an installation.
sys.path.insert(0, str(HERE.parents[1] / "server"))

from bioengine_server.demo.nuclei import draw  # noqa: E402

GRAY = {"cmap": "gray", "interpolation": "nearest"}
BLUE, ORANGE = "#1f8fff", "#ffb000"
MODEL = "drawn-nuclei"

Run = Callable[..., np.ndarray]
"""`run(image, tile=...)`: an image (y, x) -> the model's probability of nucleus (y, x)."""


def planned(*numbers: int) -> dict[str, Any]:
    """The plan for an image of a height and width, and perhaps for tiles of a size."""
    python = Path(sys.executable).parents[2] / "runner" / "bin" / "python"
    command = [str(python), str(HERE / "tiles.py"), *map(str, numbers)]
    plan: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return plan


def connected(url: str) -> Run:
    triton = connect_to_server({"name": "pictures", "server_url": url, "method_timeout": 300}).get_service("triton-client")

    def run(image: np.ndarray, **more: Any) -> np.ndarray:
        request = {"model_id": MODEL, "inputs": [image], "axes": "yx", **more}
        answer = triton.execute(inputs=[request], model_name="bioengine-model-runner", serialization="imjoy")
        result = answer["result"]
        assert result["success"], result["error"]
        probability: np.ndarray = result["outputs"][0][0, 0]
        return probability

    return run


def outline(axes: Axes, top: float, left: float, bottom: float, right: float, **style: Any) -> None:
    axes.add_patch(Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, **{"fill": False, **style}))


def panel(axes: Axes, image: np.ndarray, title: str, **style: Any) -> Any:
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    return axes.imshow(image, **{**GRAY, **style})


def smooth(image: np.ndarray) -> np.ndarray:
    """Means of 5 x 5 pixels: noise makes large files."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, 2, mode="reflect"), (5, 5))
    return np.asarray(windows.mean((2, 3)))


def padding(run: Run) -> Figure:
    """A small image, what the model gets, and what comes back."""
    height, width = 60, 90
    image = draw(3, 96).image[:height, :width]
    block = planned(height, width)["block"]
    mirrored = np.pad(image, [(0, block["y"] - height), (0, block["x"] - width)], mode="reflect")
    result = np.full(mirrored.shape, np.nan)
    result[:height, :width] = run(image)
    figure, panels = plt.subplots(1, 3, figsize=(9, 2.9), layout="constrained", dpi=100)
    for axes, shown, title in zip(
        panels,
        (np.where(np.isnan(result), np.nan, mirrored), mirrored, result),
        (
            f"1. your image: {height} x {width}",
            f"2. what the model gets: {block['y']} x {block['x']}\nmirrored at the end of each axis",
            f"3. what comes back: {height} x {width}\ncut back",
        ),
    ):
        panel(axes, shown, title)
        outline(axes, 0, 0, height, width, edgecolor=BLUE, linewidth=2)
    return figure


def tiles(image: np.ndarray, tile: int) -> Figure:
    """One tile with its halo, and the parts that are kept of all tiles."""
    tiles = planned(*image.shape, tile)["tiles"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained", dpi=100)
    image = smooth(image)
    panel(left, image, f"three of the tiles of {tile} x {tile} pixels that go into the model,\nand what is kept of each (filled)")
    corner, middle = tiles[0], next(one for one in tiles if one["y"]["from"] and one["x"]["from"])
    for one, color in ((corner, ORANGE), (middle, BLUE), (tiles[-1], "#3ecf5a")):
        y, x = one["y"], one["x"]
        kept = y["keep_from"], x["keep_from"], y["keep_to"], x["keep_to"]
        outline(left, *kept, fill=True, facecolor=color, alpha=0.4)
        outline(left, y["from"], x["from"], y["to"], x["to"], edgecolor=color, linewidth=2)
    panel(right, image, f"all {len(tiles)} tiles: what is kept of them\nmakes the whole, each pixel once")
    colors = plt.get_cmap("Set2")
    for number, one in enumerate(tiles):
        y, x = one["y"], one["x"]
        kept = y["keep_from"], x["keep_from"], y["keep_to"], x["keep_to"]
        outline(right, *kept, fill=True, facecolor=colors(number % 8), alpha=0.45, edgecolor="white")
    for axes in (left, right):
        axes.set_xlim(-4.5, max(one["x"]["to"] for one in tiles) + 3.5)
        axes.set_ylim(max(one["y"]["to"] for one in tiles) + 3.5, -4.5)
    return figure


def difference(run: Run, image: np.ndarray, tile: int) -> Figure:
    """The whole, the server's tiles, and tiles without a halo that were each sent alone."""
    whole, tiled = run(image), run(image, tile=tile)
    alone = np.zeros_like(whole)
    for top in range(0, image.shape[0], tile):
        for left in range(0, image.shape[1], tile):
            part = np.s_[top : top + tile, left : left + tile]
            alone[part] = run(image[part])
    errors = [np.maximum(np.abs(other - whole), 1e-9) for other in (tiled, alone)]
    print(f"tiles of {tile}: differ by at most {errors[0].max():.2g} from the whole; cut by hand, by {errors[1].max():.2g}")
    figure, panels = plt.subplots(1, 3, figsize=(9, 2.9), layout="constrained", dpi=100)
    panel(panels[0], whole, "the whole, in one go", vmin=0, vmax=1)
    for axes, error, title in zip(panels[1:], errors, ("the server's tiles", "tiles cut by hand, each sent alone")):
        shown = panel(axes, error, f"{title}:\ndiffer by at most {error.max():.1g}", cmap="inferno", norm=LogNorm(1e-6, 1))
    figure.colorbar(shown, ax=panels[1:], shrink=0.9)
    return figure


def main() -> None:
    run, folder = connected(sys.argv[1]), Path(*sys.argv[2:3] or [HERE])
    image = draw(7, 448).image[:352]
    pictures = {"padding": padding(run), "tiles": tiles(image, 160), "tiled-and-whole": difference(run, image, 160)}
    for name, figure in pictures.items():
        figure.canvas.draw()
        picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")  # type: ignore[attr-defined]
        picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
