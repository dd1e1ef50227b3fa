"""Read a model's description: `rdf.yaml` -> plain data -> validated -> the content of `model.json`.

A description may be malicious, so it is read in a process of its own (`bioengine_server.store.reader`), with limited memory and
time. This module limits the number of values: a few bytes of YAML that refer to themselves again and again can stand for
billions.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml
from bioengine_contract.ids import version_folder

from bioengine_server.store.errors import StoreError
from bioengine_server.store.yaml_text import Loader
from bioengine_server.untrusted import shown

MAX_SIZE = 1_000_000  # bytes; descriptions of the collection have at most some tens of kB
_MAX_VALUES = 20_000  # keys and values; those that an alias repeats are counted each time, and long texts count more
_MAX_DEPTH = 40


class Unreadable(Exception):
    """This is not a description of a model; the message says why, as the second half of a sentence."""


class Invalid(Exception):
    """The description violates the specification; the message has a line for each problem."""


class TooNew(Invalid):
    """The description is in a newer format than this server knows, and violates the one that it knows; the message says both."""


class PackageTooNew(StoreError):
    code = "package_too_new"

    def __init__(self, source: Path | str, reason: str) -> None:
        super().__init__(
            f"This server is older than the package {shown(source, 300)}, so nothing was imported: {reason}\n"
            "The package may be correct. Update this BioEngine, or save the package in a format that it can read."
        )


def parse(content: bytes) -> dict[str, Any]:
    """The plain data (as of JSON) of a description. Raises Unreadable."""
    if len(content) > MAX_SIZE:
        raise Unreadable(f"its description is larger than {MAX_SIZE / 1e6:g} MB")
    try:
        loader = Loader(content.decode("utf-8"))
        try:
            node = loader.get_single_node()
            _check_size(node)
            raw = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise Unreadable(f"rdf.yaml is not YAML ({shown(lines[0], 200)})") from error
    if not isinstance(raw, dict):
        raise Unreadable("rdf.yaml is not a description")
    if raw.get("type", "model") != "model":
        raise Unreadable(f"it describes a {shown(raw.get('type'))}, not a model")
    plain: dict[str, Any] = _jsonable(raw)
    return plain


def build(folder: Path, id: str, files: dict[str, str], origin: str) -> dict[str, Any]:
    """Validate the description in `folder`, and the ONNX file beside it; the content of `model.json`.

    The checks that would download files that the description links to are skipped.

    Args:
        folder: the package's folder.
        id: the id under which it is stored.
        files: SHA-256 of each file, by its path within the package.
        origin: where it came from.

    Raises Unreadable, Invalid, TooNew, BadWeights.
    """
    # Imported here, because reading alone does not need it.
    from bioimageio.spec import InvalidDescr, load_description
    from bioimageio.spec.model import v0_4, v0_5

    from bioengine_server.store.external_data import check_onnx
    from bioengine_server.store.manifest_builder import build_manifest

    with open(folder / "rdf.yaml", "rb") as file:
        raw = parse(file.read(MAX_SIZE + 1))
    newest: str = v0_5.ModelDescr.implemented_format_version
    try:
        description: Any = load_description(folder / "rdf.yaml", perform_io_checks=False)
    except MemoryError:
        raise
    except Exception as error:  # a malicious description may make the validation raise anything
        raise _invalid(raw, newest, f"  {type(error).__name__}: {shown(error, 500)}") from error
    if isinstance(description, InvalidDescr):
        details = [
            f"  {shown('.'.join(map(str, entry.loc)) or 'rdf.yaml', 200)}: {shown(entry.msg, 500)}"
            for detail in description.validation_summary.details
            for entry in detail.errors
        ]
        raise _invalid(raw, newest, "\n".join(details[:10]) or "  unknown format")
    if not isinstance(description, (v0_4.ModelDescr, v0_5.ModelDescr)):
        raise Unreadable(f"it describes a {type(description).__name__}, not a model")
    for spec in description.inputs:
        if getattr(spec, "output_of", None):
            raise Unreadable(f"its input '{shown(spec.id)}' is the output of another model, which is not supported")  # type: ignore[union-attr]
    version = version_folder(raw.get("version"))
    manifest = build_manifest(description, raw, id, version, folder, files, origin)
    if (weights := manifest.weights.get("onnx")) is not None:
        checked = {**manifest.weights, "onnx": check_onnx(folder, weights, files, raw)}
        manifest = manifest.model_copy(update={"weights": checked})
    return manifest.model_dump(mode="json")


def _invalid(raw: dict[str, Any], newest: str, details: str) -> Invalid:
    """The error for an invalid description, or for one whose format is newer than `newest`, the newest that this server knows."""
    version = str(raw.get("format_version"))
    if re.fullmatch(r"[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}", version) and _numbers(version) > _numbers(newest):
        return TooNew(f"it is in format {version}, but this server reads formats up to {newest}. Read as {newest}:\n{details}")
    return Invalid(details)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def _check_size(root: Any) -> None:
    """Raises ValueError for more values than any real description has. An alias counts as everything that it stands for."""
    sizes: dict[int, int] = {}

    def size(node: Any, depth: int) -> int:
        if depth > _MAX_DEPTH:
            raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")
        if id(node) in sizes:
            if sizes[id(node)] == 0:
                raise ValueError("a part of it contains itself")
            return sizes[id(node)]
        sizes[id(node)] = 0
        parts = getattr(node, "value", None)
        total = 1 + (len(parts) // 100 if isinstance(parts, str) else 0)
        for part in parts if isinstance(parts, list) else ():
            total += sum(size(each, depth + 1) for each in (part if isinstance(part, tuple) else (part,)))
            if total > _MAX_VALUES:
                raise ValueError(f"it contains more than {_MAX_VALUES:,} values, with those of its aliases")
        sizes[id(node)] = total
        return total

    size(root, 0)


def _jsonable(value: Any) -> Any:
    """Convert plain data of YAML to plain data of JSON: dates and numbers that are not finite become text."""
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)
