"""Zip files of packages as other people's computers write them, made from the packages of `tests.packages.build`."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml


class _Named(zipfile.ZipInfo):
    """An entry whose name is these bytes, without a word about their encoding."""

    raw: bytes

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.raw, self.flag_bits


def foreign_zip(
    package: Path,
    target: Path,
    change: Callable[[dict[str, Any]], object] = lambda rdf: None,
    names: Callable[[str], str | bytes | None] = lambda name: name,
    more: Mapping[str, bytes] | None = None,
) -> Path:
    """The zip `target` of a package.

    Args:
        package: its folder.
        change: what else its description says.
        names: of an entry, from the file's; bytes are written as they are; None leaves it out.
        more: further entries.
    """
    rdf = yaml.safe_load((package / "rdf.yaml").read_text())
    change(rdf)
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(package.iterdir()):
            content = yaml.safe_dump(rdf, sort_keys=False).encode() if file.name == "rdf.yaml" else file.read_bytes()
            name = names(file.name)
            if isinstance(name, bytes):
                entry = _Named(file.name)
                entry.raw = name
                archive.writestr(entry, content)
            elif name is not None:
                archive.writestr(name, content)
        for name, content in (more or {}).items():
            archive.writestr(name, content)
    return target


def with_weights_named(source: str) -> Callable[[dict[str, Any]], None]:
    """A description that names its ONNX weights `source`, and has no others."""

    def change(rdf: dict[str, Any]) -> None:
        rdf["weights"] = {"onnx": {**rdf["weights"]["onnx"], "source": source}}

    return change


def onnx_outside(location: str) -> bytes:
    """As much of an ONNX file as an import looks at: a graph with one tensor, which lies in the file `location`."""

    def field(number: int, value: bytes) -> bytes:
        assert len(value) < 128, "its length takes one byte"
        return bytes([number << 3 | 2, len(value)]) + value

    entry = field(1, b"location") + field(2, location.encode())
    return field(7, field(5, field(13, entry) + b"\x70\x01"))


def with_long_names(rdf: dict[str, Any]) -> None:
    """A description of format 0.4 whose tensors have names of some hundred letters, which begin alike."""
    (input,), (output,) = rdf["inputs"], rdf["outputs"]
    input["name"], output["name"] = "t" * 100 + "_in", "t" * 100 + "_out"
    output["shape"] = {"reference_tensor": input["name"], "scale": [1, 1, 1, 1], "offset": [0, 0, 0, 0]}
