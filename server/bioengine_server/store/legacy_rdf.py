"""A description in the form of format 0.4, which existing clients read, for packages of any format.

`inputs[].axes` a string such as "bcyx", `inputs[].shape` a list or `{min, step}`, `outputs[].halo`, `test_inputs`,
`sample_inputs`, `config.bioimageio.nickname`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bioengine_contract.axes import BATCH, letter_of
from bioimageio.spec.model import v0_4, v0_5

if TYPE_CHECKING:
    from bioengine_contract.manifest import Axis, Tensor


def legacy_rdf(
    description: v0_4.ModelDescr | v0_5.ModelDescr,
    raw: dict[str, Any],
    id: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
) -> dict[str, Any]:
    """`raw`, the rdf.yaml as plain data, with inputs, outputs and test files in the form of format 0.4.

    Args:
        description: the validated description.
        raw: its plain data.
        id: the model's id, used as nickname if the description has none.
        inputs, outputs: the tensors of the manifest.
    """
    rdf = copy.deepcopy(raw)
    bioimageio = rdf.setdefault("config", {}).setdefault("bioimageio", {})
    bioimageio.setdefault("nickname", id)
    rdf["weights"] = {name: entry for name, entry in raw["weights"].items() if entry is not None}
    if isinstance(description, v0_5.ModelDescr):
        rdf["inputs"] = [
            {**_tensor(spec, tensor, item), "shape": _input_shape(tensor.axes)}
            for spec, tensor, item in zip(description.inputs, inputs, raw["inputs"])
        ]
        rdf["outputs"] = [
            {**_tensor(spec, tensor, item), "shape": _output_shape(tensor.axes)}
            for spec, tensor, item in zip(description.outputs, outputs, raw["outputs"])
        ]
        for kind in ("inputs", "outputs"):
            rdf[f"test_{kind}"] = _sources(raw[kind], "test_tensor")
            rdf[f"sample_{kind}"] = _sources(raw[kind], "sample_tensor")
    return rdf


def _tensor(spec: Any, tensor: Tensor, item: dict[str, Any]) -> dict[str, Any]:
    legacy: dict[str, Any] = {
        "name": tensor.id,
        "description": spec.description,
        "axes": _letters(tensor.axes),
        "data_type": tensor.dtype,
    }
    for kind in ("preprocessing", "postprocessing"):
        if kind in item:
            legacy[kind] = [
                {"name": step["id"], **{key: value for key, value in step.items() if key != "id"}} for step in item[kind]
            ]
    if tensor.optional:
        legacy["optional"] = True
    halo = [int(getattr(axis, "halo", 0) or 0) for axis in spec.axes]
    if any(halo):
        legacy["halo"] = halo
    return legacy


def _letters(axes: Sequence[Axis]) -> str:
    return "".join(letter_of(axis.type, axis.id) for axis in axes)


def _is_fixed(axis: Axis) -> bool:
    return axis.reference is None and (axis.step == 0 or axis.type == BATCH)


def _input_shape(axes: Sequence[Axis]) -> Any:
    """The size of each axis; if one is not fixed, `{min, step}` for all axes."""
    sizes = [axis.min for axis in axes]
    if all(_is_fixed(axis) for axis in axes):
        return sizes
    return {"min": sizes, "step": [0 if _is_fixed(axis) else axis.step for axis in axes]}


def _output_shape(axes: Sequence[Axis]) -> Any:
    """The size of each axis; if one depends on another tensor, all axes as `reference * scale + 2 * offset`."""
    references = [axis.reference for axis in axes if axis.reference is not None]
    if not references:
        return [axis.min for axis in axes]
    scale, offset = [], []
    for axis in axes:
        if axis.reference is not None:
            scale.append(axis.reference.scale)
            offset.append(axis.reference.offset / 2)
        else:
            follows = axis.type == BATCH
            scale.append(1.0 if follows else 0.0)
            offset.append(0.0 if follows else axis.min / 2)
    return {"reference_tensor": references[0].tensor, "scale": scale, "offset": offset}


def _sources(items: list[dict[str, Any]], key: str) -> list[str]:
    return [str(item[key]["source"]) for item in items if isinstance(item.get(key), dict) and "source" in item[key]]
