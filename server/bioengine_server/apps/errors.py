"""Errors of installing and removing apps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bioengine_contract.errors import BioEngineError
from bioengine_contract.nearest import did_you_mean

from bioengine_server.untrusted import shown


class AppError(BioEngineError):
    """An app could not be installed or removed."""

    code = "app_failed"


class NoSuchApp(AppError):
    code = "no_such_app"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"There is no app '{shown(name)}'.{did_you_mean(name, known)} The apps are {', '.join(known)}.")


class AppExists(AppError):
    code = "app_exists"

    def __init__(self, app: str, folder: Path) -> None:
        super().__init__(
            f"{folder} already exists, and nothing there is overwritten. Remove it first: ./bioengine apps remove {app}"
        )


class AppNameTaken(AppError):
    code = "app_name_taken"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The model store has a model '{name}', and Triton would load neither of the two. Remove it (./bioengine models "
            f"remove {name}), and import it with another id (./bioengine models import PACKAGE --id ID)."
        )


class AppNotInstalled(AppError):
    code = "app_not_installed"

    def __init__(self, app: str, folder: Path) -> None:
        super().__init__(f"The app {app} is not installed: there is no {folder}. `./bioengine apps list` shows those that are.")


class NotAnApp(AppError):
    code = "not_an_app"

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} was not made by `./bioengine apps install`, so it is not removed. Remove it yourself.")


class WeightsMissing(AppError):
    code = "app_weights_missing"

    def __init__(self, app: str, takes: str, several: bool) -> None:
        how = "--weights TYPE=FILE, once for each model type" if several else "--weights FILE or --model ID"
        super().__init__(f"The app {app} needs weights, which are not downloaded: {how}. Give {takes}.")


class WeightsNotUsable(AppError):
    code = "app_weights_not_usable"

    def __init__(self, reason: str) -> None:
        super().__init__(f"Nothing was installed. {reason}")


class NotAgreed(AppError):
    code = "licence_not_accepted"

    def __init__(self, app: str) -> None:
        super().__init__(f"Nothing was installed. If you agree, add --accept-licence: ./bioengine apps install {app} ...")


class NoEnvironment(AppError):
    code = "no_environment"

    def __init__(self, app: str, environment: str, reason: str) -> None:
        super().__init__(f"The app {app} cannot be installed: it needs the environment {environment}, {reason}")


class AppNotWritten(AppError):
    code = "app_not_written"

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"{folder} could not be changed: {reason}. Free space there, or give yourself access to it.")
