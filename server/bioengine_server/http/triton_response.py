"""Convert Triton's binary result to one with JSON tensors.

Triton is always asked for binary tensors, because it would need about 75 bytes of memory for each element in JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bioengine_server.http.triton_request import BadInference
from bioengine_server.http.triton_tensors import DATATYPES

MAX_JSON_RESULT = 2_000_000  # values
MAX_JSON_RESULT_BYTES = 64_000_000  # bytes of a binary result that is converted to JSON

_INSTEAD = "request binary_data for it"


def parse_header(header: bytes, wants_json: Callable[[str], bool]) -> dict[str, Any]:
    """Parse the JSON header of a result of Triton. Raises BadInference if its tensors are too large for JSON.

    Args:
        header: the bytes before the binary tensors.
        wants_json: whether the client requests the tensor with this name as JSON.
    """
    document: dict[str, Any] = json.loads(header)
    wanted = [output for output in document.get("outputs", []) if wants_json(output["name"])]
    values = sum(math.prod(output["shape"]) for output in wanted)
    if values > MAX_JSON_RESULT:
        raise BadInference(
            f"its result as JSON would have {values} values, but JSON may have {MAX_JSON_RESULT}: request binary_data"
        )
    return document


def with_json(document: dict[str, Any], content: bytes, wants_json: Callable[[str], bool]) -> tuple[bytes, bytes]:
    """The JSON header of a result for a client, and the binary tensors that go with it. Raises BadInference.

    Args:
        document: from `parse_header`.
        content: the binary tensors.
        wants_json: as there.
    """
    at, outputs, binary = 0, [], []
    for output in document.get("outputs", []):
        size = output.get("parameters", {}).get("binary_data_size", 0)
        data, at = content[at : at + size], at + size
        if not wants_json(output["name"]):
            outputs.append(output)
            binary.append(data)
            continue
        parameters = {key: value for key, value in output.get("parameters", {}).items() if key != "binary_data_size"}
        kept = {key: output[key] for key in ("name", "datatype", "shape")}
        outputs.append(
            {
                **kept,
                **({"parameters": parameters} if parameters else {}),
                "data": _values(output["name"], output["datatype"], data),
            }
        )
    header = json.dumps({**document, "outputs": outputs}, allow_nan=False, separators=(",", ":")).encode()
    return header, b"".join(binary)


def _values(name: str, datatype: str, data: bytes) -> list[Any]:
    if datatype == "BYTES":
        return _texts(name, data)
    if datatype == "BF16" or datatype not in DATATYPES:
        raise BadInference(f"its output {name!r} is {datatype}, which JSON does not have: {_INSTEAD}")
    if datatype == "BOOL":
        return [bool(value) for value in data]
    kind = "f" if datatype.startswith("FP") else "u" if datatype.startswith("U") else "i"
    array = np.frombuffer(data, f"<{kind}{DATATYPES[datatype]}")
    values: list[Any] = array.tolist()
    if kind == "f" and not (finite := np.isfinite(array)).all():
        for place in np.flatnonzero(~finite):
            values[place] = None  # JSON has no such numbers
    return values


def _texts(name: str, data: bytes) -> list[str]:
    texts, at = [], 0
    try:
        while at < len(data):
            size = int.from_bytes(data[at : at + 4], "little")
            texts.append(data[at + 4 : at + 4 + size].decode())
            at += 4 + size
    except UnicodeDecodeError:
        raise BadInference(f"its output {name!r} has bytes that are not text: {_INSTEAD}") from None
    return texts
