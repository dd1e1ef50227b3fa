"""The files that a description names, and where it names them, so that they can be downloaded, found or renamed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

_CONTENT = "/content"
_PROCESSING = {"inputs": "preprocessing", "outputs": "postprocessing"}


class Role(Enum):
    """What a file is for; the value is used in messages."""

    WEIGHTS = "weights"
    EXTERNAL_DATA = "external data of weights"
    CODE = "code of weights"
    DEPENDENCIES = "dependencies of weights"
    PROCESSING = "code of its own processing"
    TEST = "test tensor"
    SAMPLE = "sample"
    COVER = "cover"
    ICON = "icon"
    DOCUMENTATION = "documentation"
    ATTACHMENT = "attachment"


COMPUTE = (Role.WEIGHTS, Role.EXTERNAL_DATA, Role.CODE, Role.PROCESSING)
"""The roles of files that affect what the model computes."""


@dataclass
class NamedFile:
    """A file that a description names, in `holder[key]`, where `suffix` may follow its name.

    `weights`: the format of the weights that it belongs to.
    """

    holder: Any
    key: Any
    role: Role
    sha256: str | None = None
    weights: str | None = None
    suffix: str = ""

    @property
    def source(self) -> str:
        return str(self.holder[self.key]).removesuffix(self.suffix)

    def rename(self, source: str) -> None:
        """Change the description so that it names the file `source`."""
        self.holder[self.key] = source + self.suffix

    @property
    def computes(self) -> bool:
        return self.role in COMPUTE


def named_files(raw: dict[str, Any]) -> Iterator[NamedFile]:
    """All files that a description names as parts of the package, by path or by URL, weights first.

    Args:
        raw: the description as plain data, in format 0.4 or 0.5; entries that do not have the form of these formats are ignored.
    """
    weights = raw.get("weights")
    for name, entry in weights.items() if isinstance(weights, dict) else ():
        if isinstance(entry, dict):
            yield from weights_files(name, entry)
    for kind, steps in _PROCESSING.items():
        for tensor in _list(raw.get(kind)):
            if isinstance(tensor, dict):
                yield from _held(tensor, "test_tensor", Role.TEST)
                yield from _held(tensor, "sample_tensor", Role.SAMPLE)
                for step in _list(tensor.get(steps)):
                    if isinstance(step, dict) and step.get("id", step.get("name")) == "custom":
                        yield from _sourced(step, Role.PROCESSING)
        yield from _entries(raw.get(f"test_{kind}"), Role.TEST)
        yield from _entries(raw.get(f"sample_{kind}"), Role.SAMPLE)
    yield from _entries(raw.get("covers"), Role.COVER)
    for key, role in (("documentation", Role.DOCUMENTATION), ("icon", Role.ICON)):
        if isinstance(raw.get(key), dict):
            yield from _held(raw, key, role)
        elif isinstance(raw.get(key), str) and (role is not Role.ICON or "." in raw[key]):  # an icon may be an emoji
            yield NamedFile(raw, key, role)
    attachments = raw.get("attachments")
    yield from _entries(attachments.get("files") if isinstance(attachments, dict) else attachments, Role.ATTACHMENT)


def weights_files(name: str, entry: dict[str, Any]) -> Iterator[NamedFile]:
    """The files of one weight format, the weights themselves first."""
    yield from _sourced(entry, Role.WEIGHTS, name)
    yield from _held(entry, "external_data", Role.EXTERNAL_DATA, name)
    architecture = entry.get("architecture")
    yield from _held(entry, "architecture", Role.CODE, name)
    if isinstance(architecture, str) and ":" in architecture:  # format 0.4: `network.py:Network`
        suffix = f":{architecture.rpartition(':')[2]}"
        yield NamedFile(entry, "architecture", Role.CODE, _text(entry.get("architecture_sha256")), name, suffix)
    yield from _held(entry, "dependencies", Role.DEPENDENCIES, name)
    attachments = entry.get("attachments")  # format 0.4
    yield from _entries(attachments.get("files") if isinstance(attachments, dict) else None, Role.ATTACHMENT, name)


def is_url(source: str) -> bool:
    return "://" in source


def name_in(url: str) -> str:
    """The name of the file that a URL refers to: the last part of its path; on Zenodo, the part before `/content`.

    Empty if there is none.
    """
    try:
        path = PurePosixPath(urlsplit(url).path)
    except ValueError:  # not a valid URL
        return ""
    return path.parent.name if _is_content(path) else path.name


def beside(description_url: str, source: str) -> str:
    """The URL of a file beside a description, with the query of the description's URL, which may be its version."""
    url = urlsplit(description_url)
    end = _CONTENT if _is_content(PurePosixPath(url.path)) else ""
    base = url._replace(path=url.path.removesuffix(end), query="", fragment="").geturl()
    return urljoin(base, quote(source.replace("\\", "/"))) + end + (f"?{url.query}" if url.query else "")


def _is_content(path: PurePosixPath) -> bool:
    """Whether the path of a URL has Zenodo's form: `/api/records/1/files/weights.onnx/content`."""
    return f"/{path.name}" == _CONTENT and path.parent.suffix != ""


def _held(holder: dict[str, Any], key: str, role: Role, weights: str | None = None) -> Iterator[NamedFile]:
    if isinstance(holder.get(key), dict):
        yield from _sourced(holder[key], role, weights)


def _sourced(item: dict[str, Any], role: Role, weights: str | None = None) -> Iterator[NamedFile]:
    if isinstance(item.get("source"), str):
        yield NamedFile(item, "source", role, _text(item.get("sha256")), weights)


def _entries(items: Any, role: Role, weights: str | None = None) -> Iterator[NamedFile]:
    """The files in a list whose entries are names or `{"source": ..., "sha256": ...}`."""
    for index, item in enumerate(_list(items)):
        if isinstance(item, str):
            yield NamedFile(items, index, role, weights=weights)
        elif isinstance(item, dict):
            yield from _sourced(item, role, weights)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
