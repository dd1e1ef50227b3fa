"""What commands print, where nobody looks at it in a terminal."""

from __future__ import annotations

import os
import subprocess
import sys

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
