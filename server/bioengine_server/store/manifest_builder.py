"""Make the manifest, the content of `model.json`, from a validated description."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from bioengine_contract.axes import BATCH, IMAGE_AXES, id_of, type_of
from bioengine_contract.manifest import Axis, Manifest, SizeReference, Tensor, Weights
from bioengine_contract.weights import USED
from bioimageio.spec.model import v0_4, v0_5

from bioengine_server.store.legacy_rdf import legacy_rdf
from bioengine_server.store.named_files import named_files

ModelDescription: TypeAlias = v0_4.ModelDescr | v0_5.ModelDescr

# Triton's names of the dtypes that bioimage.io knows.
_TRITON_TYPES = {
    "bool": "TYPE_BOOL",
    **{f"{sign.lower()}int{bits}": f"TYPE_{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
}


def build_manifest(
    description: ModelDescription,
    raw: dict[str, Any],
    id: str,
    version: str,
    folder: Path,
    files: dict[str, str],
    origin: str,
) -> Manifest:
    """The manifest of a package with a valid description.

    Args:
        description: the package's description.
        raw: its rdf.yaml as plain data.
        id: the id under which it is stored.
        version: its version.
        folder: where its files are now.
        files: SHA-256 of each file, by its path within the package.
        origin: where it came from.
    """
    inputs = tuple(_tensor(spec, {}) for spec in description.inputs)
    scales = {
        (str(spec.id), str(axis.id)): _scale(axis)
        for spec in description.inputs
        if isinstance(spec, v0_5.InputTensorDescr)
        for axis in spec.axes
    }
    if isinstance(description, v0_5.ModelDescr):
        inputs = tuple(_tensor(spec, scales) for spec in description.inputs)
    outputs = tuple(_tensor(spec, scales) for spec in description.outputs)
    entries = {name: entry for name, entry in description.weights if entry is not None}
    weights = {
        name: Weights(source=_path(entry.source), sha256=files[_path(entry.source)], external_data=_external_data(entry))
        for name, entry in entries.items()
        if name in USED and _path(entry.source) in files
    }
    return Manifest(
        id=id,
        version=version,
        name=description.name,
        imported=datetime.datetime.now(datetime.UTC),
        origin=origin,
        size=sum((folder / name).stat().st_size for name in files),
        inputs=inputs,
        outputs=outputs,
        weights=weights,
        unsupported_weights=tuple(name for name in entries if name not in weights),
        code=_code(description),
        files=files,
        unpinned=tuple(
            dict.fromkeys(
                file.source for file in named_files(raw) if file.computes and file.sha256 is None and file.source in files
            )
        ),
        test_inputs=_test_tensors(description, "inputs"),
        test_outputs=_test_tensors(description, "outputs"),
        triton_config=_triton_config(inputs, outputs),
        rdf=legacy_rdf(description, raw, id, inputs, outputs),
    )


def _path(source: Any) -> str:
    """The path within the package that a file source in a description stands for."""
    return Path(str(getattr(source, "path", source))).name if Path(str(source)).is_absolute() else str(source)


def _external_data(entry: Any) -> str | None:
    external = getattr(entry, "external_data", None)
    return None if external is None else _path(external.source)


def _tensor(spec: Any, scales: dict[tuple[str, str], float]) -> Tensor:
    if isinstance(spec, (v0_4.InputTensorDescr, v0_4.OutputTensorDescr)):
        return Tensor(id=str(spec.name), dtype=_dtype(spec), axes=_axes_0_4(spec))
    axes = tuple(_axis_0_5(axis, scales) for axis in spec.axes)
    return Tensor(id=str(spec.id), dtype=_dtype(spec), axes=axes, optional=bool(getattr(spec, "optional", False)))


def _dtype(spec: Any) -> str:
    """The dtype of an input or output. For outputs, the postprocessing determines it, not `data_type` or `data`."""
    if isinstance(spec, v0_4.InputTensorDescr):
        return str(spec.data_type)
    if isinstance(spec, v0_4.OutputTensorDescr):
        return "float32"  # bioimageio.core applies `data_type` before the postprocessing, and this dtype after it
    if isinstance(spec, v0_5.OutputTensorDescr):
        last = spec.postprocessing[-1]  # always present: the specification adds one of these two steps
        return str(last.kwargs.dtype) if isinstance(last, v0_5.EnsureDtypeDescr) else "bool"
    return str(spec.dtype)


def _axes_0_4(spec: v0_4.InputTensorDescr | v0_4.OutputTensorDescr) -> tuple[Axis, ...]:
    halo: Sequence[int] = getattr(spec, "halo", None) or [0] * len(spec.axes)
    return tuple(_axis_0_4(spec.shape, index, letter, int(halo[index])) for index, letter in enumerate(spec.axes))


def _axis_0_4(shape: Any, index: int, letter: str, halo: int) -> Axis:
    id, type, reference = id_of(letter), type_of(letter), None
    if isinstance(shape, v0_4.ParameterizedInputShape):
        # The specification requires step 0 here, but also says: "The batch dimension can always be increased".
        smallest, step = int(shape.min[index]), 1 if type == BATCH else int(shape.step[index])
    elif isinstance(shape, v0_4.ImplicitOutputShape):
        smallest, step = 1, 1
        # A scale of 0 means that the offset alone is the size; outputs that are not images need no size.
        if type in IMAGE_AXES and (scale := shape.scale[index]):
            reference = SizeReference(str(shape.reference_tensor), id, float(scale), round(2 * shape.offset[index]))
    else:
        smallest, step = int(shape[index]), 0
    return Axis(id, type, smallest, step, reference, halo)


def _axis_0_5(axis: Any, scales: dict[tuple[str, str], float]) -> Axis:
    size = axis.size
    if size is None:  # a batch axis that takes any number of samples
        smallest, step, reference = 1, 1, None
    elif isinstance(size, v0_5.ParameterizedSize):
        smallest, step, reference = size.min, size.step, None
    elif isinstance(size, v0_5.SizeReference):
        scale = scales.get((str(size.tensor_id), str(size.axis_id)), 1.0) / _scale(axis)
        reference = SizeReference(str(size.tensor_id), str(size.axis_id), scale, int(size.offset))
        smallest, step = 1, 1
    elif isinstance(size, v0_5.DataDependentSize):
        smallest, step, reference = size.min, 1, None
    else:
        smallest, step, reference = int(size), 0, None
    return Axis(str(axis.id), axis.type, smallest, step, reference, int(getattr(axis, "halo", 0) or 0))


def _scale(axis: Any) -> float:
    return float(getattr(axis, "scale", 1.0) or 1.0)


def _code(description: ModelDescription) -> tuple[str, ...]:
    """The Python code that the package runs whatever its weights, such as custom processing steps."""
    reasons = []
    steps = [("preprocessing", spec) for spec in description.inputs] + [("postprocessing", spec) for spec in description.outputs]
    for kind, spec in steps:
        for step in getattr(spec, kind):
            if str(getattr(step, "id", getattr(step, "name", ""))) == "custom":
                reasons.append(f"custom {kind} of '{getattr(spec, 'id', None) or getattr(spec, 'name', '')}'")
    return tuple(reasons)


def _test_tensors(description: ModelDescription, kind: Literal["inputs", "outputs"]) -> tuple[str, ...]:
    if isinstance(description, v0_4.ModelDescr):
        return tuple(_path(source) for source in getattr(description, f"test_{kind}"))
    return tuple(_path(spec.test_tensor.source) for spec in getattr(description, kind) if spec.test_tensor is not None)


def _triton_config(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> dict[str, Any]:
    """Triton's model configuration: one dim for each axis of the RDF, including the batch; -1 if its size is not fixed."""

    def tensors(specs: Sequence[Tensor]) -> list[dict[str, Any]]:
        return [
            {
                "name": spec.id,
                "data_type": _TRITON_TYPES[spec.dtype],
                "dims": [axis.min if axis.step == 0 and axis.reference is None else -1 for axis in spec.axes],
                **({"optional": True} if spec.optional else {}),
            }
            for spec in specs
        ]

    return {
        "backend": "python",
        "max_batch_size": 0,
        "input": tensors(inputs),
        "output": tensors(outputs),
    }
