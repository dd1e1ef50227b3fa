"""Which packages may run Python code of their own: those that the admin names by id and content.

The runner decides (`bioengine_runner.store.trust`); here are the entries that it takes, for the admin.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bioengine_server.store.manifest import Manifest

# Weights that are opened by Python code: the model's architecture, from a file of the package or a library by name.
CODE_WEIGHTS = ("pytorch_state_dict",)

_ENTRY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}@[0-9a-f]{64}")


def parse_trusted(text: str) -> frozenset[str]:
    """The entries of BIOENGINE_TRUSTED_MODELS. Raises ValueError."""
    entries = frozenset(filter(None, (entry.strip() for entry in text.split(","))))
    for entry in entries:
        if not _ENTRY.fullmatch(entry):
            raise ValueError(f"{entry!r} is not id@hash; `./bioengine models show ID` prints the entry of a model")
    return entries


def trust_entry(manifest: Manifest) -> str:
    """The entry for a package with the content that it has now: its id, and a hash of the hashes of all its files."""
    content = json.dumps(manifest.files, sort_keys=True)
    return f"{manifest.id}@{hashlib.sha256(content.encode()).hexdigest()}"


def code_of(manifest: Manifest) -> list[str]:
    """The package's own Python code, in words; empty for most."""
    return [*manifest.code, *(f"the architecture of its {name} weights" for name in CODE_WEIGHTS if name in manifest.weights)]


def usable_weights(manifest: Manifest, trusted: frozenset[str]) -> list[str]:
    """The formats of the package's weights that are run here."""
    if trust_entry(manifest) in trusted:
        return list(manifest.weights)
    return [] if manifest.code else [name for name in manifest.weights if name not in CODE_WEIGHTS]
