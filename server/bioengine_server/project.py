"""Where the project's other parts are: the one thing in which a checkout and an installed package differ.

In a checkout, `contract/`, `deploy/` and `model_runner/` stand beside `server/`. An installed package has copies of what it needs
of them in its folder `checkout`, laid out the same (`deploy/distribution.py`). An image has neither `deploy/` nor that folder:
its environments are built. The standard library only: the launcher (`deploy/environments.py`) imports this before anything is
installed.
"""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_COPIES = _PACKAGE / "checkout"

IS_INSTALLED = _COPIES.is_dir()

PROJECT = _COPIES if IS_INSTALLED else _PACKAGE.parents[1]
"""The folder that contains `deploy/` and the other parts."""

MODEL_REPOSITORY = PROJECT / "model_runner" / "bioengine_runner" / "model_repository"
"""The folder of the Triton model `bioengine-model-runner`."""


def usual_environments() -> Path:
    """Where the environments are unless BIOENGINE_ENVIRONMENTS says otherwise."""
    if not IS_INSTALLED:
        return PROJECT / ".environments"
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "bioengine" / "environments"
