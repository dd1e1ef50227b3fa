"""Install and remove apps: each is a folder among the admin's own Triton models.

<home>/triton-models/<name of the Triton model>/
  config.pbtxt, 1/model.py      copies from `bioengine_runner.app_models`
  1/weights/                    copies of the admin's files
  environment                   a link to the environment in which it runs
  app.json                      what it was made of; what lacks this file is never removed
"""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bioengine_contract.removal import remove
from bioengine_contract.version import VERSION

from bioengine_server.apps.catalogue import APP_MODELS, APPS, App
from bioengine_server.apps.errors import (
    AppExists,
    AppNameTaken,
    AppNotInstalled,
    AppNotWritten,
    NoEnvironment,
    NotAnApp,
    WeightsNotUsable,
)
from bioengine_server.apps.weights import AppWeights
from bioengine_server.environments import build_environments, can_build, environment, is_there
from bioengine_server.settings import Settings
from bioengine_server.store.external_data import is_alone
from bioengine_server.store.hostile_process import TookTooLong, run_hostile
from bioengine_server.untrusted import shown

RECORD = "app.json"
_MADE = ".bioengine-app-"  # folders that are being made have such names, and no folder of the admin's has
LINK = "environment"
_WEIGHTS = Path("1") / "weights"

# Triton 2.51 starts a model's environment by a shell's command line without quotes.
_PLAIN = re.compile(r"[A-Za-z0-9/._+@-]+")
_PATIENCE = 300  # seconds for opening weights


@dataclass(frozen=True)
class Installed:
    """An app that is installed. `works`: whether its environment is there."""

    app: App
    weights: tuple[str, ...]
    origin: str
    works: bool


def check_installable(app: App, settings: Settings) -> Path:
    """The folder that an app will have. Raises AppExists, AppNameTaken, NoEnvironment."""
    folder = settings.triton_models / app.triton_model
    if os.path.lexists(folder):
        raise AppExists(app.name, folder)
    if (settings.store / app.triton_model).exists():
        raise AppNameTaken(app.triton_model)
    if not APP_MODELS.is_dir() or (app.environment and not can_build()):
        raise NoEnvironment(app.name, app.environment or "runner", "which cannot be built in a container.")
    if app.environment and not _PLAIN.fullmatch(str(settings.environments.resolve())):
        raise NoEnvironment(
            app.name,
            app.environment,
            f"but Triton does not take the name of the folder {settings.environments} for it. Set BIOENGINE_ENVIRONMENTS to a "
            "folder without spaces, quotes and umlauts.",
        )
    return folder


def install(app: App, weights: AppWeights, settings: Settings) -> Path:
    """Install an app, completely or not at all; it runs from the server's next start on. Returns its folder.

    Raises AppExists, AppNameTaken, NoEnvironment, WeightsNotUsable, AppNotWritten.
    """
    folder = check_installable(app, settings)
    if app.environment and not build_environments(app.environment):
        raise NoEnvironment(app.name, app.environment, "which could not be built: the reason is above.")
    with _made_beside(folder, app) as new:
        shutil.copytree(APP_MODELS / app.triton_model, new, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        (new / _WEIGHTS).mkdir()
        for name, file in weights.files.items():
            shutil.copyfile(file, new / _WEIGHTS / name)
        if app.name == "stardist":
            (new / _WEIGHTS / "stardist.json").write_text(json.dumps(weights.options) + "\n")
        if app.environment:
            (new / LINK).symlink_to(settings.environments.resolve() / app.environment)
        _check(app, weights, new / _WEIGHTS, settings)
        for name, file in weights.files.items():
            if name.endswith(".onnx") and not is_alone(new / _WEIGHTS / name):
                raise WeightsNotUsable(f"{shown(file, 300)} keeps tensors in other files. Export the network in one file.")
        (new / RECORD).write_text(json.dumps(_record(app, weights, new / _WEIGHTS), indent=2) + "\n")
    return folder


def uninstall(app: App, settings: Settings) -> Path:
    """Remove an app with its weights. Returns the folder. Raises AppNotInstalled, NotAnApp, AppNotWritten."""
    folder = settings.triton_models / app.triton_model
    if not os.path.lexists(folder):
        raise AppNotInstalled(app.name, folder)
    if folder.is_symlink() or not (folder / RECORD).is_file():
        raise NotAnApp(folder)
    if not remove(folder):
        raise AppNotWritten(folder, "not all of it could be removed")
    return folder


def installed(settings: Settings) -> Iterator[Installed]:
    """The apps that are installed."""
    for app in APPS.values():
        folder = settings.triton_models / app.triton_model
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            weights, origin = tuple(record["weights"]), str(record["origin"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        yield Installed(app, weights, origin, app.environment is None or is_there(folder, LINK))


@contextmanager
def _made_beside(folder: Path, app: App) -> Iterator[Path]:
    """A new folder, which becomes `folder` if all goes well, and is removed otherwise. Raises AppExists, AppNotWritten."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        new = Path(tempfile.mkdtemp(prefix=f"{_MADE}{folder.name}-", dir=folder.parent))  # Triton does not look at hidden folders
    except OSError as error:
        raise AppNotWritten(folder.parent, error.strerror or str(error)) from error
    try:
        with _held(new):
            yield new
            if os.path.lexists(folder):
                raise AppExists(app.name, folder)
            new.rename(folder)
    except OSError as error:
        raise AppNotWritten(folder, error.strerror or str(error)) from error
    finally:
        if new.exists():
            remove(new)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, while there is this process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Remove what installations of this app have left that were killed."""
    for left in folder.parent.glob(f"{_MADE}{folder.name}-*"):
        with suppress(OSError):
            descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where another one is at work
                remove(left)
            finally:
                os.close(descriptor)


def _check(app: App, weights: AppWeights, folder: Path, settings: Settings) -> None:
    """Have the copies in `folder` opened as the app will do it, in its environment, confined. Raises WeightsNotUsable."""
    python = environment(settings.environments, app.environment or "runner") / "bin" / "python"
    with tempfile.TemporaryDirectory() as working:
        command = [str(python), "-P", "-m", "bioengine_runner.apps.check", app.name, str(folder), working]
        variables = {**os.environ, "BIOENGINE_CONFINE": settings.confine}
        try:
            status, said = run_hostile(command, variables, _PATIENCE)
        except TookTooLong:
            raise WeightsNotUsable(f"The weights could not be opened within {_PATIENCE} s.") from None
    if status != 0:
        lines = said.strip().splitlines() or ["Opening the weights ended without a word."]
        raise WeightsNotUsable(_of_the_user(lines[-1], weights))


def _of_the_user(said: str, weights: AppWeights) -> str:
    """What was said of a copy, with the name of the file that the user gave."""
    for name, file in weights.files.items():
        if said.startswith(f"{name} "):
            return f"{shown(file, 500)}{said.removeprefix(name)}"
    return said


def _record(app: App, weights: AppWeights, folder: Path) -> dict[str, object]:
    return {
        "app": app.name,
        "bioengine": VERSION,
        "installed": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "licence_accepted": True,
        "origin": weights.origin,
        "weights": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in weights.files},
    }
