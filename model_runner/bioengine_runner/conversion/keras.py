"""The step that converts a Keras model in an .h5 file: tf_keras opens it, runs it on all samples, and saves it as a SavedModel,
which is exported to ONNX.

The file describes layers, and may contain Python code of its own (layers of the kind Lambda). It is therefore opened in the
sandbox alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras
from bioengine_contract.package import Package
from bioengine_contract.weights import CONVERTED

from bioengine_runner.conversion.report import Outcome, Refusal, Report
from bioengine_runner.conversion.samples import Arrays, opened
from bioengine_runner.conversion.saved_model import SIGNATURE, TAG, Exported, export, versions, write_original

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
    export(_saved(model, package, output / "saved_model"), package, output / CONVERTED)
    return Report(Outcome.DONE, versions=versions("tensorflow-cpu", "tf-keras", "tf2onnx", "onnx"))


def _outputs(model: Any, arrays: Arrays | tuple[Any, ...]) -> list[Any]:
    tensors = [tf.convert_to_tensor(array) for array in arrays]
    result = model(tensors if len(tensors) > 1 else tensors[0], training=False)
    return list(result) if isinstance(result, (list, tuple)) else [result]


def _saved(model: Any, package: Package, folder: Path) -> Exported:
    """Save the network as a SavedModel, with a signature whose names are in the order of the description."""
    inputs = tuple(f"input_{number:03}" for number in range(len(package.manifest.inputs)))
    outputs = tuple(f"output_{number:03}" for number in range(len(package.manifest.outputs)))

    def network(*tensors: Any) -> dict[str, Any]:
        return dict(zip(outputs, _outputs(model, tensors)))

    specs = [tf.TensorSpec(each.shape, each.dtype, name) for each, name in zip(model.inputs, inputs)]
    module = tf.Module()
    module.model, module.network = model, tf.function(network, input_signature=specs)
    tf.saved_model.save(module, str(folder), signatures={SIGNATURE: module.network})
    return Exported(folder, (TAG,), SIGNATURE, inputs, outputs)
