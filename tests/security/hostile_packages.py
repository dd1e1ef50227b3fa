"""Packages whose weights reach for a file outside: real TorchScript and ONNX, for `test_confinement_packages.py`.

    <runner environment>/bin/python -m tests.security.hostile_packages FOLDER FILE_TO_READ FILE_TO_WRITE

makes `FOLDER/reading-raven` and `FOLDER/writing-weasel`, and `FOLDER/borrowing-bat` with weights in `FOLDER/borrowed/` to put in
the place of its own. Each output is the image and, in its first pixels, the bytes that were read.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

from tests.packages.writing import BATCH, Package, channels, image_value, space, tensor

BYTES = 16
IMAGE = np.zeros((1, 1, 4, 4), np.float32)
AXES = [{**BATCH, "size": 1}, channels("value"), space("y", 4), space("x", 4)]


class FromFile(torch.nn.Module):
    """`shared`: the file is made where there is none, and what is written to the tensor is written to it."""

    def __init__(self, path: str, shared: bool) -> None:
        super().__init__()
        self.path = path
        self.shared = shared

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        data = torch.from_file(self.path, self.shared, 16, dtype=torch.uint8)
        if self.shared:
            data.fill_(65)
        return image + data.reshape(1, 1, 4, 4).to(torch.float32)


def of_torchscript(folder: Path, id: str, path: Path, shared: bool) -> None:
    package = Package(folder, id)
    module = FromFile(str(path), shared)
    package.torchscript(module)
    # What they do where nothing keeps them from it: the attacks are real ones.
    output = torch.jit.load(str(package.folder / "weights.pt"))(torch.from_numpy(IMAGE)).numpy()
    assert output.astype(np.uint8).tobytes() == path.read_bytes()[:BYTES]
    package.save([(tensor("image", "float32", AXES), IMAGE)], [(tensor("out", "float32", AXES), output)])


def of_onnx(folder: Path, locations: dict[str, str]) -> None:
    package = Package(folder, "borrowing-bat")
    inputs, outputs = [image_value("image", 1, 1, 4, 4)], [image_value("out", 1, 1, 4, 4)]
    nodes = [
        helper.make_node("Cast", ["borrowed"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["floats", "shape"], ["pixels"]),
        helper.make_node("Add", ["image", "pixels"], ["out"]),
    ]
    constants = {"borrowed": np.zeros(BYTES, np.uint8), "shape": np.array([1, 1, 4, 4])}
    package.onnx(nodes, inputs, outputs, constants)
    package.save([(tensor("image", "float32", AXES), IMAGE)], [(tensor("out", "float32", AXES), IMAGE)])
    borrowed = folder / "borrowed"
    borrowed.mkdir()
    for name, location in locations.items():
        model = onnx.load(package.folder / "weights.onnx")
        (weights,) = (each for each in model.graph.initializer if each.name == "borrowed")
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(BYTES))):
            weights.external_data.add(key=key, value=value)
        (borrowed / f"{name}.onnx").write_bytes(model.SerializeToString())


def main() -> None:
    folder, to_read, to_write = map(Path, sys.argv[1:])
    of_torchscript(folder, "reading-raven", to_read, shared=False)
    of_torchscript(folder, "writing-weasel", to_write, shared=True)
    to_write.unlink()
    package = to_read.parent / "models" / "borrowing-bat" / "1.0.0"
    of_onnx(
        folder,
        {
            "absolute": str(to_read),
            "parent": os.path.relpath(to_read, package),
            # Of the server's working directory, the folder of the file.
            "working-directory": to_read.name,
        },
    )
    os.chdir(to_read.parent)
    # As bioimageio.core opens weights, by their bytes: ONNX Runtime then takes the working directory for the model's folder.
    weights = (folder / "borrowed" / "working-directory.onnx").read_bytes()
    (output,) = onnxruntime.InferenceSession(weights, providers=["CPUExecutionProvider"]).run(None, {"image": IMAGE})
    assert output.astype(np.uint8).tobytes() == to_read.read_bytes()[:BYTES]


if __name__ == "__main__":
    main()
