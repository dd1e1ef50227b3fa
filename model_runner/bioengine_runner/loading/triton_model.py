"""A bioimage.io model as a Triton model: its name, and the folder that Triton loads it from."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bioengine_runner.errors import PackageRunsCode, WeightsNotAvailable
from bioengine_runner.store.manifest import Manifest

RUNNABLE_WEIGHTS = ("onnx", "torchscript")  # in the order of preference: ONNX Runtime is about twice as fast on the CPU

# More samples than any request has: Triton refuses larger batches.
_ANY_BATCH = 1 << 24

_MODEL_FILE = '''"""Made by bioengine_runner.loading.triton_model; its package and weights are in config.pbtxt."""
from bioengine_runner.model import BioimageioModel as TritonPythonModel
'''


@dataclass(frozen=True)
class TritonModel:
    """A package and one of its weights, as a Triton model. `name` is a pure function of id, version and weights."""

    name: str
    manifest: Manifest
    weights_format: str

    def write(self, repository: Path) -> None:
        """Write `<repository>/<name>/{config.pbtxt, 1/model.py}`."""
        folder = repository / self.name
        (folder / "1").mkdir(parents=True, exist_ok=True)
        (folder / "1" / "model.py").write_text(_MODEL_FILE)
        parameters = {"package": str(self.manifest.folder), "weights_format": self.weights_format}
        (folder / "config.pbtxt").write_text(render_config(self.manifest.triton_config, parameters, batches(self.manifest)))


def triton_model(manifest: Manifest, weights_format: object = None) -> TritonModel:
    """The Triton model for a package. Raises PackageRunsCode, WeightsNotAvailable."""
    if manifest.code:
        raise PackageRunsCode(manifest.id, manifest.code)
    runnable = [name for name in RUNNABLE_WEIGHTS if name in manifest.weights]
    chosen = weights_format if weights_format is not None else next(iter(runnable), None)
    if chosen not in runnable:
        raise WeightsNotAvailable(manifest.id, weights_format, runnable, [*manifest.weights, *manifest.unsupported_weights])
    name = re.sub(r"[^A-Za-z0-9._-]", "_", manifest.id)
    if not manifest.is_default:
        name += f"--v{re.sub(r'[^A-Za-z0-9._-]', '_', manifest.version)}"
    if chosen != runnable[0]:
        name += f"--{chosen}"
    return TritonModel(name, manifest, str(chosen))


def batches(manifest: Manifest) -> bool:
    """Whether Triton may give the model several requests at a time: the batch comes first, and its size is free."""
    return all(spec.axes[0].type == "batch" and spec.axes[0].step > 0 for spec in manifest.inputs) and all(
        spec.axes[0].type == "batch" for spec in manifest.outputs
    )


def render_config(config: dict[str, Any], parameters: dict[str, str], batches: bool) -> str:
    """A Triton model configuration as the text of a config.pbtxt.

    Args:
        config: `model.json`'s `triton_config`: `backend`, `input` and `output` with `name`,
            `data_type` and `dims`.
        parameters: what the model process reads in `initialize`.
        batches: whether Triton may give it several requests at a time.
    """
    lines = [f"backend: {json.dumps(config['backend'])}", f"max_batch_size: {_ANY_BATCH if batches else 0}"]
    for kind in ("input", "output"):
        for tensor in config[kind]:
            # Any size: the model's process pads and cuts images. Triton leaves the batch out of the dims where it batches.
            dims = ", ".join(["-1"] * (len(tensor["dims"]) - batches))
            lines.append(f"{kind} {{ name: {json.dumps(tensor['name'])} data_type: {tensor['data_type']} dims: [ {dims} ] }}")
    if batches:
        # Without a delay: what has come while the model worked is given to it together.
        lines.append("dynamic_batching { }")
    for key, value in parameters.items():
        lines.append(f"parameters {{ key: {json.dumps(key)} value {{ string_value: {json.dumps(value)} }} }}")
    # The Python backend's own processes; which device a model computes on is bioimageio.core's choice.
    lines.append("instance_group { count: 1 kind: KIND_CPU }")
    return "\n".join(lines) + "\n"
