"""Shared by all commands: settings from flags and environment, the console, exits with an error message."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional

import typer
from bioengine_contract.errors import BioEngineError
from pydantic import ValidationError
from rich.console import Console, ConsoleDimensions
from rich.markup import escape

from bioengine_server.log_format import formatter
from bioengine_server.output_file import output_file
from bioengine_server.settings import Settings
from bioengine_server.settings_files import FileSettings, read_settings_files
from bioengine_server.settings_names import PREFIX, TOKEN, remarks
from bioengine_server.untrusted import shown
from bioengine_server.vanished import VanishedClients

_WHOLE_LINES = 10_000  # columns


class _Console(Console):
    """Breaks no line of what goes to a file or to another program, unless the user sets COLUMNS."""

    @property  # type: ignore[misc]  # it can be set as well, which nobody does here
    def size(self) -> ConsoleDimensions:
        usual = super().size
        has_width = self.is_terminal or "COLUMNS" in os.environ
        return usual if has_width else ConsoleDimensions(_WHOLE_LINES, usual.height)


console = _Console(highlight=False)

HomeOption = Annotated[Optional[Path], typer.Option(envvar="BIOENGINE_HOME", help="Folder of models and secrets. [~/.bioengine]")]
OfflineOption = Annotated[Optional[bool], typer.Option("--offline", envvar="BIOENGINE_OFFLINE", help="Never use the internet.")]


def safe(text: object, limit: int = 200) -> str:
    """Text from packages and collections, made safe for the console: without terminal escapes and rich's markup."""
    return escape(shown(text, limit))


def load_settings(**flags: Any) -> Settings:
    """The settings from the given flags, the environment and the settings files, in this order of priority."""
    given = {name: value for name, value in flags.items() if value is not None}
    with told():
        files = read_settings_files(given.get("home"))
    for remark in remarks(files):
        note(remark)
    if (token := files.get(TOKEN)) is not None:
        os.environ.setdefault(TOKEN, token)
    of_files = {name: value for name in Settings.model_fields if (value := _of_files(name, files)) is not None}
    try:
        return Settings(**{**of_files, **given})
    except ValidationError as error:
        problems = []
        for item in error.errors():
            name = ".".join(map(str, item["loc"]))
            place = f", in {files.source(PREFIX + name.upper())}" if name in of_files and name not in given else ""
            problems.append(f"{name}: {item['msg']} (it is {item['input']!r}{place})")
        fail("Some settings are not valid:\n  " + "\n  ".join(problems))


def load_home_settings(**flags: Any) -> Settings:
    """The settings for a command that works on the home; prints a note if the running server has another home."""
    settings = load_settings(**flags)
    from bioengine_server.home_in_use import server_with_another_home

    if url := server_with_another_home(settings):
        note(
            f"The server at {url} has another home: no server uses {settings.home}, which this command works on. Give the home "
            "that `up` printed first, with --home or BIOENGINE_HOME; for containers: docker compose exec server bioengine ..."
        )
    return settings


def _of_files(name: str, files: FileSettings) -> str | None:
    """A setting in the files that no environment variable overrides."""
    variable = PREFIX + name.upper()
    return None if any(each.upper() == variable for each in os.environ) else files.get(variable)


@functools.cache
def note(text: str) -> None:
    """Print a note on stderr, only once."""
    print(f"note: {shown(text, 500)}", file=sys.stderr)


def keep_files_private() -> None:
    """Make files of this process and its children, such as images, logs and models, unreadable for other users."""
    os.umask(0o077)


def configure_logging(settings: Settings) -> None:
    level = logging.DEBUG if settings.debug else logging.INFO
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(settings))
    if not settings.debug:
        handler.addFilter(VanishedClients())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("bioengine_server").setLevel(level)
    # Hypha's modules set their loggers' levels from here when they are imported.
    os.environ.setdefault("HYPHA_LOGLEVEL", "DEBUG" if settings.debug else "ERROR")


@contextmanager
def told() -> Iterator[None]:
    """End the command with the message of a BioEngineError."""
    try:
        yield
    except BioEngineError as error:
        fail(str(error))


def fail(text: str) -> NoReturn:
    lines = [shown(line, 2000) for line in text.split("\n")]  # it may contain text from a package
    print("bioengine: " + "\n".join(lines), file=sys.stderr)
    raise SystemExit(1)


def write_figures(file: Path, text: str, overwrite: bool) -> None:
    """Write what was measured to a file that the user named. If that fails, the console still has the figures."""
    try:
        with told(), output_file(file, overwrite) as opened:
            opened.write(text.encode())
    except OSError as error:
        fail(f"{file} could not be written: {error.strerror or error}. The figures are above.")
