"""Convert inputs and outputs of the admin's Triton models: a value for each input becomes an array, outputs are named arrays."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from bioengine_contract import message
from bioengine_contract.nearest import did_you_mean
from tritonclient.utils import triton_to_np_dtype

from bioengine_server.dispatch.errors import RefusedArgument
from bioengine_server.service.infer_options import shown
from bioengine_server.triton.infer_options import MAX_TEXTS

_MAX_AXES = 32
_BLOCK = 131_072  # values
_LEVELS = 16  # levels of brightness; an image with fewer is useless


def to_triton(inputs: Any, config: dict[str, Any], serialization: str) -> list[tuple[str, np.ndarray]]:
    """The arrays for a model's inputs.

    Args:
        inputs: a value for each input of the model, in order or by name. Optional ones may be None, or missing at the end.
            A value is an array; a string or a dict (as JSON) for a BYTES input; a list of these, which are stacked; with the
            serialization "imjoy", anything that imjoy-rpc encodes.
        config: the model's configuration.
        serialization: "triton" or "imjoy".

    Raises RefusedArgument, and TypeError for an array of a wrong dtype.
    """
    specs = config["input"]
    names = [spec["name"] for spec in specs]
    if isinstance(inputs, dict):
        for name in dict.keys(inputs) - set(names):
            meant = did_you_mean(str(name), names)
            raise RefusedArgument(
                "inputs", f"the model '{config['name']}' has no input {shown(name)}.{meant} It has {', '.join(names)}."
            )
        values = {name: inputs[name] for name in names if name in inputs}
        fits = True
    else:
        fits = isinstance(inputs, (list, tuple)) and len(inputs) <= len(specs)
        values = dict(zip(names, inputs)) if fits else {}
    for spec in specs:
        if spec.get("optional") and values.get(spec["name"], spec) is None:
            del values[spec["name"]]
    if not fits or any(spec["name"] not in values and not spec.get("optional") for spec in specs):
        given = len(inputs) if isinstance(inputs, (dict, list, tuple)) else type(inputs).__name__
        were = "was" if given == 1 else "were"
        raise RefusedArgument(
            "inputs",
            f"the model '{config['name']}' takes a list of {len(specs)} ({', '.join(names)}), but {given} {were} given.",
        )
    given_specs = [spec for spec in specs if spec["name"] in values]
    if serialization == "imjoy":
        return [(spec["name"], _bytes(_encoded(values[spec["name"]]))) for spec in given_specs]
    for spec in given_specs:
        if spec["data_type"].removeprefix("TYPE_") in ("STRING", "BYTES"):
            _check_texts(spec["name"], values[spec["name"]])
    return [(spec["name"], _array(spec, values[spec["name"]])) for spec in given_specs]


def from_triton(outputs: dict[str, np.ndarray], serialization: str, decode_json: bool, decode_bytes: bool) -> dict[str, Any]:
    """Outputs by name. BYTES outputs are decoded as the client requests: as imjoy-rpc's encoding, JSON, or text."""
    return {name: _decoded(array, serialization, decode_json, decode_bytes) for name, array in outputs.items()}


def checked_outputs(select_outputs: Any, config: dict[str, Any]) -> Sequence[str] | None:
    """`select_outputs` as names of the model's outputs, None for all. Raises RefusedArgument."""
    if select_outputs is None:
        return None
    names = [spec["name"] for spec in config["output"]]
    if (
        not isinstance(select_outputs, (list, tuple))
        or len(select_outputs) > len(names)
        or not all(isinstance(name, str) and name in names for name in select_outputs)
        or len(set(select_outputs)) < len(select_outputs)
    ):
        raise RefusedArgument("select_outputs", f"{shown(select_outputs)} is not a list out of {', '.join(names)}, each once.")
    return list(select_outputs)


def _array(spec: dict[str, Any], value: Any, depth: int = 0) -> np.ndarray:
    name, wanted = spec["name"], spec["data_type"].removeprefix("TYPE_")
    if isinstance(value, (list, tuple)) and value:
        if depth == _MAX_AXES:
            raise TypeError(f"Input '{name}' is a list nested deeper than {_MAX_AXES}; expected an array.")
        parts = [_array(spec, item, depth + 1) for item in value]
        if len({part.shape for part in parts}) > 1:
            raise TypeError(f"Input '{name}' is a list of arrays of different shapes; expected one shape.")
        return np.stack(parts)
    if wanted in ("STRING", "BYTES"):
        if isinstance(value, np.ndarray):
            return value if value.dtype == np.object_ else value.astype(np.object_)
        try:
            text = value if isinstance(value, (str, bytes)) else json.dumps(value)
        except (ValueError, RecursionError) as error:
            raise TypeError(f"Input '{name}' cannot be sent as JSON ({error}).") from error
        return _bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    dtype = np.dtype(triton_to_np_dtype(wanted))
    if not isinstance(value, np.ndarray):
        raise TypeError(f"Input '{name}' is a {type(value).__name__}; expected an array of {dtype.name}.")
    if value.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"Input '{name}' is {value.dtype.name}; expected {dtype.name}. {_conversion(value, dtype)}")
    return value.astype(dtype, copy=False)


def _conversion(array: np.ndarray, wanted: np.dtype) -> str:
    """A suggestion how to convert an array to this dtype so that it shows the same image."""
    plain = f"image.astype('{wanted.name}')"
    if array.dtype.kind not in "biuf" or not array.size or wanted.kind not in "iuf":
        return f"Send an array of {wanted.name}."
    with np.errstate(all="ignore"):
        low, high = float(np.fmin.reduce(array, axis=None)), float(np.fmax.reduce(array, axis=None))
        if _has_equals(array, wanted):
            return f"Convert it with {plain}: no value changes."
    limits, largest = np.finfo(wanted) if wanted.kind == "f" else None, max(abs(low), abs(high))
    if limits is not None and float(limits.tiny) <= largest <= float(limits.max):
        with np.errstate(all="ignore"):
            loses = _loses_whole_numbers(array, wanted)
        if loses:
            return (
                f"{wanted.name} cannot represent some of its whole numbers: renumber labels of objects from 1; intensities are "
                f"rounded with {plain}."
            )
        return f"Convert it with {plain}: its values are rounded to about {limits.precision} digits."
    seen = f"Its values are from {low:.6g} to {high:.6g}, and {plain} would change them"
    if not (np.isfinite(low) and np.isfinite(high)) or np.isnan(array.min()):
        return f"{seen}: replace NaN and infinity first, for example with np.where(np.isfinite(image), image, 0)."
    top = min(int(np.iinfo(wanted).max), 65535) if wanted.kind in "iu" else 1
    if 0 <= low and high <= 1 and (high - low) * top >= _LEVELS:
        return f"{seen}: scale them, for example with (image * {top}).round().astype('{wanted.name}')."
    return (
        f"{seen}: rescale them to 0 to {top}, for example with "
        f"np.interp(image, (image.min(), image.max()), (0, {top})){'.round()' * (top > 1)}.astype('{wanted.name}')."
        + " Do not rescale labels of objects: renumber them from 1."
        * (array.dtype.kind in "iu" and low >= 0)
    )


def _has_equals(array: np.ndarray, wanted: np.dtype) -> bool:
    """Whether the dtype can represent every value."""
    return all(np.array_equal(block.astype(wanted), block, equal_nan=block.dtype.kind == "f") for block in _blocks(array))


def _loses_whole_numbers(array: np.ndarray, wanted: np.dtype) -> bool:
    """Whether the dtype cannot represent some whole numbers. Floats from 2^53 on are always whole, and are ignored."""
    return any(
        bool(np.any((block == np.rint(block)) & (block.astype(wanted) != block) & (np.abs(block) < 2.0**53)))
        for block in _blocks(array)
    )


def _blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the values in blocks: the array may be as large as a request, and a copy would be too."""
    with np.nditer(array, ["external_loop", "buffered"], ["readonly"], buffersize=_BLOCK) as iterator:
        while not iterator.finished:
            yield np.asarray(iterator.value)
            iterator.iternext()


def _encoded(value: Any) -> bytes:
    """Encode a value. Raises RefusedArgument for what cannot be sent to a model, such as a function."""
    try:
        return message.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise RefusedArgument("inputs", f"{error}. Send arrays, strings, numbers, lists and dicts only.") from error


def _check_texts(name: str, value: Any) -> None:
    """Limit the number of BYTES elements before each becomes an object. Raises RefusedArgument."""
    count, pending = 0, [value]
    while pending:
        item = pending.pop()
        if isinstance(item, (list, tuple)):
            pending.extend(item)
        else:
            count += item.size if isinstance(item, np.ndarray) else 1
    if count > MAX_TEXTS:
        raise RefusedArgument("inputs", f"the input '{name}' has {count} BYTES elements, expected at most {MAX_TEXTS}.")


def _bytes(value: bytes) -> np.ndarray:
    return np.array([value], dtype=np.object_)


def _decoded(array: np.ndarray, serialization: str, decode_json: bool, decode_bytes: bool) -> Any:
    """A list of all elements, as pyotritonclient returns them, which clients of the public server use."""
    if array.dtype != np.object_:
        return array
    if serialization == "imjoy":
        return message.decode(array.flat[0])  # a model may return what a client sent, so it is not trusted
    if not (decode_json or decode_bytes):
        return list(array.flat)
    return [_text(item, decode_json) for item in array.flat]


def _text(item: bytes, decode_json: bool) -> Any:
    """Decode bytes as text, or as JSON; if that is not possible, return the bytes."""
    try:
        text = item.decode("utf-8")
        return json.loads(text) if decode_json else text
    except UnicodeDecodeError:
        return item
    except ValueError:
        return text
