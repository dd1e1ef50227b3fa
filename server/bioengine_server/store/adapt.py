"""Adapt valid descriptions that bioimageio's libraries in this server do not accept.

bioimageio.core 0.11 accepts tensor names of at most 32 letters; format 0.4 sets no limit. bioimageio.spec 0.5.12 does not know
`any_discrete_output` and `any_continuous_output`, with which format 0.5.14 says which outputs a tolerance of the reference test
is for.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

_MAX_NAME = 32
_DISCRETE = ("int", "uint", "bool")
_KINDS = {"any_discrete_output": True, "any_continuous_output": False}
# The default of format 0.5.14 for discrete outputs.
_DISCRETE_TOLERANCE = {"relative_tolerance": 0, "absolute_tolerance": 0, "mismatched_elements_per_million": 1000}


def adapt(raw: dict[str, Any]) -> bool:
    """Change the plain data of a description where necessary; returns whether anything was changed."""
    return any([_shorten_names(raw), _spell_out_outputs(raw)])


def _shorten_names(raw: dict[str, Any]) -> bool:
    """Shorten tensor names that are too long, in all places where format 0.4 uses them."""
    if str(raw.get("format_version", "")).startswith("0.5"):
        return False
    tensors = [tensor for kind in ("inputs", "outputs") for tensor in _dicts(raw.get(kind))]
    names = [name for tensor in tensors if isinstance(name := tensor.get("name"), str)]
    short: dict[str, str] = {}
    taken, numbers = set(names), Counter[str]()
    for name in names:
        if len(name) > _MAX_NAME and name not in short:
            short[name] = _shortened(name, taken, numbers)
            taken.add(short[name])
    if not short:
        return False
    for tensor in tensors:
        _replace(tensor, "name", short)
        _replace(tensor.get("shape"), "reference_tensor", short)
        for kind in ("preprocessing", "postprocessing"):
            for step in _dicts(tensor.get(kind)):
                _replace(step.get("kwargs"), "reference_tensor", short)
    return True


def _shortened(name: str, taken: set[str], numbers: Counter[str]) -> str:
    """A short name that is not used yet. `numbers`: counts the names with the same beginning, so that each count is made once."""
    beginning = short = name[:_MAX_NAME]
    while short in taken:
        numbers[beginning] += 1
        end = f"_{numbers[beginning] + 1}"
        short = name[: _MAX_NAME - len(end)] + end
    return short


def _replace(holder: Any, key: str, names: dict[str, str]) -> None:
    if isinstance(holder, dict) and isinstance(holder.get(key), str):
        holder[key] = names.get(holder[key], holder[key])


def _spell_out_outputs(raw: dict[str, Any]) -> bool:
    """List the outputs that each tolerance is for. One that is for none is removed: without a list, it would apply to all."""
    config = raw.get("config")
    bioimageio = config.get("bioimageio") if isinstance(config, dict) else None
    entries = _dicts(bioimageio.get("reproducibility_tolerance")) if isinstance(bioimageio, dict) else []
    if not any(str(entry.get("output_ids")) in _KINDS for entry in entries):
        return False
    outputs = {str(output.get("id", "output")): _is_discrete(output) for output in _dicts(raw.get("outputs"))}
    spelled = []
    for entry in entries:
        if (kind := _KINDS.get(str(entry.get("output_ids")))) is None:
            spelled.append(entry)
        elif ids := [id for id, is_discrete in outputs.items() if is_discrete is kind]:
            spelled.append({**(_DISCRETE_TOLERANCE if kind else {}), **entry, "output_ids": ids})
    bioimageio["reproducibility_tolerance"] = spelled  # type: ignore[index]
    return True


def _is_discrete(output: dict[str, Any]) -> bool:
    """Whether an output's values are integers or booleans. Each channel may have an entry; all must have the same type."""
    data = output.get("data")
    first = data[0] if isinstance(data, list) and data else data
    return isinstance(first, dict) and str(first.get("type", "")).startswith(_DISCRETE)


def _dicts(items: Any) -> list[dict[str, Any]]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
