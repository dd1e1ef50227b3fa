"""What ids and names look like: of models, packages, versions and Triton models. Nothing else decides it.

    what a client sends   model id      "affable-shark", "affable-shark/1.1", "10.5281/zenodo.5869899"
    a stored package      package key   "affable-shark/1": its id and its version, two names of folders
    in Triton             Triton model  "affable-shark", "affable-shark--v2", "affable-shark--onnx"

A model id is looked up; it never becomes a path, a URL, or an argument of bioimageio's own loading, which would open both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bioengine_contract.errors import BadRequest, shorten

RUNNER = "bioengine-model-runner"
"""The Triton model that clients name."""

RUNNER_VERSION = "1"
"""Its one version."""

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
"""A package's id, a version as a folder, a file's own name: one part of a path."""

TRITON_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}"
"""A model of Triton: one part of its URLs."""

TRITON_VERSION = r"[0-9]{1,18}"

_VERSION = r"v?[0-9][A-Za-z0-9._+-]{0,63}"
_DOI_PREFIX = r"10\.[0-9]{4,9}"
_DOI = rf"{_DOI_PREFIX}/{NAME}"
_RECORD = r"/[0-9]{1,20}"

_MODEL_IDS = (
    re.compile(rf"(?P<id>{NAME}(?:/{_VERSION})?)"),
    re.compile(rf"(?P<id>{_DOI}(?:{_RECORD})?)"),
    re.compile(rf"/models/(?P<id>{NAME})/rdf\.yaml"),  # an old local set-up's spelling; only its nickname is used
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
            "Paths, URLs and drafts are not taken: ask for a stored model by its id."
        )


@dataclass(frozen=True)
class PackageKey:
    """Names a stored package: the two folders that it lies in, in the model store."""

    id: str
    version: str

    def __str__(self) -> str:
        return f"{self.id}/{self.version}"

    @classmethod
    def parse(cls, text: str) -> PackageKey | None:
        """The key in a text; None where it is none."""
        found = _KEY.fullmatch(text)
        return cls(found[1], found[2]) if found else None


def parse_model_id(model_id: object) -> str:
    """The model id in what a client sent, in its plain spelling. Raises BadModelId."""
    if isinstance(model_id, str):
        for pattern in _MODEL_IDS:
            if found := pattern.fullmatch(model_id):
                return found["id"]
    raise BadModelId(model_id)


def is_name(text: str) -> bool:
    """Whether a text can be a package's id, or one part of a path."""
    return _FOLDER_NAME.fullmatch(text) is not None


def is_storable_id(id: str) -> bool:
    """Whether it can be the id of a stored package: the name of a folder, and of a Triton model of its own.

    `--` sets a version or weights apart in the name of a Triton model. The first half of a DOI, with a version behind it, would
    be the whole DOI of another model.
    """
    return is_name(id) and "--" not in id and id.casefold() != RUNNER and re.fullmatch(_DOI_PREFIX, id) is None


def split_doi(name: str) -> tuple[str, str] | None:
    """A DOI without the number of its record, and that with its slash (empty where it has none); None for what is no DOI."""
    found = _DOI_WITH_RECORD.fullmatch(name)
    return (found[1], found[2] or "") if found else None


def version_folder(version: object) -> str:
    """A package's version as a folder name; packages without one are `0`."""
    name = "" if version is None else _OTHERS.sub("_", str(version))
    return name if is_name(name) else "0"


def is_triton_name(text: object) -> bool:
    """Whether a model of Triton may have this name."""
    return isinstance(text, str) and _TRITON_NAME.fullmatch(text) is not None


def triton_name(key: PackageKey, is_default: bool, only: str = "") -> str:
    """The name of a package's Triton model, a pure function of what is in it.

    Args:
        key: of the package.
        is_default: whether the plain id names this version.
        only: the format of its weights, where a client has asked for one that is not the first choice.
    """
    name = _OTHERS.sub("_", key.id)
    if not is_default:
        name += f"--v{_OTHERS.sub('_', key.version)}"
    return f"{name}--{only}" if only else name
