"""Whose Python code runs here: that of the packages that the admin names by id and content.

An entry of BIOENGINE_TRUSTED_MODELS is `id@hash`. The hash is of every file of the package as it was at import, so whatever
else is imported under this id later is not trusted. `bioengine_server.store.trust` prints the same entries.
"""

from __future__ import annotations

import hashlib
import json
import re

from bioengine_runner.errors import PackageRunsCode
from bioengine_runner.store.manifest import Manifest

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


def trust_entry(package: Manifest) -> str:
    """What BIOENGINE_TRUSTED_MODELS has to hold for this package, with the content that it has now, to run its code."""
    content = json.dumps(package.files, sort_keys=True)
    return f"{package.id}@{hashlib.sha256(content.encode()).hexdigest()}"


def code_of(package: Manifest, weight_format: str) -> tuple[str, ...]:
    """The package's own Python code that its weights of this format would have run; empty for most."""
    return (*package.code, *([f"the architecture of its {weight_format} weights"] if weight_format in CODE_WEIGHTS else []))


def may_run(package: Manifest, weight_format: str, trusted: frozenset[str]) -> bool:
    return not code_of(package, weight_format) or trust_entry(package) in trusted


def check_trust(package: Manifest, weight_format: str, trusted: frozenset[str]) -> None:
    """Raises PackageRunsCode for what the admin has not trusted."""
    if not may_run(package, weight_format, trusted):
        other_content = any(entry.startswith(f"{package.id}@") for entry in trusted)
        raise PackageRunsCode(package.id, code_of(package, weight_format), other_content)
