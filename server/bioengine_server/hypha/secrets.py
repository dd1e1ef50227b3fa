"""Secrets, which are created once and stored in a file that only its owner can read. There are no default values."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from bioengine_server.errors import StackError
from bioengine_server.hypha.errors import WeakSecret
from bioengine_server.private_folder import others_may
from bioengine_server.settings import Settings
from bioengine_server.whole_file import whole_file

JWT_SECRET = "hypha-jwt"
"""The name of the home's secret that signs tokens."""

_SHORTEST = 32  # characters
_FEWEST_DIFFERENT = 8  # different characters; 32 random hexadecimal digits contain 14 different ones on average
# Words from examples and lists of passwords, in any spelling.
_WELL_KNOWN = (
    "changeme", "changethis", "replaceme", "replacethis", "yoursecret", "yourown", "placeholder", "example", "password",
    "passw0rd", "secret", "default", "insecure", "letmein", "qwerty", "123456789", "abcdefgh", "bioengine", "triton",
)  # fmt: skip


def home_secret(home: Path, name: str) -> str:
    """The secret `name` of a home, in `<home>/secrets`; it is created if it does not exist yet. Raises StackError."""
    return kept_secret(home / "secrets" / name)


def kept_secret(file: Path) -> str:
    """The secret in `file`; it is created if it does not exist yet. Raises StackError."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not file.exists():
            _make(file)
        value = file.read_text().strip()
    except OSError as error:
        raise StackError(
            f"The secret {file} cannot be read or created: {error.strerror}. Give yourself access to {file.parent}, and free "
            "space there."
        ) from error
    _check_readers(file)
    return checked_secret(str(file), value, "Remove the file; a new secret is created at the next start.")


def _check_readers(file: Path) -> None:
    """Raises StackError where others can read a secret."""
    if others_may(found := file.stat()):
        remedy = f"Run: chmod 600 {file}"
        if found.st_uid != os.getuid():
            remedy = "In Kubernetes, use defaultMode 0440, and an fsGroup with the number of the pod's user (runAsUser)."
        raise StackError(f"The secret {file} can be read by others. {remedy}")


def checked_secret(name: str, value: str, remedy: str) -> str:
    """Check that a secret, which the admin may have chosen, cannot be guessed. Raises WeakSecret.

    Args:
        name: its name, for the message.
        value: the secret.
        remedy: what to do about a weak secret.
    """
    plain = "".join(character for character in value.lower() if character.isalnum())
    if not value:
        raise WeakSecret(name, "is missing", remedy)
    if len(value) < _SHORTEST:
        raise WeakSecret(name, f"is too short ({len(value)} characters)", remedy)
    if any(known in plain for known in _WELL_KNOWN):
        raise WeakSecret(name, "is one that is used in examples", remedy)
    if len(set(value)) < _FEWEST_DIFFERENT:
        raise WeakSecret(name, "repeats the same few characters", remedy)
    return value


def worker_secret(settings: Settings) -> str:
    """The secret that workers may join with, beside tokens; empty where there is none. Raises StackError."""
    file = settings.worker_token_file
    if file is None:
        return ""
    try:
        secret = file.read_text().strip()
        _check_readers(file)
    except OSError as error:
        raise StackError(
            f"BIOENGINE_WORKER_TOKEN_FILE: {file} cannot be read: {error.strerror}. Put a secret into it, which the workers have "
            "as well; create one with: python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"
        ) from error
    return checked_secret(
        f"BIOENGINE_WORKER_TOKEN_FILE ({file})", secret, "Put another one into the file, here and on the workers."
    )


def external_secret(settings: Settings) -> str:
    """The secret of a Triton that is not started by this process. Raises StackError."""
    if settings.triton_secret_file is not None:
        return kept_secret(settings.triton_secret_file)
    secret = settings.triton_secret.get_secret_value() if settings.triton_secret else ""
    return checked_secret(
        "BIOENGINE_TRITON_SECRET",
        secret,
        "Set the same secret, or the same file with it (BIOENGINE_TRITON_SECRET_FILE), here and where Triton is started; "
        "create one with: python3 -c 'import secrets; print(secrets.token_urlsafe(48))'",
    )


def new_secret() -> str:
    """A new random secret, for one start of the server."""
    return secrets.token_urlsafe(48)


def _make(file: Path) -> None:
    # An existing file is not replaced: if two processes start at the same time, one creates the secret and both read it.
    with contextlib.suppress(FileExistsError), whole_file(file, 0o600, replace=False) as stream:
        stream.write(new_secret().encode())
