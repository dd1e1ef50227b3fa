"""What all commands share: settings from flags and environment, the console, ends with a message."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from bioengine_server.errors import BioEngineError
from bioengine_server.settings import Settings
from bioengine_server.untrusted import LogFormatter, shown

console = Console(highlight=False)

HomeOption = Annotated[Optional[Path], typer.Option(envvar="BIOENGINE_HOME", help="Folder of models and secrets. [~/.bioengine]")]
OfflineOption = Annotated[Optional[bool], typer.Option("--offline", envvar="BIOENGINE_OFFLINE", help="Never go to the internet.")]


def safe(text: object, limit: int = 200) -> str:
    """What packages and collections say of themselves, for the console: no terminal escapes, and no markup of rich's."""
    return escape(shown(text, limit))


def load_settings(**flags: Any) -> Settings:
    """The settings from the environment, with the flags that were given on top."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']} (it is {item['input']!r})" for item in error.errors()]
        fail("A setting cannot be used:\n  " + "\n  ".join(problems))


def keep_files_private() -> None:
    """Have nobody else read what this process and those that it starts make: images under way, logs, databases, models."""
    os.umask(0o077)


def configure_logging(settings: Settings) -> None:
    level = logging.DEBUG if settings.debug else logging.INFO
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("bioengine_server").setLevel(level)
    # Hypha's modules set their loggers' levels from here when they are imported.
    os.environ.setdefault("HYPHA_LOGLEVEL", "DEBUG" if settings.debug else "ERROR")


@contextmanager
def told() -> Iterator[None]:
    """End the command with the message of an error of ours."""
    try:
        yield
    except BioEngineError as error:
        fail(str(error))


def fail(text: str) -> NoReturn:
    lines = [shown(line, 2000) for line in text.split("\n")]  # what is in it may be a package's own words
    print("bioengine: " + "\n".join(lines), file=sys.stderr)
    raise SystemExit(1)
