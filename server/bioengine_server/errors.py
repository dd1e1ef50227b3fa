"""Errors that prevent the stack from starting.

The other errors are in the `errors.py` of their rooms. All are subclasses of `BioEngineError` (`bioengine_contract.errors`): a
message that says what was wrong, what was expected and what to do, a code, and an HTTP status.
"""

from __future__ import annotations

from pathlib import Path

from bioengine_contract.errors import BioEngineError


class StackError(BioEngineError):
    """The stack cannot start."""

    code = "stack_failed"


class UnsafeFolder(StackError):
    code = "unsafe_folder"

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(
            f"{folder} {reason}. It must be a folder that only you can enter, because the running stack shares files in it. "
            "Remove it; if it is the run dir, you can choose another with BIOENGINE_RUN_DIR."
        )


class HomeInUse(StackError):
    code = "home_in_use"

    def __init__(self, home: Path, owner: str) -> None:
        super().__init__(
            f"A BioEngine is already running with the home {home} ({owner}). "
            "Use that one, stop it first (Ctrl-C in its terminal), or start another with --home FOLDER and --port NUMBER."
        )
