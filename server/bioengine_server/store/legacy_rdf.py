"""A description in the shape of format 0.4, which existing clients read, whatever format the package has.

`inputs[].axes` a string such as "bcyx", `inputs[].shape` a list or `{min, step}`, `outputs[].halo`, `test_inputs`,
`sample_inputs`, `config.bioimageio.nickname`.
"""

from __future__ import annotations

import copy
from typing import Any

from bioimageio.spec.model import v0_4, v0_5

_LETTERS = {"batch": "b", "channel": "c", "time": "t", "index": "i"}


def legacy_rdf(description: v0_4.ModelDescr | v0_5.ModelDescr, raw: dict[str, Any], id: str) -> dict[str, Any]:
    """`raw`, the rdf.yaml as plain data, with inputs, outputs and test files in the shape of format 0.4."""
    rdf = copy.deepcopy(raw)
    bioimageio = rdf.setdefault("config", {}).setdefault("bioimageio", {})
    bioimageio.setdefault("nickname", id)
    if isinstance(description, v0_5.ModelDescr):
        rdf["inputs"] = [_tensor(spec, item) for spec, item in zip(description.inputs, raw["inputs"])]
        rdf["outputs"] = [_tensor(spec, item) for spec, item in zip(description.outputs, raw["outputs"])]
        for kind in ("inputs", "outputs"):
            rdf[f"test_{kind}"] = _sources(raw[kind], "test_tensor")
            rdf[f"sample_{kind}"] = _sources(raw[kind], "sample_tensor")
    return rdf


def _tensor(spec: Any, item: dict[str, Any]) -> dict[str, Any]:
    tensor: dict[str, Any] = {
        "name": str(spec.id),
        "description": spec.description,
        "axes": "".join(_LETTERS.get(axis.type, str(axis.id)[-1]) for axis in spec.axes),
        "data_type": spec.data.type if not isinstance(spec.data, (list, tuple)) else spec.data[0].type,
        "shape": _shape(spec),
    }
    for kind in ("preprocessing", "postprocessing"):
        if kind in item:
            tensor[kind] = [
                {"name": step["id"], **{key: value for key, value in step.items() if key != "id"}} for step in item[kind]
            ]
    halo = [int(getattr(axis, "halo", 0) or 0) for axis in spec.axes]
    if any(halo):
        tensor["halo"] = halo
    return tensor


def _shape(spec: Any) -> Any:
    sizes = [1 if axis.size is None else axis.size for axis in spec.axes]
    if all(isinstance(size, int) for size in sizes):
        return sizes
    if isinstance(spec, v0_5.OutputTensorDescr):
        references = [size for size in sizes if isinstance(size, v0_5.SizeReference)]
        if references:
            return {
                "reference_tensor": str(references[0].tensor_id),
                "scale": [1.0] * len(sizes),
                "offset": [size.offset / 2 if isinstance(size, v0_5.SizeReference) else 0.0 for size in sizes],
            }
    parameterized = [size if isinstance(size, v0_5.ParameterizedSize) else None for size in sizes]
    return {
        "min": [size.min if size else (fixed if isinstance(fixed, int) else 1) for size, fixed in zip(parameterized, sizes)],
        "step": [size.step if size else 0 for size in parameterized],
    }


def _sources(items: list[dict[str, Any]], key: str) -> list[str]:
    return [str(item[key]["source"]) for item in items if isinstance(item.get(key), dict) and "source" in item[key]]
