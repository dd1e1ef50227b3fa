"""Find the other files from which an ONNX file reads its tensors, without the ONNX library.

An ONNX file may keep tensors in other files, by any path, even that of a secret of the server. ONNX Runtime would read the file,
and the model could return it as an image. So all these files are found at import, and each must be a file that the package's
description declares (`bioengine_server.store.external_data`).

The format is protobuf: a message is a sequence of fields, each with a number, a wire type and a value. Only messages that can
contain a tensor are parsed; everything else, including weights, is skipped. Field numbers are those of onnx.proto3.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

_Buffer: TypeAlias = "mmap.mmap | bytes"

# For each kind of message, the fields that lead to a tensor, and the kind of message that they contain.
_FIELDS = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Training": {1: "Graph", 2: "Graph"},
    "Tensor": {13: "Entry"},
}
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MAX_TAG, _MAX_LENGTH, _MAX_VALUE = 2**32 - 1, 2**31 - 1, 2**64 - 1
_MAX_DEPTH = 100  # protobuf's own limit


class NotOnnx(Exception):
    """The file is not valid protobuf."""


@dataclass(frozen=True)
class External:
    """A tensor outside the ONNX file: its `location` as written in the file, and `offset` and `length` in bytes, if given."""

    location: str
    offset: str | None
    length: str | None

    @property
    def path(self) -> PurePosixPath | None:
        """The path relative to the ONNX file's folder; None if it is not a plain path below that folder."""
        path = PurePosixPath(self.location)
        is_plain = self.location == str(path) and not path.is_absolute() and ".." not in path.parts
        return path if self.location and is_plain and "\\" not in self.location and "\0" not in self.location else None


def external_tensors(file: Path) -> set[External]:
    """Every reference of an ONNX file to another file. Raises NotOnnx, OSError."""
    with open(file, "rb") as stream:
        if file.stat().st_size == 0:
            raise NotOnnx("it is empty")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found: set[External] = set()
            _visit(content, 0, len(content), "Model", found, 0)
            return found


def _visit(content: _Buffer, start: int, end: int, kind: str, found: set[External], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise NotOnnx(f"its messages are nested more than {_MAX_DEPTH} levels deep")
    entries: list[tuple[str, str]] = []
    inner = _FIELDS[kind]
    for number, wire_type, first, last in _fields(content, start, end):
        if number not in inner:
            continue
        if wire_type != _LENGTH:
            raise NotOnnx(f"field {number} of a {kind} is not a message")
        if inner[number] == "Entry":
            entries.append(_entry(content, first, last))
        else:
            _visit(content, first, last, inner[number], found, depth + 1)
    if entries:
        values = dict(entries)
        if len(values) < len(entries):  # implementations differ in which one they use
            raise NotOnnx("a tensor gives its location twice")
        found.add(External(values.get("location", ""), values.get("offset"), values.get("length")))


def _entry(content: _Buffer, start: int, end: int) -> tuple[str, str]:
    texts = {1: "", 2: ""}
    for number, wire_type, first, last in _fields(content, start, end):
        if number in texts and wire_type == _LENGTH:
            try:
                texts[number] = bytes(content[first:last]).decode("utf-8")
            except UnicodeDecodeError as error:
                raise NotOnnx("the name of a file is not text") from error
    return texts[1], texts[2]


def _fields(content: _Buffer, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields the number, wire type, and the start and end of the value, of every field in a message."""
    position = start
    while position < end:
        tag, position = _varint(content, position, end, _MAX_TAG)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            first = position
            _, position = _varint(content, position, end, _MAX_VALUE)
        elif wire_type in (_FIXED64, _FIXED32):
            first, position = position, position + (8 if wire_type == _FIXED64 else 4)
        elif wire_type == _LENGTH:
            length, first = _varint(content, position, end, _MAX_LENGTH)
            position = first + length
        else:
            raise NotOnnx(f"it has a field of the unknown wire type {wire_type}")
        if number == 0 or position > end:
            raise NotOnnx("a field is longer than the message that it is in")
        yield number, wire_type, first, position


def _varint(content: _Buffer, position: int, end: int, most: int) -> tuple[int, int]:
    """A number, at most `most`, and the position after it.

    Implementations differ in how they treat excess bits: ONNX Runtime reads `EA 80 80 80 10` as field 13. So tags and lengths,
    which determine how the rest is read, must be in their shortest form, as all writers write them.
    """
    value = shift = 0
    while position < end and shift < 70:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if most < _MAX_VALUE and (value > most or (byte == 0 and shift > 0)):
                raise NotOnnx("a field's number or length is not written as protobuf writes it")
            return value & _MAX_VALUE, position
        shift += 7
    raise NotOnnx("it ends in the middle of a number")
