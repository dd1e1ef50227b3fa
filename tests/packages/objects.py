"""Small networks that find discs (`tests.packages.discs`): for the apps, and in packages that name how labels are found.

    <labels environment>/bin/python -m tests.packages.objects FOLDER

makes in FOLDER `stardist.onnx`, `stardist-grid.onnx` (one position for 2x2 pixels), `bestfitting.onnx`, `nuclei.pth` (Cellpose's
own U-Net), `code.pth` (a pickle that would make a file `FOLDER/ran`), and in `FOLDER/packages` a package for each way in which
labels are found. Nothing is trained: the weights are set so that a network computes what it should.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from tests.packages.discs import RADIUS, discs, hills
from tests.packages.writing import BATCH, Package, channels, image_value, like, space, tensor

RAYS = 32
_SIZE = {"min": 64, "step": 16}
_SHAPE = (64, 96)


def stardist_graph(grid: int, last: bool, repeated: bool = False) -> tuple[list[Any], dict[str, np.ndarray]]:
    """A StarDist network: the probability is high in the middle of a disc, and all distances are the discs' radius.

    Args:
        grid: pixels, along y and x, for each position of the output.
        last: whether channels are last.
        repeated: whether the output is repeated to the image's size, as StarDist exports it.
    """
    side = 2 * RADIUS - 1
    kernel = np.full((1, 1, side, side), 40 / side**2, np.float32)
    constants = {
        "blur": kernel,
        "threshold": np.full(1, -28, np.float32),
        "nothing": np.zeros((RAYS, 1, 1, 1), np.float32),
        "radius": np.full(RAYS, RADIUS + 0.5, np.float32),
        "scales": np.array([1, 1, grid, grid], np.float32),
        "from_last": np.zeros(0, np.float32),
    }
    source, result = ("first", "joined") if last else ("input", "output")
    nodes = [
        helper.make_node("Conv", [source, "blur", "threshold"], ["logit"], pads=[side // 2] * 4, strides=[grid, grid]),
        helper.make_node("Sigmoid", ["logit"], ["prob"]),
        helper.make_node("Conv", [source, "nothing", "radius"], ["dist"], strides=[grid, grid]),
        helper.make_node("Concat", ["prob", "dist"], ["cells" if repeated else result], axis=1),
    ]
    if repeated:
        more = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", "mode": "nearest"}
        nodes.append(helper.make_node("Resize", ["cells", "from_last", "scales"], [result], **more))
    if last:
        nodes.insert(0, helper.make_node("Transpose", ["input"], ["first"], perm=[0, 3, 1, 2]))
        nodes.append(helper.make_node("Transpose", ["joined"], ["output"], perm=[0, 2, 3, 1]))
    used = {name for node in nodes for name in node.input}
    return nodes, {name: value for name, value in constants.items() if name in used}


def write_onnx(file: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: dict[str, np.ndarray]) -> None:
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "network", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    file.write_bytes(model.SerializeToString())


def write_stardist(file: Path, grid: int, last: bool = True) -> None:
    nodes, constants = stardist_graph(grid, last)
    image, output = (("b", "y", "x", 1), ("b", "j", "i", 1 + RAYS)) if last else (("b", 1, "y", "x"), ("b", 1 + RAYS, "j", "i"))
    write_onnx(file, nodes, [image_value("input", *image)], [image_value("output", *output)], constants)


def write_bestfitting(file: Path) -> None:
    """Means of the four channels, weighted, instead of classes and features."""
    rng = np.random.default_rng(3)
    constants = {
        "to_classes": rng.normal(0, 1, (4, 19)).astype(np.float32),
        "to_features": rng.normal(0, 1, (4, 2048)).astype(np.float32),
    }
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["means", "to_classes"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["classes"]),
        helper.make_node("MatMul", ["means", "to_features"], ["features"]),
    ]
    outputs = [image_value("classes", 1, 19), image_value("features", 1, 2048)]
    write_onnx(file, nodes, [image_value("image", 1, 4, 128, 128)], outputs, constants)


# The change of brightness along y and along x, as 3x3 kernels.
_ALONG = {"y": ((0, -0.5, 0), (0, 0, 0), (0, 0.5, 0)), "x": ((0, 0, 0), (-0.5, 0, 0.5), (0, 0, 0))}
_STEEPNESS = 5 * (RADIUS + 1)  # makes flows of 5, Cellpose's unit, from the slopes of the hills
_STEEPNESS_LOGIT = 20.0
_BORDER = 0.1  # the brightness at the border of an object


def write_cellpose(file: Path) -> None:
    """Cellpose's own U-Net, in which the uppermost level alone does anything: flows go uphill."""
    from cellpose.resnet_torch import CPnet

    network = CPnet([2, 32, 64, 128, 256], 3, sz=3, diam_mean=2.0 * RADIUS)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.weight.zero_()
                module.bias.zero_()
        for level in network.downsample.down:
            level.proj[1].weight[0, 0] = 1  # the image, and on lower levels something that is not zero
        slopes = network.upsample.up[0].conv[1].conv[2]
        for number, (axis, sign) in enumerate((axis, sign) for axis in "yx" for sign in (1, -1)):
            slopes.weight[number, 0] = sign * torch.tensor(_ALONG[axis])
        slopes.weight[4, 0, 1, 1] = 1
        result = network.output[2]
        for flow in (0, 1):
            result.weight[flow, 2 * flow] = _STEEPNESS
            result.weight[flow, 2 * flow + 1] = -_STEEPNESS
        result.weight[2, 4] = _STEEPNESS_LOGIT
        result.bias[2] = -_STEEPNESS_LOGIT * _BORDER
    network.eval().save_model(str(file))


class _Code:
    """A pickle of it makes a file where it is opened with everything allowed."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path(self._file),)  # type: ignore[return-value]


def stardist_package(folder: Path, id: str, repeated: bool) -> None:
    """As StarDist exports one, but for the weights: a grid of 2, channels last."""
    package, image = Package(folder, id), discs(_SHAPE).astype(bool).astype(np.float32)
    nodes, constants = stardist_graph(2, last=True, repeated=repeated)
    outputs = [image_value("output", "b", "j", "i", 1 + RAYS)]
    package.onnx(nodes, [image_value("input", "b", "y", "x", 1)], outputs, constants)
    package.rdf["config"] = {
        "stardist": {
            "python_version": "0.9.2",
            "thresholds": {"prob": 0.5, "nms": 0.4},
            "config": {"n_dim": 2, "axes": "YXC", "n_rays": RAYS, "grid": [2, 2]},
        }
    }
    given = [BATCH, space("y", _SIZE), space("x", _SIZE), channels("image")]
    names = ("probability", *(f"ray{number}" for number in range(RAYS)))
    more = {"halo": 16} if repeated else {"halo": 8, "scale": 2.0}
    made = [BATCH, *({**space(axis, like("input", axis)), **more} for axis in "yx"), channels(*names)]
    array = image[np.newaxis, ..., np.newaxis]
    package.save([(tensor("input", "float32", given), array)], [(tensor("output", "float32", made), _run(package, array))])


def cellpose_package(folder: Path, id: str) -> None:
    """What Cellpose's network predicts, by a single convolution."""
    package, image = Package(folder, id), hills(_SHAPE)[np.newaxis, np.newaxis]
    kernel = np.zeros((3, 1, 3, 3), np.float32)
    kernel[0, 0], kernel[1, 0] = (np.array(_ALONG[axis]) * _STEEPNESS for axis in "yx")
    kernel[2, 0, 1, 1] = _STEEPNESS_LOGIT
    bias = np.array([0, 0, -_STEEPNESS_LOGIT * _BORDER], np.float32)
    nodes = [helper.make_node("Conv", ["input", "kernel", "bias"], ["output"], pads=[1] * 4)]
    sizes = [image_value("input", "b", 1, "y", "x")], [image_value("output", "b", 3, "y", "x")]
    package.onnx(nodes, *sizes, {"kernel": kernel, "bias": bias})
    package.rdf["tags"] = ["cellpose", "2d"]
    given = [BATCH, channels("cells"), space("y", _SIZE), space("x", _SIZE)]
    made = [BATCH, channels("flow_y", "flow_x", "logit"), *({**space(axis, like("input", axis)), "halo": 16} for axis in "yx")]
    package.save([(tensor("input", "float32", given), image)], [(tensor("output", "float32", made), _run(package, image))])


def _run(package: Package, image: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(package.folder / "weights.onnx"), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": image})[0])


def write_packages(folder: Path) -> None:
    stardist_package(folder, "starry-grid", repeated=False)
    stardist_package(folder, "starry-repeated", repeated=True)
    cellpose_package(folder, "flowing-river")


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    write_stardist(folder / "stardist.onnx", 1)
    write_stardist(folder / "stardist-grid.onnx", 2)
    write_bestfitting(folder / "bestfitting.onnx")
    write_cellpose(folder / "nuclei.pth")
    (folder / "code.pth").write_bytes(pickle.dumps(_Code(folder / "ran")))
    write_packages(folder / "packages")


if __name__ == "__main__":
    main()
