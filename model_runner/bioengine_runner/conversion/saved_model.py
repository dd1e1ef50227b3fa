"""The step that converts a SavedModel of TensorFlow 1 or 2: it runs it on all samples, and exports it to ONNX with tf2onnx.

A SavedModel is a graph with its weights. The graph is a program as well: it can contain operations that read and write files. It
is therefore opened in the sandbox alone.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from bioengine_contract.manifest import Tensor
from bioengine_contract.package import Package
from bioengine_contract.weights import CONVERTED, CONVERTED_OPSET
from tensorflow.python.tools.saved_model_utils import get_saved_model_tag_sets
from tf2onnx import tf_loader
from tf2onnx.convert import from_graph_def

from bioengine_runner.conversion.report import Outcome, Refusal, Report
from bioengine_runner.conversion.samples import Arrays, opened, sizes_of, write_outputs
from bioengine_runner.conversion.sizes import free_axes
from bioengine_runner.tiling.exhausted import is_about_memory

FORMAT = "tensorflow_saved_model_bundle"

_FILES = ("saved_model.pb", "saved_model.pbtxt")
_TAG, _SIGNATURE = "serve", "serving_default"  # TensorFlow's names of the graph, and of its function, that are for use

Network = Callable[[Arrays], Sequence[Any]]


@dataclass(frozen=True)
class Traced:
    """A function of TensorFlow as a graph.

    `holder`: what its weights belong to. `inputs`, `outputs`: its tensors, in the order of the description.
    """

    holder: Any
    function: Any
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]


def run(folder: Path, given: Path, output: Path) -> Report:
    """Write `converted.onnx`, and the outputs of the SavedModel for each sample, to `output`.

    Raises Refusal, WeightsDamaged, PackageUnreadable, and whatever TensorFlow raises.
    """
    package, _, samples = opened(folder, given, FORMAT)
    place = _unpacked(package.folder / package.manifest.weights[FORMAT].source, output / "saved_model")
    loaded = tf.saved_model.load(str(place), tags=_tags(place))
    function = loaded.signatures[_signature(loaded)]
    inputs = _in_order("inputs", package.manifest.inputs, list(function.structured_input_signature[1]))
    outputs = _in_order("outputs", package.manifest.outputs, list(function.structured_outputs))

    def network(arrays: Arrays) -> list[Any]:
        results = function(**{name: tf.constant(array) for name, array in zip(inputs, arrays)})
        return [results[name] for name in outputs]

    write_original(network, samples, output)
    export(_traced(loaded, function, inputs, outputs), package, output / CONVERTED)
    return Report(Outcome.DONE, versions=versions("tensorflow-cpu", "tf2onnx", "onnx"))


def write_original(network: Network, samples: Sequence[Arrays], output: Path) -> None:
    """Run the original on all samples, and write what comes out. Raises Refusal."""
    for number, arrays in enumerate(samples):
        try:
            results = network(arrays)
        except (tf.errors.InvalidArgumentError, ValueError) as error:
            if number == 0 or is_about_memory(error):
                raise
            raise Refusal(f"its own network fails on images of {sizes_of(arrays)}, which the description allows") from error
        write_outputs(output, "eager", number, [np.asarray(result) for result in results])


def export(traced: Traced, package: Package, file: Path) -> None:
    """Write a function as ONNX, with the names of the description's tensors, and free sizes where it has them.

    The function may not be usable any more afterwards.
    """
    into = [tensor.name for tensor in traced.inputs]
    out = [tensor.name for tensor in traced.outputs]
    graph, _ = tf_loader.from_trackable(traced.holder, traced.function, into, out, large_model=False)
    specs = (*package.manifest.inputs, *package.manifest.outputs)
    model, _ = from_graph_def(
        graph,
        name=package.id,
        input_names=into,
        output_names=out,
        opset=CONVERTED_OPSET,
        tensors_to_rename={tensor: spec.id for tensor, spec in zip((*into, *out), specs)},
    )
    # tf2onnx leaves what it cannot convert as it is.
    if unknown := sorted({node.op_type for node in model.graph.node if not node.domain and not onnx.defs.has(node.op_type)}):
        raise Refusal(f"ONNX has no counterpart of its operations {', '.join(unknown)}")
    for value, spec in zip((*model.graph.input, *model.graph.output), specs):
        _declare(value, spec)
    onnx.save(model, str(file))


def versions(*libraries: str) -> dict[str, str]:
    return {name: version(name) for name in libraries}


def _unpacked(file: Path, target: Path) -> Path:
    """The folder of the SavedModel in an archive. Raises Refusal."""
    try:
        with zipfile.ZipFile(file) as archive:
            archive.extractall(target)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError):
        raise Refusal(f"{file.name} is not a zip file with a SavedModel") from None
    places = sorted({found.parent for name in _FILES for found in target.rglob(name)})
    if len(places) != 1:
        raise Refusal(f"{file.name} contains {len(places)} SavedModels, where one is expected")
    return places[0]


def _tags(folder: Path) -> list[str]:
    """The tags of the graph for use: the one for serving, or the only one."""
    sets: list[list[str]] = get_saved_model_tag_sets(str(folder))
    chosen = [[_TAG]] if [_TAG] in sets else [tags for tags in sets if _TAG in tags] or sets
    if len(chosen) != 1:
        raise Refusal(f"its SavedModel has {len(chosen)} graphs, of which none is the one for serving")
    return chosen[0]


def _signature(loaded: Any) -> str:
    """The name of the function to run: the one for serving, or the only one."""
    names = sorted(loaded.signatures)
    if _SIGNATURE in names:
        return _SIGNATURE
    if len(names) != 1:
        raise Refusal(f"its SavedModel has {len(names)} signatures ({', '.join(names)}), of which none is {_SIGNATURE}")
    return str(names[0])


def _in_order(kind: str, specs: Sequence[Tensor], names: list[str]) -> tuple[str, ...]:
    """The names of a signature in the order of the description: by name, or else as bioimageio.core takes them.

    The package's own test tells whether the order was right. Raises Refusal.
    """
    if len(names) != len(specs):
        raise Refusal(f"its network has {len(names)} {kind}, but the description has {len(specs)}")
    ids = [spec.id for spec in specs]
    return tuple(ids if set(ids) == set(names) else names)


def _traced(loaded: Any, function: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Traced:
    """A signature with the tensors that go by these names."""
    # Inputs that are resources hold the weights. Those and outputs that have names are in the order of the names.
    own = function.inputs[: len(function.inputs) - len(function.captured_inputs)]
    into = dict(zip(sorted(function.structured_input_signature[1]), own))
    out = dict(zip(sorted(function.structured_outputs), function.outputs))
    return Traced(loaded, function, tuple(into[name] for name in inputs), tuple(out[name] for name in outputs))


def _declare(value: Any, spec: Tensor) -> None:
    """Give a tensor of an ONNX graph the sizes of its description."""
    shape, free = value.type.tensor_type.shape, free_axes(spec)
    del shape.dim[:]
    for number, axis in enumerate(spec.axes):
        size = {"dim_param": free[number]} if number in free else {"dim_value": axis.min}
        shape.dim.add(**size)
