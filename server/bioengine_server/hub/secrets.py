"""Secrets that are made once and kept in a file, readable by its owner only. None has a default value."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from bioengine_server.errors import StackError


def home_secret(home: Path, name: str) -> str:
    """The secret `name` of a home, in `<home>/secrets`; made when there is none yet. Raises StackError."""
    return kept_secret(home / "secrets" / name)


def kept_secret(file: Path) -> str:
    """The secret in `file`; made when there is none yet. Raises StackError."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not file.exists():
            _make(file)
        value = file.read_text().strip()
    except OSError as error:
        raise StackError(
            f"The secret {file} cannot be read or made: {error.strerror}. Give yourself access to {file.parent}, and room there."
        ) from error
    if file.stat().st_mode & 0o077:
        raise StackError(f"The secret {file} can be read by others. Run: chmod 600 {file}")
    if len(value) < 32:
        raise StackError(f"The secret {file} is too short. Remove the file; a new one is made at the next start.")
    return value


def new_secret() -> str:
    """A secret for one start."""
    return secrets.token_urlsafe(48)


def _make(file: Path) -> None:
    # Exclusive: of two that start at the same time, one makes the secret and both read it.
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            stream.write(new_secret())
        os.link(temporary, file)
    except FileExistsError:
        pass
    finally:
        temporary.unlink(missing_ok=True)
