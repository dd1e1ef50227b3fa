"""Packages as they are in the store: with manifests made by the store's code, as far as this environment has it."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import yaml
from bioengine_contract.package import Package
from bioimageio.spec import load_description

sys.path.append(str(Path(__file__).resolve().parents[3] / "server"))


def stored(folder: Path, id: str, **changes: Any) -> Package:
    """The package in a folder, with the hashes of its files now. `changes`: of its manifest."""
    from bioengine_server.store.manifest_builder import build_manifest

    files = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    description: Any = load_description(folder / "rdf.yaml", perform_io_checks=False)
    raw = yaml.safe_load((folder / "rdf.yaml").read_text(encoding="utf-8"))
    manifest = build_manifest(description, raw, id, "1.0.0", folder, files, "here")
    return Package(folder, manifest.model_copy(update=changes), "fingerprint", is_default=True)
