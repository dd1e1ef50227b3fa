"""What commands print, where nobody looks at it in a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from bioengine_server.cli import app
from rich.text import Text
from typer.main import get_command

WORDS = "word " * 60


def printed(**environment: str) -> list[str]:
    program = f"from bioengine_server.commands.shared import console; console.print({WORDS!r})"
    variables = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=variables | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_a_file_or_a_program_gets_whole_lines() -> None:
    """They were broken at 80 columns, in the middle of paths and error sentences."""
    assert [line.strip() for line in printed()] == [WORDS.strip()]
    assert max(map(len, printed(COLUMNS="50"))) == 50, "unless a width is asked for"


def helps(command: Any) -> Iterator[str]:
    """The help of a command, of its flags and arguments, and of its subcommands."""
    yield command.help or ""
    yield from (getattr(parameter, "help", None) or "" for parameter in command.params)
    for each in getattr(command, "commands", {}).values():
        yield from helps(each)


def test_a_default_in_brackets_is_shown_by_help() -> None:
    """rich takes `[auto]` for markup and leaves it out, unless there is a backslash before it."""
    found = [*helps(get_command(app))]
    assert len(found) > 100
    for text in found:
        assert Text.from_markup(text).plain == text.replace("\\[", "["), text
