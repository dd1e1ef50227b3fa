"""The records of the tokens, by name, in `<home>/tokens.json`. The tokens themselves are not stored.

The command line writes the file and the running server reads it: a change takes effect at once, without a restart.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from bioengine_server.access.errors import (
    BadTokenName,
    NoSuchToken,
    TokenExists,
    TokenExpired,
    TokenRevoked,
    TokensUnreadable,
    UnknownToken,
)
from bioengine_server.errors import StackError
from bioengine_server.room import is_full
from bioengine_server.whole_file import whole_file

# Hypha uses the name as part of a workspace's name, for which it accepts these characters.
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_MAX_NAME = 40


class Token(BaseModel):
    """The record of a token."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    created: datetime
    expires: datetime
    revoked: datetime | None = None
    registration: bool = False
    """Whether it is of an earlier version, for a service of its own in this server: it opens nothing any more."""
    worker: bool = False
    """Whether it is for workers, which may do nothing else with it."""
    requests: int | None = None
    """How many requests it may have in progress at once; None for the value of the settings."""
    max_size: int | None = None
    """The largest size of one request's inputs, in bytes; None for the value of the settings."""

    @property
    def state(self) -> str:
        """`valid`, `expired` or `revoked`."""
        if self.revoked is not None:
            return "revoked"
        return "valid" if datetime.now(UTC) < self.expires else "expired"


class TokenRegistry:
    """The tokens of one home; several processes may use it at once."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._file = home / "tokens.json"
        self._seen: tuple[int, ...] | None = None
        self._tokens: dict[str, Token] = {}

    def all(self) -> list[Token]:
        """All tokens, in the order in which they were created. Raises TokensUnreadable."""
        return list(self._current().values())

    def find(self, id: str) -> Token | None:
        """The token with this id; None if there is none. Raises TokensUnreadable."""
        return self._current().get(id)

    def checked(self, id: str) -> Token:
        """The token with this id, if it is valid. Raises UnknownToken, TokenRevoked, TokenExpired, TokensUnreadable."""
        token = self.find(id)
        if token is None:
            raise UnknownToken
        if token.state == "revoked":
            raise TokenRevoked(token.name)
        if token.state == "expired":
            raise TokenExpired(token.name, token.expires)
        return token

    def create(
        self,
        name: str,
        days: float,
        requests: int | None = None,
        max_size: int | None = None,
        worker: bool = False,
    ) -> Token:
        """Record a new token. The name of one that has expired or was revoked may be used again.

        Raises BadTokenName, TokenExists, TokensUnreadable, StackError.
        """
        if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
            raise BadTokenName(name, _MAX_NAME)
        now = datetime.now(UTC).replace(microsecond=0)
        token = Token(
            id=secrets.token_hex(8),
            name=name,
            created=now,
            expires=now + timedelta(days=days),
            worker=worker,
            requests=requests,
            max_size=max_size,
        )
        with self._changing() as tokens:
            for other in [other for other in tokens.values() if other.name == name]:
                if other.state == "valid":
                    raise TokenExists(name)
                del tokens[other.id]
            tokens[token.id] = token
        return token

    def revoke(self, name: str) -> Token:
        """Revoke the token with this name. Raises NoSuchToken, TokensUnreadable, StackError."""
        with self._changing() as tokens:
            token = next((token for token in tokens.values() if token.name == name), None)
            if token is None:
                raise NoSuchToken(name, [token.name for token in tokens.values()])
            if token.revoked is None:
                token = token.model_copy(update={"revoked": datetime.now(UTC).replace(microsecond=0)})
            tokens[token.id] = token
        return token

    def _current(self) -> dict[str, Token]:
        """The tokens that are in the file now; it is read again only if it has changed."""
        try:
            found = self._file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise TokensUnreadable(self._file, error.strerror or str(error)) from error
        seen = (found.st_mtime_ns, found.st_ino, found.st_size)
        if seen != self._seen:
            self._tokens, self._seen = self._read(), seen
        return self._tokens

    def _read(self) -> dict[str, Token]:
        try:
            entries = json.loads(self._file.read_text())["tokens"]
            return {token.id: token for token in map(Token.model_validate, entries)}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise TokensUnreadable(self._file, error.strerror or str(error)) from error
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise TokensUnreadable(self._file, "it does not contain the list that `./bioengine token` writes") from error

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Token]]:
        """Lock the tokens for a change by this process, and write them when the context ends without an error."""
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            with open(os.open(self._home / ".tokens.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                tokens = self._read()
                yield tokens
                entries = [token.model_dump(mode="json") for token in tokens.values()]
                with whole_file(self._file, 0o600) as stream:
                    stream.write(json.dumps({"tokens": entries}, indent=2).encode())
        except OSError as error:
            raise StackError(
                f"{self._file} cannot be written: {error.strerror}. "
                + (
                    f"Free space on the disk of {self._home}."
                    if is_full(error)
                    else f"Give yourself access to {self._home}, or name another home with --home FOLDER."
                )
            ) from error
