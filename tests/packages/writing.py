"""What all generators of packages share: writing a package and its description."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper

BATCH = {"type": "batch"}
Tensors: TypeAlias = list[tuple[dict[str, Any], np.ndarray]]
"""Descriptions of inputs or outputs, each with its test tensor."""

EPS = 1e-6  # the default of every operator of the specification


def channels(*names: str) -> dict[str, Any]:
    return {"type": "channel", "channel_names": list(names)}


def space(id: str, size: Any) -> dict[str, Any]:
    return {"type": "space", "id": id, "size": size}


def like(tensor: str, axis: str) -> dict[str, str]:
    return {"tensor_id": tensor, "axis_id": axis}


def tensor(id: str, dtype: str, axes: list[dict[str, Any]], **processing: Any) -> dict[str, Any]:
    data = {"type": dtype, **({"values": [False, True]} if dtype == "bool" else {})}
    return {"id": id, "axes": axes, "data": data, **processing}


def tensor_0_4(name: str, shape: Any, axes: str = "bcyx", dtype: str = "float32", **more: Any) -> dict[str, Any]:
    return {"name": name, "axes": axes, "data_type": dtype, "shape": shape, **more}


class Package:
    """One package being written."""

    def __init__(self, folder: Path, id: str) -> None:
        self.folder = folder / id
        self.folder.mkdir(parents=True)
        self.rdf: dict[str, Any] = {
            "format_version": "0.5.4",
            "type": "model",
            "id": id,
            "name": id.replace("-", " "),
            "description": "A small package for tests.",
            "authors": [{"name": "BioEngine tests"}],
            "cite": [{"text": "BioEngine tests", "url": "https://example.com/"}],
            "license": "MIT",
            "timestamp": "2026-01-01T00:00:00+00:00",
            "version": "1.0.0",
            "weights": {},
        }

    def onnx(self, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: dict[str, np.ndarray]) -> None:
        initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
        graph = helper.make_graph(nodes, "model", inputs, outputs, initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        (self.folder / "weights.onnx").write_bytes(model.SerializeToString())
        self.rdf["weights"]["onnx"] = {"source": "weights.onnx", "sha256": self.sha256("weights.onnx"), "opset_version": 17}

    def torchscript(self, module: torch.nn.Module) -> None:
        torch.jit.script(module.eval()).save(str(self.folder / "weights.pt"))
        self.rdf["weights"]["torchscript"] = {
            "source": "weights.pt",
            "sha256": self.sha256("weights.pt"),
            "pytorch_version": torch.__version__.split("+")[0],
        }

    def save(self, inputs: Tensors, outputs: Tensors) -> None:
        """Write the test tensors and the description in format 0.5."""
        for kind, tensors in (("input", inputs), ("output", outputs)):
            self.rdf[f"{kind}s"] = [
                {**description, "test_tensor": {"source": name, "sha256": self.sha256(name)}}
                for name, (description, _) in zip(self._save_arrays(kind, tensors), tensors)
            ]
        self.write()

    def save_0_4(self, inputs: Tensors, outputs: Tensors) -> None:
        """Write the test tensors and the description in format 0.4."""
        (self.folder / "README.md").write_text(f"# {self.rdf['name']}\n")
        self.rdf |= {"format_version": "0.4.10", "documentation": "README.md"}
        for kind, tensors in (("input", inputs), ("output", outputs)):
            self.rdf[f"{kind}s"] = [description for description, _ in tensors]
            self.rdf[f"test_{kind}s"] = self._save_arrays(kind, tensors)
        self.write()

    def _save_arrays(self, kind: str, tensors: Tensors) -> list[str]:
        names = [f"test_{kind}_{number}.npy" for number in range(len(tensors))] if len(tensors) > 1 else [f"test_{kind}.npy"]
        for name, (_, array) in zip(names, tensors):
            np.save(self.folder / name, array)
        return names

    def write(self) -> None:
        (self.folder / "rdf.yaml").write_text(yaml.safe_dump(self.rdf, sort_keys=False))

    def sha256(self, name: str) -> str:
        return hashlib.sha256((self.folder / name).read_bytes()).hexdigest()


def image_value(name: str, *sizes: Any, type: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, type, sizes)
