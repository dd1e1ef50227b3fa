"""The step that converts a Keras model in an .h5 file: tf_keras opens it, runs it on all samples, and traces it for the export to
ONNX.

The file describes layers, and may contain Python code of its own (layers of the kind Lambda). It is therefore opened in the
sandbox alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras
from bioengine_contract.weights import CONVERTED

from bioengine_runner.conversion.report import Outcome, Refusal, Report
from bioengine_runner.conversion.samples import Arrays, opened
from bioengine_runner.conversion.saved_model import Traced, export, versions, write_original

FORMAT = "keras_hdf5"

_WRAPPED = "Exception encountered when calling"


def run(folder: Path, given: Path, output: Path) -> Report:
    """Write `converted.onnx`, and the outputs of the Keras model for each sample, to `output`.

    Raises Refusal, WeightsDamaged, PackageUnreadable, and whatever tf_keras and the code in the file raise.
    """
    try:
        return _run(folder, given, output)
    except Exception as error:
        # tf_keras 2.17 raises another one for what a layer raises, and loses the reason of an OSError.
        if (own := error.__context__) is not None and str(error).startswith(_WRAPPED):
            raise own from None
        raise


def _run(folder: Path, given: Path, output: Path) -> Report:
    package, _, samples = opened(folder, given, FORMAT)
    file = package.folder / package.manifest.weights[FORMAT].source
    model = tf_keras.models.load_model(str(file), compile=False, safe_mode=False)
    for kind, has, specs in (
        ("inputs", model.inputs, package.manifest.inputs),
        ("outputs", model.outputs, package.manifest.outputs),
    ):
        if len(has) != len(specs):
            raise Refusal(f"its network has {len(has)} {kind}, but the description has {len(specs)}")
    write_original(lambda arrays: _outputs(model, arrays), samples, output)
    export(_traced(model), package, output / CONVERTED)
    return Report(Outcome.DONE, versions=versions("tensorflow-cpu", "tf-keras", "tf2onnx", "onnx"))


def _outputs(model: Any, arrays: Arrays | tuple[Any, ...]) -> list[Any]:
    tensors = [tf.convert_to_tensor(array) for array in arrays]
    result = model(tensors if len(tensors) > 1 else tensors[0], training=False)
    return list(result) if isinstance(result, (list, tuple)) else [result]


def _traced(model: Any) -> Traced:
    def network(*tensors: Any) -> list[Any]:
        return _outputs(model, tensors)

    specs = [tf.TensorSpec(each.shape, each.dtype) for each in model.inputs]
    function = tf.function(network, input_signature=specs).get_concrete_function()
    return Traced(model, function, tuple(function.inputs[: len(specs)]), tuple(function.outputs))
