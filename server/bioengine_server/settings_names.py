"""The names of all settings, and notes about variables that do nothing, such as misspelt names."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator

from bioengine_server.settings import Settings
from bioengine_server.settings_files import HOME_FILE, LOCATION, FileSettings

PREFIX = "BIOENGINE_"

OF_SERVER = frozenset(f"{PREFIX}{name.upper()}" for name in Settings.model_fields)

# The settings of `bioengine_runner.settings`, which is in another environment; a test keeps both consistent.
OF_TRITON_ONLY = frozenset(
    f"{PREFIX}{name}"
    for name in (
        "BACKENDS", "LABELS_ENVIRONMENT", "MODEL_REPOSITORY", "PLAIN_NAMES", "PYTHON_ENVIRONMENT", "RUNTIME", "SHM_PREFIX",
        "TRITONSERVER", "TRITON_HOST", "TRITON_HTTP_PORT", "TRITON_METRICS_PORT", "TRITON_MODELS", "TRITON_SOCKETS",
    )
)  # fmt: skip

# Of docker-compose.yml, as `.env.example` has them.
OF_COMPOSE_ONLY = frozenset(
    f"{PREFIX}{name}"
    for name in (
        "CA_FILE", "DRAIN", "GPUS", "HTTPS_HOST", "HTTPS_NAME", "HTTPS_PORT", "RUNTIME", "SERVER_MEMORY", "SHM_SIZE", "TAG",
        "TLS_CERTIFICATE", "TLS_KEY", "TRITON_MEMORY",
    )
)  # fmt: skip

PYTHON = "BIOENGINE_PYTHON"  # read by the executable `bioengine`, before Python can read any settings file
HOME = "BIOENGINE_HOME"
TOKEN = "BIOENGINE_TOKEN"  # of `run`

# Variables that the project's own processes pass to each other.
_INNER = frozenset({"BIOENGINE_BOOT_FOLDER", "BIOENGINE_DIE_WITH_PARENT"})

KNOWN = OF_SERVER | OF_TRITON_ONLY | OF_COMPOSE_ONLY | {PYTHON, TOKEN, LOCATION}


def remarks(files: FileSettings) -> Iterator[str]:
    """A line for each setting in the environment or a file that has no effect, and for each file that cannot be read."""
    for path in files.unreadable:
        yield f"The settings file {path} is not used, because you do not have permission to read it."
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in KNOWN | _INNER:
            yield f"There is no setting {name}, so it does nothing.{_meant(name)}"
    for file in files.files:
        for name in file.values:
            if name in (PYTHON, LOCATION):
                yield f"{name} does nothing in {file.path}: it has to be an environment variable."
            elif name == HOME and file.path == files.home / HOME_FILE:
                yield f"{HOME} does nothing in {file.path}, because that file is found by it. Set it in /etc/bioengine.env."
            elif name in (OF_COMPOSE_ONLY | OF_TRITON_ONLY) - OF_SERVER:
                yield f"{name} does nothing in {file.path}: it is a setting of the containers, whose file is .env."
            elif name not in KNOWN:
                yield f"There is no setting {name}, so it does nothing in {file.path}.{_meant(name)}"


def _meant(name: str) -> str:
    nearest = difflib.get_close_matches(name.upper(), sorted(KNOWN), n=1, cutoff=0.75)
    return f" Did you mean {nearest[0]}?" if nearest else " docs/settings.md lists all."
