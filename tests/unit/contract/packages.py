"""Packages that exist in memory alone, for tests of what is made of their manifests."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from bioengine_contract.manifest import Manifest, Tensor
from bioengine_contract.package import Package


def manifest(*inputs: Tensor, **changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "id": "affable-shark", "version": "1.0", "name": "A shark", "imported": datetime.datetime(2026, 1, 1), "origin": "here",
        "size": 1, "inputs": inputs, "outputs": (), "weights": {}, "unsupported_weights": (), "code": (), "files": {},
        "triton_config": {}, "rdf": {},
    }  # fmt: skip
    return Manifest(**{**values, **changes})


def package(*inputs: Tensor, is_default: bool = True, folder: Path = Path("/store/affable-shark/1.0"), **changes: Any) -> Package:
    return Package(folder, manifest(*inputs, **changes), "fingerprint", is_default)
