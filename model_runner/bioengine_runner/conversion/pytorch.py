"""The step that converts a PyTorch state dict: it loads the architecture, which is code of the package or of a library, runs it
on all samples, traces it, and exports it to ONNX.

Traced, not scripted: of ten architectures that many published models share, three cannot be scripted. In eval mode: in training
mode the export would contain dropout, and normalisation by each image's own statistics. A trace is wrong where the code branches
on values or leaves torch, which the server finds by other samples than those that were traced.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bioengine_contract.package import Package
from bioengine_contract.weights import CONVERTED, CONVERTED_OPSET
from bioimageio.core.backends.pytorch_backend import load_torch_model

from bioengine_runner.conversion import torchvision_operators
from bioengine_runner.conversion.report import Outcome, Refusal, Report
from bioengine_runner.conversion.samples import Arrays, opened, sizes_of, write_outputs
from bioengine_runner.conversion.sizes import free_axes
from bioengine_runner.description import Description
from bioengine_runner.tiling.exhausted import is_about_memory

FORMAT = "pytorch_state_dict"

_LIBRARIES = ("torch", "torchvision", "timm", "careamics", "onnx")


def import_libraries() -> None:
    """Import libraries that only code of packages uses and that try to start programs at their import, if they are installed.

    Later, inside of the sandbox, such an attempt would end the process (`libraries.py`).
    """
    torchvision_operators.define()
    if find_spec("careamics") is not None:
        import_module("careamics.models.unet")


def run(folder: Path, given: Path, output: Path) -> Report:
    """Write `converted.onnx`, and for each sample the outputs of the model and of its trace, to `output`.

    Raises Refusal, WeightsDamaged, PackageUnreadable, and whatever code of the package raises.
    """
    package, description, samples = opened(folder, given, FORMAT)
    torch.backends.mha.set_fastpath_enabled(False)  # its one operator for a whole layer has no counterpart in ONNX
    with warnings.catch_warnings(record=True) as remarks, torch.no_grad():
        warnings.simplefilter("always", torch.jit.TracerWarning)
        model = _model(description)
        for number, arrays in enumerate(samples):
            write_outputs(output, "eager", number, _original(package, model, arrays, number))
        # Traced with sample 0, the test image, which every package has. That batch and sizes may differ is said at the export.
        inputs = tuple(map(torch.from_numpy, samples[0]))
        trace = torch.jit.trace(model, inputs, check_trace=False)
        for number, arrays in enumerate(samples):
            write_outputs(output, "trace", number, _traced(package, trace, arrays, number))
        export(model, inputs, package, output / CONVERTED)
    doubts = dict.fromkeys(str(each.message) for each in remarks if issubclass(each.category, torch.jit.TracerWarning))
    return Report(Outcome.DONE, versions=_versions(), remarks=tuple(doubts))


def export(model: torch.nn.Module, inputs: Sequence[torch.Tensor], package: Package, file: Path) -> None:
    """Write a network as ONNX, with the names of the description's tensors, and free sizes where the description has them.

    torch traces it once more: of a finished trace, it does not know the shapes, which some operators need (attention).
    """
    tensors = (*package.manifest.inputs, *package.manifest.outputs)
    torch.onnx.export(
        model,
        tuple(inputs),
        str(file),
        dynamo=False,
        opset_version=CONVERTED_OPSET,
        input_names=[spec.id for spec in package.manifest.inputs],
        output_names=[spec.id for spec in package.manifest.outputs],
        dynamic_axes={spec.id: free for spec in tensors if (free := free_axes(spec))},
    )


def _model(description: Description) -> torch.nn.Module:
    weights = description.weights.pytorch_state_dict
    assert weights is not None
    # State dicts are opened with torch.load(weights_only=True).
    return load_torch_model(weights, load_state=True, devices=["cpu"]).eval()


def _outputs(package: Package, model: Any, arrays: Arrays) -> list[np.ndarray]:
    """What a network gives for a sample. Raises Refusal, and whatever it raises."""
    # Clones: a network may change its input.
    outputs = model(*(torch.from_numpy(array).clone() for array in arrays))
    listed = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    if not all(isinstance(each, torch.Tensor) for each in listed):
        raise Refusal(f"its network gives a {type(outputs).__name__}, where tensors are expected")
    if len(listed) != (count := len(package.manifest.outputs)):
        raise Refusal(f"its network gives {len(listed)} tensors, but the description has {count} outputs")
    return [each.detach().numpy() for each in listed]


def _original(package: Package, model: Any, arrays: Arrays, number: int) -> list[np.ndarray]:
    """What the package's own network gives for a sample. Raises Refusal where it works on the test image (sample 0) only."""
    try:
        return _outputs(package, model, arrays)
    except RuntimeError as error:
        if number == 0 or is_about_memory(error):
            raise
        raise Refusal(f"its own network fails on images of {sizes_of(arrays)}, which the description allows") from error


def _traced(package: Package, trace: Any, arrays: Arrays, number: int) -> list[np.ndarray]:
    """What the trace of the network gives for a sample. Raises Refusal where the trace fails."""
    try:
        return _outputs(package, trace, arrays)
    except RuntimeError as error:
        if is_about_memory(error):
            raise
        raise Refusal(
            f"its trace fails on sample {number}, of {sizes_of(arrays)}: the code depends on values or sizes"
        ) from error


def _versions() -> dict[str, str]:
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            pass
    return versions
