"""A bioimage.io model as a Triton model: its name, and the folder that Triton loads it from."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bioengine_runner.errors import NoWeightsWork, WeightsNotAvailable
from bioengine_runner.store.manifest import Manifest
from bioengine_runner.store.trust import check_trust, may_run

# In the order of preference: ONNX Runtime is about twice as fast as torch on the CPU.
RUNNABLE_WEIGHTS = ("onnx", "torchscript", "pytorch_state_dict")

# More samples than any request has: Triton refuses larger batches.
_ANY_BATCH = 1 << 24

_MODEL_FILE = '''"""Made by bioengine_runner.loading.triton_model; its package and weights are in config.pbtxt."""
try:
    from bioengine_runner.model import BioimageioModel as TritonPythonModel
except BaseException:
    # Not for Triton, which may abort where a model cannot be loaded: the loader finds that no process has begun.
    import traceback

    traceback.print_exc()

    class TritonPythonModel:
        def execute(self, requests):
            raise RuntimeError("the model runner's environment cannot be imported")
'''


@dataclass(frozen=True)
class TritonModel:
    """A package and the weights that its process may open, as a Triton model.

    `name` is a pure function of id, version and weights. `weight_formats`: of several, the first that can be opened.
    """

    name: str
    manifest: Manifest
    weight_formats: tuple[str, ...]

    def write(self, repository: Path) -> None:
        """Write `<repository>/<name>/{config.pbtxt, 1/model.py}`."""
        folder = repository / self.name
        (folder / "1").mkdir(parents=True, exist_ok=True)
        (folder / "1" / "model.py").write_text(_MODEL_FILE)
        parameters = {"package": str(self.manifest.folder), "weight_formats": ",".join(self.weight_formats)}
        (folder / "config.pbtxt").write_text(render_config(self.manifest.triton_config, parameters, batches(self.manifest)))


def triton_model(manifest: Manifest, weight_format: object = None, trusted: frozenset[str] = frozenset()) -> TritonModel:
    """The Triton model for a package.

    Args:
        manifest: of the package.
        weight_format: what the client has asked for, and then nothing else is opened; None: whatever can be.
        trusted: the entries of BIOENGINE_TRUSTED_MODELS.

    Raises PackageRunsCode, WeightsNotAvailable, NoWeightsWork.
    """
    runnable = [name for name in RUNNABLE_WEIGHTS if name in manifest.weights]
    usable = formats = usable_weights(manifest, trusted)
    if isinstance(weight_format, str) and weight_format in runnable:
        check_trust(manifest, weight_format, trusted)
        formats = [weight_format]
    elif weight_format is not None:
        raise WeightsNotAvailable(manifest.id, weight_format, usable)
    elif not usable:
        if manifest.code and runnable:
            check_trust(manifest, runnable[0], trusted)
        raise NoWeightsWork(manifest.id, unusable_weights(manifest, trusted))
    name = re.sub(r"[^A-Za-z0-9._-]", "_", manifest.id)
    if not manifest.is_default:
        name += f"--v{re.sub(r'[^A-Za-z0-9._-]', '_', manifest.version)}"
    if formats != usable:
        name += f"--{formats[0]}"
    return TritonModel(name, manifest, tuple(formats))


def usable_weights(manifest: Manifest, trusted: frozenset[str]) -> list[str]:
    """The formats of the package's weights that this server runs, in the order of preference."""
    return [name for name in RUNNABLE_WEIGHTS if name in manifest.weights and may_run(manifest, name, trusted)]


def unusable_weights(manifest: Manifest, trusted: frozenset[str]) -> dict[str, str]:
    """The other formats of the package's weights, and why each is not run."""
    reasons = {}
    for name in (*manifest.weights, *manifest.unsupported_weights):
        if name not in RUNNABLE_WEIGHTS:
            reasons[name] = "not supported by this server yet"
        elif name not in manifest.weights:
            reasons[name] = "not stored; the admin has to import the whole package"
        elif not may_run(manifest, name, trusted):
            reasons[name] = f"runs code of the package; the admin has to trust it (`./bioengine models show {manifest.id}`)"
    return reasons


def batches(manifest: Manifest) -> bool:
    """Whether Triton may give the model several requests at a time: the batch comes first, and its size is free."""
    return all(spec.axes[0].type == "batch" and spec.axes[0].step > 0 for spec in manifest.inputs) and all(
        spec.axes[0].type == "batch" for spec in manifest.outputs
    )


def render_config(config: dict[str, Any], parameters: dict[str, str], batches: bool) -> str:
    """A Triton model configuration as the text of a config.pbtxt.

    Args:
        config: `model.json`'s `triton_config`: `backend`, `input` and `output` with `name`,
            `data_type` and `dims`, and `optional` of inputs that may be left out.
        parameters: what the model process reads in `initialize`.
        batches: whether Triton may give it several requests at a time.
    """
    lines = [f"backend: {json.dumps(config['backend'])}", f"max_batch_size: {_ANY_BATCH if batches else 0}"]
    for kind in ("input", "output"):
        for tensor in config[kind]:
            # Any size: the model's process pads and cuts images. Triton leaves the batch out of the dims where it batches.
            dims = ", ".join(["-1"] * (len(tensor["dims"]) - batches))
            optional = "optional: true " if tensor.get("optional") else ""
            lines.append(
                f"{kind} {{ name: {json.dumps(tensor['name'])} data_type: {tensor['data_type']} dims: [ {dims} ] {optional}}}"
            )
    if batches:
        # Without a delay: what has come while the model worked is given to it together.
        lines.append("dynamic_batching { }")
    for key, value in parameters.items():
        lines.append(f"parameters {{ key: {json.dumps(key)} value {{ string_value: {json.dumps(value)} }} }}")
    # The Python backend's own processes; which device a model computes on is bioimageio.core's choice.
    lines.append("instance_group { count: 1 kind: KIND_CPU }")
    return "\n".join(lines) + "\n"
