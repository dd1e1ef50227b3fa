"""The packages that every home of the tests has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper

from tests.packages.writing import BATCH, EPS, Package, channels, image_value, like, space, tensor, tensor_0_4

NORMALIZE = {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "y", "x"], "eps": EPS}}


def normalized(image: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance over channel, y and x; (b, c, y, x), float32."""
    image = image.astype(np.float64)
    mean, deviation = image.mean((1, 2, 3), keepdims=True), image.std((1, 2, 3), keepdims=True)
    return ((image - mean) / (deviation + EPS)).astype(np.float32)


def sigmoid(image: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-image.astype(np.float64)))).astype(np.float32)


class WeightedSum(torch.nn.Module):
    """Channels into one, by weights."""

    def __init__(self, weights: np.ndarray) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.from_numpy(weights.reshape(1, -1, 1, 1)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image * self.weights).sum(1, keepdim=True)


def conscientious_seashell(folder: Path) -> None:
    """Three channels into one probability: stands in for the published model of this id."""
    package = Package(folder, "conscientious-seashell")
    weights = np.array([0.5, -1.0, 2.0], np.float32)
    package.onnx(
        [helper.make_node("Conv", ["image", "kernel"], ["mask"])],
        [image_value("image", "b", 3, "y", "x")],
        [image_value("mask", "b", 1, "y", "x")],
        {"kernel": weights.reshape(1, 3, 1, 1)},
    )
    package.torchscript(WeightedSum(weights))
    package.rdf["config"] = {"bioimageio": {"nickname": package.rdf["id"], "doi": "10.5281/zenodo.1234567/7654321"}}
    image = np.random.default_rng(1).integers(0, 255, (1, 3, 64, 48)).astype(np.float32)
    mask = sigmoid((normalized(image) * weights.reshape(1, 3, 1, 1)).sum(1, keepdims=True))
    size = {"min": 16, "step": 16}
    package.save(
        [
            (
                tensor(
                    "image",
                    "float32",
                    [BATCH, channels("red", "green", "blue"), space("y", size), space("x", size)],
                    preprocessing=[NORMALIZE],
                ),
                image,
            )
        ],
        [
            (
                tensor(
                    "mask",
                    "float32",
                    [BATCH, channels("mask"), space("y", like("image", "y")), space("x", like("image", "x"))],
                    postprocessing=[{"id": "sigmoid"}],
                ),
                mask,
            )
        ],
    )


def probe(folder: Path) -> None:
    """The model of the readiness probe; the built package is a part of the server (`bioengine_server/probe`)."""
    package = Package(folder, "bioengine-probe")
    package.rdf |= {"name": "BioEngine readiness probe", "description": "Run by the server itself to see that all is well."}
    package.onnx(
        [helper.make_node("Neg", ["image"], ["negative"])],
        [image_value("image", 1, 1, 8, 8)],
        [image_value("negative", 1, 1, 8, 8)],
        {},
    )
    image = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8)
    axes = [{**BATCH, "size": 1}, channels("value"), space("y", 8), space("x", 8)]
    package.save(
        [
            (
                tensor("image", "float32", axes, preprocessing=[{"id": "scale_linear", "kwargs": {"gain": 0.5, "offset": 1.0}}]),
                image,
            )
        ],
        [(tensor("negative", "float32", axes), -(image * np.float32(0.5) + np.float32(1.0)))],
    )


class TwoSums(torch.nn.Module):
    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return image + mask, image * mask


def two_inputs(folder: Path) -> None:
    """Two inputs, the second as large as the first, and two outputs; 3D."""
    package = Package(folder, "two-inputs")
    sizes = ("b", 1, "z", "y", "x")
    package.onnx(
        [helper.make_node("Add", ["image", "mask"], ["sum"]), helper.make_node("Mul", ["image", "mask"], ["product"])],
        [image_value("image", *sizes), image_value("mask", *sizes)],
        [image_value("sum", *sizes), image_value("product", *sizes)],
        {},
    )
    package.torchscript(TwoSums())
    random = np.random.default_rng(2)
    image, mask = (random.random((2, 1, 4, 8, 8), np.float32) for _ in range(2))

    def axes(size: Callable[[str], Any]) -> list[dict[str, Any]]:
        return [BATCH, channels("value"), *(space(id, size(id)) for id in "zyx")]

    def following(id: str) -> Any:
        return like("image", id)

    package.save(
        [
            (tensor("image", "float32", axes(lambda id: {"min": 4, "step": 4})), image),
            (tensor("mask", "float32", axes(following)), mask),
        ],
        [
            (tensor("sum", "float32", axes(following)), image + mask),
            (tensor("product", "float32", axes(following)), image * mask),
        ],
    )


class Doubled(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.to(torch.int64) * 2


def label_doubler(folder: Path) -> None:
    """uint8 in, int64 out: dtypes that clients do not send and cannot read."""
    package = Package(folder, "label-doubler")
    package.onnx(
        [
            helper.make_node("Cast", ["labels"], ["wide"], to=TensorProto.INT64),
            helper.make_node("Mul", ["wide", "two"], ["doubled"]),
        ],
        [image_value("labels", "b", 1, "y", "x", type=TensorProto.UINT8)],
        [image_value("doubled", "b", 1, "y", "x", type=TensorProto.INT64)],
        {"two": np.array(2, np.int64)},
    )
    package.torchscript(Doubled())
    labels = np.random.default_rng(3).integers(0, 255, (1, 1, 8, 12)).astype(np.uint8)
    free = {"min": 1, "step": 1}
    package.save(
        [(tensor("labels", "uint8", [BATCH, channels("label"), space("y", free), space("x", free)]), labels)],
        [
            (
                tensor(
                    "doubled",
                    "int64",
                    [BATCH, channels("label"), space("y", like("labels", "y")), space("x", like("labels", "x"))],
                ),
                labels.astype(np.int64) * 2,
            )
        ],
    )


def old_otter(folder: Path) -> None:
    """Format 0.4, with a fixed shape."""
    package = Package(folder, "old-otter")
    package.onnx(
        [helper.make_node("Mul", ["raw", "two"], ["out"])],
        [image_value("raw", 1, 1, 32, 48)],
        [image_value("out", 1, 1, 32, 48)],
        {"two": np.array(2, np.float32)},
    )
    raw = np.random.default_rng(4).random((1, 1, 32, 48), np.float32) * 100
    processing = {"name": "zero_mean_unit_variance", "kwargs": {"mode": "per_sample", "axes": "cyx", "eps": EPS}}
    every: Any = {"data_range": [float("-inf"), float("inf")]}
    package.save_0_4(
        [(tensor_0_4("raw", [1, 1, 32, 48], preprocessing=[processing], **every), raw)],
        [(tensor_0_4("out", [1, 1, 32, 48], postprocessing=[{"name": "sigmoid"}], **every), sigmoid(normalized(raw) * 2))],
    )


class Loop(torch.nn.Module):
    """Works for as many seconds as the first pixel says, however busy the machine is, and on one processor."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        seconds = float(image.flatten()[0].item())
        start = torch.ops.prim.TimePoint()  # ns; TorchScript's only clock
        work = torch.ones(8, 8)  # larger ones are sometimes computed by all processors
        while (torch.ops.prim.TimePoint() - start) * 1e-9 < seconds:
            work = torch.sin(work)
        return image + 0 * work.sum()


def slow_snail(folder: Path) -> None:
    """Takes as long as its input says: for tests of what happens meanwhile."""
    package = Package(folder, "slow-snail")
    package.torchscript(Loop())
    image = np.full((1, 1, 4, 4), 0.01, np.float32)
    axes = [{**BATCH, "size": 1}, channels("seconds"), space("y", 4), space("x", 4)]
    package.save([(tensor("image", "float32", axes), image)], [(tensor("same", "float32", axes), image)])


def custom_crab(folder: Path) -> None:
    """ONNX weights and a processing step in Python of its own, which needs the whole image: not run unless trusted."""
    package = Package(folder, "custom-crab")
    package.onnx(
        [helper.make_node("Neg", ["image"], ["out"])],
        [image_value("image", 1, 1, "y", "x")],
        [image_value("out", 1, 1, "y", "x")],
        {},
    )
    (package.folder / "steps.py").write_text(
        "import pathlib\n\n\ndef make(add):\n    pathlib.Path('/dev/shm/custom-crab-was-here').touch()\n"
        "    return lambda image: image / image.min() + add\n"
    )
    image = np.random.default_rng(6).random((1, 1, 16, 24), np.float32) + 1
    axes = [{**BATCH, "size": 1}, channels("value"), *(space(id, {"min": 8, "step": 8}) for id in "yx")]
    same = [*axes[:2], *(space(id, like("image", id)) for id in "yx")]
    custom = {
        "id": "custom",
        "callable": "make",
        "source": "steps.py",
        "sha256": package.sha256("steps.py"),
        "kwargs": {"add": 2.0},
    }
    package.rdf["format_version"] = "0.5.12"
    package.save(
        [(tensor("image", "float32", axes), image)],
        [(tensor("out", "float32", same, postprocessing=[custom]), image / image.max() + np.float32(2))],
    )


def state_dict_stork(folder: Path) -> None:
    """State dict weights with an architecture in Python, and no others."""
    package = Package(folder, "state-dict-stork")
    (package.folder / "network.py").write_text("import torch\n\n\nclass Network(torch.nn.Linear):\n    pass\n")
    network = torch.nn.Linear(8, 8)
    torch.save(network.state_dict(), package.folder / "weights.pt")
    matrix, bias = (parameter.detach().numpy() for parameter in network.parameters())
    architecture = {"callable": "Network", "source": "network.py", "sha256": package.sha256("network.py")}
    package.rdf["weights"]["pytorch_state_dict"] = {
        "source": "weights.pt",
        "sha256": package.sha256("weights.pt"),
        "pytorch_version": "2.5.1",
        "architecture": {**architecture, "kwargs": {"in_features": 8, "out_features": 8}},
    }
    image = np.random.default_rng(7).random((1, 1, 8, 8), np.float32)
    axes = [{**BATCH, "size": 1}, channels("value"), space("y", 8), space("x", 8)]
    package.save([(tensor("image", "float32", axes), image)], [(tensor("out", "float32", axes), image @ matrix.T + bias)])


class Scored(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = image.mean((2, 3))
        return torch.cat([mean, -mean], 1), image * 2


def score_scout(folder: Path) -> None:
    """Two scores of an image, which are no image, and the image doubled."""
    package = Package(folder, "score-scout")
    package.onnx(
        [
            helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("Neg", ["mean"], ["negative"]),
            helper.make_node("Concat", ["mean", "negative"], ["scores"], axis=1),
            helper.make_node("Add", ["image", "image"], ["doubled"]),
        ],
        [image_value("image", "b", 1, 16, 16)],
        [image_value("scores", "b", 2), image_value("doubled", "b", 1, 16, 16)],
        {},
    )
    package.torchscript(Scored())
    image = np.random.default_rng(8).random((1, 1, 16, 16), np.float32)
    axes = [BATCH, channels("value"), space("y", 16), space("x", 16)]
    mean = image.mean((2, 3))
    package.save(
        [(tensor("image", "float32", axes), image)],
        [
            (tensor("scores", "float32", [BATCH, channels("bright", "dark")]), np.concatenate([mean, -mean], 1)),
            (tensor("doubled", "float32", axes), image * 2),
        ],
    )


USUAL = (
    conscientious_seashell,
    probe,
    two_inputs,
    label_doubler,
    old_otter,
    slow_snail,
    custom_crab,
    state_dict_stork,
    score_scout,
)
