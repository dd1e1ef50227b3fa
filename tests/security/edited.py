"""Packages with a changed description, for tests of hostile descriptions."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml


def edited(package: Path, folder: Path, change: Callable[[dict[str, Any]], object], **files: bytes) -> Path:
    """A copy of a package with another description, and other files."""
    copy = Path(shutil.copytree(package, folder / f"copy-{len(list(folder.glob('copy-*')))}" / package.name))
    for name, content in files.items():
        (copy / name.replace("__", ".")).write_bytes(content)
    rdf = yaml.safe_load((copy / "rdf.yaml").read_text())
    change(rdf)
    (copy / "rdf.yaml").write_text(yaml.safe_dump(rdf, sort_keys=False))
    return copy
