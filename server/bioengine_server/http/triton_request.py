"""Parse an inference request in Triton's protocol, check it, and write it again for Triton.

    JSON header -> names, datatypes, shapes, parameters, all checked -> header for Triton
                   binary tensors: streamed, and checked while they pass (`http.triton_tensors`)
                   JSON tensors: converted to binary here

Triton never reads the client's own text, because it computes sizes in 64 bits, and trusts what a header says about the bytes
after it. The protocol is KServe v2, with Triton's binary tensor data extension.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bioengine_contract.errors import BioEngineError
from bioengine_contract.nearest import did_you_mean

from bioengine_server.http.triton_tensors import DATATYPES, MAX_ELEMENTS, Segment, from_json
from bioengine_server.network.errors import Forbidden
from bioengine_server.triton.infer_options import MAX_PRIORITY, MAX_SEQUENCE_ID, MAX_TEXTS, MAX_TIMEOUT, is_text, is_whole

MAX_HEADER = 1_000_000  # bytes of a header before binary tensors
MAX_JSON = 16_000_000  # bytes of a request with JSON tensors, which are decoded here
MAX_JSON_VALUES = 2_000_000
MAX_JSON_CONTAINERS = 200_000
MAX_TENSORS = 64  # inputs of a request, and outputs
MAX_AXES = 32
MAX_NAME = 200  # characters

_EXPECTED = "send a request in Triton's inference protocol, as tritonclient does"

# The known parameters of each part of a request. All others, such as those for shared memory, are refused.
_REQUEST_PARAMETERS = ("binary_data_output", "priority", "sequence_end", "sequence_id", "sequence_start", "timeout")
_INPUT_PARAMETERS = ("binary_data_size",)
_OUTPUT_PARAMETERS = ("binary_data", "classification")
_PARAMETERS = frozenset((*_REQUEST_PARAMETERS, *_INPUT_PARAMETERS, *_OUTPUT_PARAMETERS))


class BadInference(BioEngineError):
    """The inference request does not follow Triton's protocol."""

    code = "bad_inference"

    def __init__(self, reason: str) -> None:
        super().__init__(f"The inference request cannot be used: {reason}.")


@dataclass(frozen=True)
class Input:
    """An input tensor: its description for Triton, and its bytes if it was sent as JSON."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    size: int
    """Bytes."""
    data: bytes | None = None
    """None if the data is in the binary part of the request."""

    @property
    def segment(self) -> Segment:
        return Segment(self.name, self.size, math.prod(self.shape) if self.datatype == "BYTES" else None)


@dataclass(frozen=True)
class Output:
    """A requested output. `binary_data`: None if the request's setting for all outputs applies."""

    name: str
    binary_data: bool | None = None


@dataclass(frozen=True)
class InferRequest:
    """A valid request; Triton itself checks whether it fits the model."""

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...] = ()
    id: str = ""
    parameters: Mapping[str, int | str | bool] = field(default_factory=dict)

    @property
    def from_json(self) -> bytes:
        """The tensors that were sent as JSON; they are sent to Triton first."""
        return b"".join(tensor.data for tensor in self.inputs if tensor.data is not None)

    @property
    def streamed(self) -> list[Segment]:
        """The tensors in the binary part, in order."""
        return [tensor.segment for tensor in self.inputs if tensor.data is None]

    def header(self) -> bytes:
        """The JSON header for Triton; it always requests binary outputs."""
        ordered = sorted(self.inputs, key=lambda tensor: tensor.data is None)
        document: dict[str, Any] = {
            "inputs": [
                {
                    "name": tensor.name,
                    "datatype": tensor.datatype,
                    "shape": list(tensor.shape),
                    "parameters": {"binary_data_size": tensor.size},
                }
                for tensor in ordered
            ]
        }
        if self.outputs:
            document["outputs"] = [{"name": output.name, "parameters": {"binary_data": True}} for output in self.outputs]
        if self.id:
            document["id"] = self.id
        document["parameters"] = {**self.parameters, "binary_data_output": True}
        return json.dumps(document).encode()

    @property
    def has_json(self) -> bool:
        """Whether the client may get outputs as JSON."""
        if not self.outputs:
            return not self._binary_output
        return any(self.wants_json(output.name) for output in self.outputs)

    def wants_json(self, name: str) -> bool:
        """Whether the client requests an output as JSON, which is the protocol's default."""
        asked = next((output.binary_data for output in self.outputs if output.name == name), None)
        return not (self._binary_output if asked is None else asked)

    @property
    def _binary_output(self) -> bool:
        return bool(self.parameters.get("binary_data_output", False))


def parse(header: bytes, has_length: bool) -> InferRequest:
    """Parse the request in a JSON header.

    Args:
        header: the bytes of the header.
        has_length: whether the client gave the header's length, which is needed if binary tensors follow.

    Raises BadInference; Forbidden for a parameter that is not for clients.
    """
    document = _document(header)
    _refuse_parameters(document)
    _known(document, "the request", ("id", "inputs", "outputs", "parameters"))
    inputs = tuple(_input(item, has_length) for item in _tensors(document, "inputs"))
    outputs = tuple(_output(item) for item in _tensors(document, "outputs"))
    _once(tensor.name for tensor in inputs)
    _once(output.name for output in outputs)
    id = document.get("id", "")
    if id != "" and not is_text(id):
        raise BadInference(f"its id is {_shown(id)}, expected at most 128 printable ASCII characters")
    return InferRequest(inputs, outputs, id, _request_parameters(document.get("parameters", {})))


def _document(header: bytes) -> dict[str, Any]:
    """The JSON object in a header. Raises BadInference.

    Values are counted before they are decoded, because a list takes much more memory than its two brackets.
    """
    if header.count(b"[") + header.count(b"{") > MAX_JSON_CONTAINERS or header.count(b",") > MAX_JSON_VALUES:
        raise BadInference("its JSON has too many values; send tensors as binary data after the header")
    try:
        document = json.loads(header, parse_constant=_no_constant)
    except RecursionError:
        raise BadInference(f"its JSON is nested too deep; {_EXPECTED}") from None
    except ValueError as error:
        raise BadInference(f"its header is not JSON; {_EXPECTED}") from error
    if not isinstance(document, dict):
        raise BadInference(f"its header is not a JSON object; {_EXPECTED}")
    return document


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _refuse_parameters(document: dict[str, Any]) -> None:
    """Raises Forbidden for an unknown parameter, before any other check; BadInference for parts of the wrong type."""
    items = [document]
    for key in ("inputs", "outputs"):
        tensors = document.get(key, [])
        if not isinstance(tensors, list):
            raise BadInference(f"its {key} are not a list")
        items += tensors
    for item in items:
        parameters = item.get("parameters", {}) if isinstance(item, dict) else None
        if not isinstance(parameters, dict):
            raise BadInference("an input, output or parameters is not an object")
        if refused := sorted(set(parameters) - _PARAMETERS):
            raise Forbidden(
                f"The parameter {refused[0][:60]!r}", "send tensors in the request; memory is not shared with clients."
            )


def _known(item: dict[str, Any], what: str, keys: Sequence[str]) -> None:
    if unknown := sorted(set(item) - set(keys)):
        meant = did_you_mean(unknown[0], keys)
        raise BadInference(f"{what} has the unknown key {_shown(unknown[0])}.{meant} The known keys are {', '.join(keys)}")


def _tensors(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = document.get(key, [])
    if len(items) > MAX_TENSORS:
        raise BadInference(f"it has {len(items)} {key}, expected at most {MAX_TENSORS}")
    return items


def _once(names: Any) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BadInference(f"the tensor {_shown(name)} is named twice")
        seen.add(name)


def _name(item: dict[str, Any]) -> str:
    name = item.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise BadInference(f"a tensor has the name {_shown(name)}, expected at most {MAX_NAME} printable characters")
    return name


def _input(item: dict[str, Any], has_length: bool) -> Input:
    name = _name(item)
    _known(item, f"the input {_shown(name)}", ("name", "datatype", "shape", "parameters", "data"))
    datatype, shape = item.get("datatype"), item.get("shape")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise BadInference(
            f"the input {_shown(name)} has the datatype {_shown(datatype)}, expected one of {', '.join(DATATYPES)}"
        )
    if not isinstance(shape, list) or len(shape) > MAX_AXES or not all(is_whole(size, MAX_ELEMENTS) for size in shape):
        raise BadInference(
            f"the input {_shown(name)} has the shape {_shown(shape)}, expected a list of at most {MAX_AXES} sizes of 0 or more"
        )
    # The product without zeros is checked too: a program that multiplies in 64 bits must not overflow at any step.
    if math.prod(size or 1 for size in shape) > MAX_ELEMENTS:
        raise BadInference(f"the input {_shown(name)} of shape {_shown(shape)} has more elements than any tensor can have")
    elements, item_size = math.prod(shape), DATATYPES[datatype]
    if item_size is None and elements > MAX_TEXTS:
        raise BadInference(f"the input {_shown(name)} has {elements} BYTES elements, expected at most {MAX_TEXTS}")
    parameters = _parameters(item, f"the input {_shown(name)}", _INPUT_PARAMETERS)
    if "data" in item:
        if parameters:
            raise BadInference(f"the input {_shown(name)} has both data and binary_data_size; send one of them")
        data = from_json(item["data"], datatype, elements, MAX_AXES)
        if isinstance(data, str):
            raise BadInference(f"the data of input {_shown(name)}, {datatype} of shape {_shown(shape)}, {data}")
        return Input(name, datatype, tuple(shape), len(data), data)
    size = parameters.get("binary_data_size")
    if not has_length or not is_whole(size, MAX_ELEMENTS * 8):
        raise BadInference(
            f"the input {_shown(name)} has no data: expected `data`, or binary_data_size and the header "
            "Inference-Header-Content-Length"
        )
    if item_size is not None and size != elements * item_size:
        raise BadInference(
            f"the input {_shown(name)}, {datatype} of shape {_shown(shape)}, has {elements * item_size} bytes, and its "
            f"binary_data_size is {size}"
        )
    return Input(name, datatype, tuple(shape), int(size))  # type: ignore[arg-type]


def _output(item: dict[str, Any]) -> Output:
    name = _name(item)
    _known(item, f"the output {_shown(name)}", ("name", "parameters"))
    parameters = _parameters(item, f"the output {_shown(name)}", _OUTPUT_PARAMETERS)
    binary, classes = parameters.get("binary_data"), parameters.get("classification", 0)
    # Triton 2.51 crashes if the output has the datatype BYTES, and uses std::sort with NaN, which is undefined behaviour.
    if not is_whole(classes, 0):
        raise BadInference(
            f"classification of the output {_shown(name)} is {_shown(classes)}, and this server sorts no outputs into classes; "
            "ask for the output itself, without classification or class_count"
        )
    if binary is not None and not isinstance(binary, bool):
        raise BadInference(f"binary_data of the output {_shown(name)} is {_shown(binary)}, expected true or false")
    return Output(name, binary)


def _parameters(item: dict[str, Any], what: str, keys: Sequence[str]) -> dict[str, Any]:
    parameters: dict[str, Any] = item.get("parameters", {})
    if misplaced := sorted(set(parameters) - set(keys)):
        raise BadInference(f"the parameter {misplaced[0]} has no meaning for {what}; known there are {', '.join(keys)}")
    return parameters


def _request_parameters(given: dict[str, Any]) -> dict[str, int | str | bool]:
    given = _parameters({"parameters": given}, "the request", _REQUEST_PARAMETERS)
    for key, value in given.items():
        if key == "sequence_id":
            fits, expected = is_whole(value, MAX_SEQUENCE_ID) or is_text(value), "a whole number of 64 bits or a short text"
        elif key in ("priority", "timeout"):
            most = MAX_PRIORITY if key == "priority" else MAX_TIMEOUT
            fits, expected = is_whole(value, most), f"a whole number from 0 to {most}"
        else:
            fits, expected = isinstance(value, bool), "true or false"
        if not fits:
            raise BadInference(f"its parameter {key} is {_shown(value)}, expected {expected}")
    return {key: given[key] for key in _REQUEST_PARAMETERS if key in given}


def _shown(value: Any) -> str:
    """A value as an error message shows it; only its type if it is long."""
    if isinstance(value, str):
        return repr(value[:60])
    if isinstance(value, list) and len(value) <= MAX_AXES and all(is_whole(item, 2**70, -(2**70)) for item in value):
        return str(value)
    if value is None or isinstance(value, (bool, float)) or is_whole(value, 2**70, -(2**70)):
        return json.dumps(value)
    return f"a {type(value).__name__}"
