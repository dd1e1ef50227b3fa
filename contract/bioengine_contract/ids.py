"""What the ids and names of models, packages, versions and Triton models look like. It is defined only here.

    what a client sends   model id      "affable-shark", "affable-shark/1.1", "10.5281/zenodo.5869899"
    a stored package      package key   "affable-shark/1": its id and its version, each the name of a folder
    in Triton             Triton model  "affable-shark", "affable-shark--v2", "affable-shark--onnx"

A model id is only looked up. It is never used as a path or URL, and never passed to bioimageio's own loading functions, which
would open both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bioengine_contract.errors import BadRequest, shorten

RUNNER = "bioengine-model-runner"
"""The Triton model that clients call."""

RUNNER_VERSION = "1"
"""Its one version."""

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
"""A name that can be one part of a path: a package's id, a version's folder, a file name."""

TRITON_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}"
"""The name of a Triton model, which is one part of Triton's URLs."""

TRITON_VERSION = r"[0-9]{1,18}"

WORKER_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}"
"""The name of a worker, which is one part of the server's URLs."""

_VERSION = r"v?[0-9][A-Za-z0-9._+-]{0,63}"
_DOI_PREFIX = r"10\.[0-9]{4,9}"
_DOI = rf"{_DOI_PREFIX}/{NAME}"
_RECORD = r"/[0-9]{1,20}"

_MODEL_IDS = (
    re.compile(rf"(?P<id>{NAME}(?:/{_VERSION})?)"),
    re.compile(rf"(?P<id>{_DOI}(?:{_RECORD})?)"),
    re.compile(rf"/models/(?P<id>{NAME})/rdf\.yaml"),  # how an old local set-up spelled it; only the nickname is used
)
_FOLDER_NAME = re.compile(NAME)
_TRITON_NAME = re.compile(TRITON_NAME)
_DOI_WITH_RECORD = re.compile(rf"({_DOI})({_RECORD})?")
_KEY = re.compile(rf"({NAME})/({NAME})")
_OTHERS = re.compile(r"[^A-Za-z0-9._-]")


class BadModelId(BadRequest):
    code = "bad_model_id"

    def __init__(self, model_id: object) -> None:
        super().__init__(
            f"model_id {shorten(model_id)} is not a model id. Expected a nickname like 'affable-shark', a nickname with a "
            "version like 'affable-shark/1.1', or a DOI like '10.5281/zenodo.5869899'. "
            "Paths, URLs and drafts are not accepted: use the id of a stored model."
        )


@dataclass(frozen=True)
class PackageKey:
    """Identifies a stored package by its id and version, which are also its two folders in the model store."""

    id: str
    version: str

    def __str__(self) -> str:
        return f"{self.id}/{self.version}"

    @classmethod
    def parse(cls, text: str) -> PackageKey | None:
        """The key that a text such as "affable-shark/1" stands for; None if the text is not a key."""
        found = _KEY.fullmatch(text)
        return cls(found[1], found[2]) if found else None


def parse_model_id(model_id: object) -> str:
    """The model id that a client sent, in its normal spelling. Raises BadModelId."""
    if isinstance(model_id, str):
        for pattern in _MODEL_IDS:
            if found := pattern.fullmatch(model_id):
                return found["id"]
    raise BadModelId(model_id)


def is_name(text: str) -> bool:
    """Whether a text can be a package's id, or one part of a path."""
    return _FOLDER_NAME.fullmatch(text) is not None


def is_storable_id(id: str) -> bool:
    """Whether a text can be the id of a stored package, and so the name of a folder and of a Triton model.

    `--` is not allowed, because it separates the version or the weight format in the name of a Triton model. The first half of a
    DOI is not allowed either: with a version after it, it would be the whole DOI of another model.
    """
    return is_name(id) and "--" not in id and id.casefold() != RUNNER and re.fullmatch(_DOI_PREFIX, id) is None


def split_doi(name: str) -> tuple[str, str] | None:
    """A DOI without its record number, and the record number with its slash (empty if there is none). None if it is not a DOI."""
    found = _DOI_WITH_RECORD.fullmatch(name)
    return (found[1], found[2] or "") if found else None


def version_folder(version: object) -> str:
    """A package's version as a folder name; `0` for packages without a version."""
    name = "" if version is None else _OTHERS.sub("_", str(version))
    return name if is_name(name) else "0"


def is_triton_name(text: object) -> bool:
    """Whether a Triton model may have this name."""
    return isinstance(text, str) and _TRITON_NAME.fullmatch(text) is not None


def triton_name(key: PackageKey, is_default: bool, only: str = "") -> str:
    """The name of a package's Triton model. It depends on nothing but the arguments.

    Args:
        key: the package.
        is_default: whether this version is the one that clients get by the id alone.
        only: the weight format, if a client has asked for one that is not the first choice; otherwise None.
    """
    name = _OTHERS.sub("_", key.id)
    if not is_default:
        name += f"--v{_OTHERS.sub('_', key.version)}"
    return f"{name}--{only}" if only else name
