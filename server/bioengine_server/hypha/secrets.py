"""Secrets that are made once and kept in a file, readable by its owner only. None has a default value."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

from bioengine_server.errors import StackError
from bioengine_server.hypha.errors import WeakSecret
from bioengine_server.whole_file import whole_file

JWT_SECRET = "hypha-jwt"
"""The home's secret that signs tokens."""

_SHORTEST = 32  # characters
_FEWEST_DIFFERENT = 8  # characters; of 32 random hexadecimal digits, 14 are different
# What stands in examples and on lists of passwords, in any spelling.
_WELL_KNOWN = (
    "changeme", "changethis", "replaceme", "replacethis", "yoursecret", "yourown", "placeholder", "example", "password",
    "passw0rd", "secret", "default", "insecure", "letmein", "qwerty", "123456789", "abcdefgh", "bioengine", "triton",
)  # fmt: skip


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
    return checked_secret(str(file), value, "Remove the file; a new one is made at the next start.")


def checked_secret(name: str, value: str, remedy: str) -> str:
    """A secret that somebody else may have chosen, if it is not one that others can guess. Raises WeakSecret.

    Args:
        name: of it, for the message.
        value: of it.
        remedy: what to do about a weak one.
    """
    plain = "".join(character for character in value.lower() if character.isalnum())
    if not value:
        raise WeakSecret(name, "is missing", remedy)
    if len(value) < _SHORTEST:
        raise WeakSecret(name, f"is too short ({len(value)} characters)", remedy)
    if any(known in plain for known in _WELL_KNOWN):
        raise WeakSecret(name, "is one that stands in examples", remedy)
    if len(set(value)) < _FEWEST_DIFFERENT:
        raise WeakSecret(name, "repeats the same few characters", remedy)
    return value


def new_secret() -> str:
    """A secret for one start."""
    return secrets.token_urlsafe(48)


def _make(file: Path) -> None:
    # Not replaced: of two that start at the same time, one makes the secret and both read it.
    with contextlib.suppress(FileExistsError), whole_file(file, 0o600, replace=False) as stream:
        stream.write(new_secret().encode())
