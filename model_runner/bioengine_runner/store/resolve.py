"""From the id that a client names to a package folder of the store.

Ids match a strict pattern and are looked up in `aliases.json`; they never become a path, a URL or an argument of
bioimageio's own loading, which would open both.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from bioengine_runner.errors import BadModelId, ModelNotFound, PackageUnreadable
from bioengine_runner.store import manifest

ALIASES_FILE = "aliases.json"

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_VERSION = r"v?[0-9][A-Za-z0-9._+-]{0,63}"
_PATTERNS = (
    re.compile(rf"(?P<id>{_NAME})"),
    re.compile(rf"(?P<id>{_NAME}/{_VERSION})"),
    re.compile(r"(?P<id>10\.[0-9]{4,9}/[A-Za-z0-9][A-Za-z0-9._-]{0,127}(/[0-9]{1,20})?)"),  # DOI, with its record
    re.compile(rf"/models/(?P<id>{_NAME})/rdf\.yaml"),  # an old local set-up's spelling; only its nickname is used
)
_FOLDER = re.compile(rf"{_NAME}/{_NAME}")


def parse(model_id: object) -> str:
    """The id within what a client sent. Raises BadModelId."""
    if isinstance(model_id, str):
        for pattern in _PATTERNS:
            if found := pattern.fullmatch(model_id):
                return found["id"]
    raise BadModelId(model_id)


def resolve(store: Path, model_id: object) -> manifest.Manifest:
    """The manifest of the package that `model_id` names. Raises BadModelId, ModelNotFound, PackageUnreadable."""
    wanted = parse(model_id)
    aliases = _aliases(store)
    folder = aliases.get(wanted)
    if folder is None:
        raise ModelNotFound(wanted, sorted({value.split("/")[0] for value in aliases.values()}))
    if not _FOLDER.fullmatch(folder):
        raise PackageUnreadable(wanted, f"{ALIASES_FILE} names the folder {folder!r}")
    name = folder.split("/")[0]
    return manifest.read(store / folder, is_default=aliases.get(name) == folder)


def _aliases(store: Path) -> dict[str, str]:
    try:
        document = json.loads((store / ALIASES_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return dict(document)
