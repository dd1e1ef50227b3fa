"""Check the parts that are needed to load further models. Loaded models work without them, so the probe does not detect it.

Old folders in the system's temporary folder may be removed, environments may be deleted, and disks get full.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bioengine_server.errors import StackError
from bioengine_server.project import MODEL_REPOSITORY
from bioengine_server.room import lack_of_room
from bioengine_server.settings import Settings
from bioengine_server.triton.plain_names import PlainNames

_MIN_RUN_DIR = 16 << 20  # bytes: the log, the records of processes, Hypha's database
_MIN_SHARED_MEMORY = 16 << 20  # bytes: Triton's own segment for a model's process, and small images
_SHARED_MEMORY = Path("/dev/shm")

# In the folder of a start of Triton (`bioengine_runner.rundir`).
_FOLDERS_OF_BOOT = ("models", "locks", "processes", "empty", "home", "tmp")
_FILES_OF_BOOT = ("runner/bioengine-model-runner/config.pbtxt",)
_ENVIRONMENTS = {
    "runner": ("bin/python", "pyvenv.cfg", "lib/python*/site-packages/bioimageio"),
    "triton": ("bin/tritonserver", "backends/python/triton_python_backend_stub"),
}


def what_is_missing(settings: Settings, names: PlainNames) -> str | None:
    """Why a running server cannot load further models, in one line; None if it can.

    Everybody may read the text, so it names folders only by their settings; `up` prints the values.
    """
    return next(_missing(settings, names), None)


def check_room(settings: Settings) -> None:
    """Raises StackError if a disk is too full to start."""
    for folder, name, lack in _without_room(settings):
        raise StackError(
            f"{folder} {lack}. It is {name}: free space there"
            + (", or choose another folder." if folder == settings.node_folder else ".")
        )


def _missing(settings: Settings, names: PlainNames) -> Iterator[str]:
    if not settings.store.is_dir():
        yield "the model store in the home (BIOENGINE_HOME) was removed; restore it, or restart the server with an empty one"
    if not settings.node_folder.is_dir():
        yield "the run dir (BIOENGINE_RUN_DIR) was removed; restart the server"
        return
    if settings.triton == "embedded":
        yield from _missing_of_triton(settings, names)
    for _, name, lack in _without_room(settings):
        yield f"{name} {lack}; free space there"


def _missing_of_triton(settings: Settings, names: PlainNames) -> Iterator[str]:
    boots = list(settings.node_folder.glob("boot-*"))
    for part in (*_FOLDERS_OF_BOOT, *_FILES_OF_BOOT):
        if not any((boot / part).is_file() if part in _FILES_OF_BOOT else (boot / part).is_dir() for boot in boots):
            yield f"the run dir (BIOENGINE_RUN_DIR) lacks {part}; restart the server"
    for name, parts in _ENVIRONMENTS.items():
        for part in parts:
            if not any((settings.environments / name).glob(part)):
                yield f"the environment '{name}' (BIOENGINE_ENVIRONMENTS) lacks {part}; stop the server, and run ./bioengine up"
    if not (MODEL_REPOSITORY / "bioengine-model-runner" / "config.pbtxt").exists():
        yield "model_repository is missing in the model runner's package; restart the server from a complete installation"
    if not names.are_whole():
        yield "the links in /tmp to the server's folders are broken; restart the server"


def _without_room(settings: Settings) -> Iterator[tuple[Path, str, str]]:
    """Yields folders that are too full: their paths, their names for messages, and what they lack."""
    folders = [(settings.node_folder, "the run dir (BIOENGINE_RUN_DIR)", _MIN_RUN_DIR)]
    if settings.triton == "embedded":
        folders.append((_SHARED_MEMORY, "the shared memory (/dev/shm)", _MIN_SHARED_MEMORY))
    for folder, name, least in folders:
        try:
            if lack := lack_of_room(_that_is_there(folder), least):
                yield folder, name, lack
        except OSError as error:
            yield folder, name, f"cannot be used ({error.strerror})"


def _that_is_there(folder: Path) -> Path:
    """The folder, or the existing folder in which it will be created."""
    return next(parent for parent in (folder, *folder.parents) if os.path.isdir(parent))
