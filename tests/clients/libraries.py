"""The Python client libraries, each in an environment of its own, and calls through them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tests.stack.harness import ROOT, python


class Server(Protocol):
    """What a client has to know of a stack."""

    @property
    def url(self) -> str: ...


CLIENTS = [
    ("client-imjoy-early", "imjoy", "async"),
    ("client-imjoy-early", "imjoy", "sync"),
    ("client-imjoy", "imjoy", "async"),
    ("client-imjoy", "imjoy", "sync"),
    ("client-hypha", "hypha", "async"),
    ("client-hypha", "hypha", "sync"),
]
"""Environment, library and mode."""


def call(
    library: str,
    mode: str,
    stack: Server,
    folder: Path,
    request: dict[str, Any],
    timeout: float = 120,
    environment: str = "",
) -> dict[str, Any]:
    """One call in the library's own environment, or the one that is named; its outputs are under `outputs`."""
    return calls(library, mode, stack, {folder: request}, timeout, environment)[folder]


def calls(
    library: str,
    mode: str,
    stack: Server,
    requests: Mapping[Path, dict[str, Any]],
    timeout: float = 120,
    environment: str = "",
) -> dict[Path, dict[str, Any]]:
    """Calls by one program, each by a connection of its own, and what each came to; by its folder."""
    for folder, request in requests.items():
        (folder / "request.json").write_text(json.dumps(request))
    script = ROOT / "tests" / "clients" / "call.py"
    program = [python(environment or f"client-{library}"), str(script), library, mode]
    subprocess.run([*program, stack.url, *map(str, requests)], check=True, timeout=timeout)
    return {folder: _report(folder) for folder in requests}


def _report(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "result.json").read_text())
    report["outputs"] = [np.load(output) for output in sorted(folder.glob("output_*.npy"))]
    return report
