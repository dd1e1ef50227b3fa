"""Which packages may run their own Python code: those that the admin names by id and content.

An entry of BIOENGINE_TRUSTED_MODELS is `id@hash`. The hash covers every file that the package had at import, so a different
package that is imported under the same id later is not trusted.
"""

from __future__ import annotations

import hashlib
import json
import re

from bioengine_contract.ids import NAME
from bioengine_contract.manifest import Manifest
from bioengine_contract.package_errors import PackageRunsCode
from bioengine_contract.weights import RUN_CODE, RUNNABLE

_ENTRY = re.compile(rf"{NAME}@[0-9a-f]{{64}}")


def parse_trusted(text: str) -> frozenset[str]:
    """The entries of BIOENGINE_TRUSTED_MODELS. Raises ValueError."""
    entries = frozenset(filter(None, (entry.strip() for entry in text.split(","))))
    for entry in entries:
        if not _ENTRY.fullmatch(entry):
            raise ValueError(f"{entry!r} is not id@hash; `./bioengine models show ID` prints the entry of a model")
    return entries


def trust_entry(manifest: Manifest) -> str:
    """The entry for a package with its present content: its id, and a hash of the hashes of all its files."""
    content = json.dumps(manifest.files, sort_keys=True)
    return f"{manifest.id}@{hashlib.sha256(content.encode()).hexdigest()}"


def code_of(manifest: Manifest, weight_format: str | None = None) -> tuple[str, ...]:
    """The Python code that the package would run, described for people; empty for most packages.

    Args:
        manifest: the package's manifest.
        weight_format: the format of the weights that would be run; None: any format.
    """
    formats = [name for name in RUN_CODE if name in manifest.weights] if weight_format is None else [weight_format]
    return (*manifest.code, *(f"the architecture of its {name} weights" for name in formats if name in RUN_CODE))


def may_run(manifest: Manifest, weight_format: str, trusted: frozenset[str]) -> bool:
    return not code_of(manifest, weight_format) or trust_entry(manifest) in trusted


def check_trust(manifest: Manifest, weight_format: str, trusted: frozenset[str]) -> None:
    """Raises PackageRunsCode for a package with code that the admin has not trusted."""
    if not may_run(manifest, weight_format, trusted):
        other_content = any(entry.startswith(f"{manifest.id}@") for entry in trusted)
        raise PackageRunsCode(manifest.id, code_of(manifest, weight_format), other_content)


def usable_weights(manifest: Manifest, trusted: frozenset[str]) -> list[str]:
    """The formats of the package's weights that this server can run, in the order of preference."""
    return [name for name in RUNNABLE if name in manifest.weights and may_run(manifest, name, trusted)]


def unusable_weights(manifest: Manifest, trusted: frozenset[str]) -> dict[str, str]:
    """The other formats of the package's weights, and why each cannot be run."""
    reasons = {}
    for name in (*manifest.weights, *manifest.unsupported_weights):
        if name == manifest.convertible and name not in RUNNABLE and "onnx" not in manifest.weights:
            reasons[name] = f"has to be converted to onnx first (`./bioengine models convert {manifest.id}`)"
        elif name not in RUNNABLE:
            reasons[name] = "not supported by this server yet"
        elif name not in manifest.weights:
            reasons[name] = "not stored on this server; the admin has to import the whole package"
        elif not may_run(manifest, name, trusted):
            reasons[name] = f"runs code of the package; the admin has to trust it (`./bioengine models show {manifest.id}`)"
    return reasons
