"""The client that sent a request; it is passed along with every request."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

TOKEN_ROLE = "bioengine-token:"
"""Prefix of the role that Hypha's user gets for one of this server's tokens; the id of the token's record follows."""

OWN_USER = "root"
"""The Hypha user for calls of the server itself, such as the readiness probe."""


# This object marks a context as counted. Nothing that a client sends can be this object, so no client can fake it.
_COUNTED = object()


def _always() -> bool:
    return True


def token_id(roles: Iterable[Any]) -> str:
    """The id of the token of a user with these roles; empty if the user has none of this server's tokens."""
    ids = (role.removeprefix(TOKEN_ROLE) for role in roles if isinstance(role, str) and role.startswith(TOKEN_ROLE))
    return next(ids, "")


@dataclass(frozen=True)
class Caller:
    """A client of the server, as Hypha identifies it."""

    user: str
    """The user's id. Anonymous users get a random one for each connection."""

    workspace: str
    """The workspace that the client is connected to."""

    client: str
    """The client's id within the workspace."""

    token: str = ""
    """The id of the client's token; empty if it has no valid token."""

    connected: Callable[[], bool] = field(default=_always, compare=False, repr=False)
    """Whether the client is still connected to get an answer, as far as this process knows."""

    counted: bool = field(default=False, compare=False, repr=False)
    """Whether the request was already counted against the caller's limit, as happens before an HTTP body is read."""

    @property
    def key(self) -> str:
        """Identifies the caller where callers take turns: by its token, or by its connection if it has none."""
        return f"token {self.token}" if self.token else f"anonymous {self.user}"

    @classmethod
    def from_context(cls, context: dict[str, Any] | None) -> Caller:
        """The caller from the context that Hypha gives to a service's method (`require_context`)."""
        context = context or {}
        user = context.get("user") or {}
        sender = str(context.get("from") or "")
        connected = context.get("connected")
        return cls(
            user=str(user.get("id") or "unknown"),
            workspace=str(context.get("ws") or sender.split("/", maxsplit=1)[0] or "unknown"),
            client=sender.rsplit("/", maxsplit=1)[-1] or "unknown",
            token=token_id(user.get("roles") or []),
            connected=connected if callable(connected) else _always,
            counted=context.get("counted") is _COUNTED,
        )

    def to_context(self) -> dict[str, Any]:
        """A context for this caller that `from_context` can read."""
        user = {"id": self.user, "roles": [f"{TOKEN_ROLE}{self.token}"] if self.token else []}
        sender = f"{self.workspace}/{self.client}"
        counted = _COUNTED if self.counted else None
        return {"user": user, "ws": self.workspace, "from": sender, "connected": self.connected, "counted": counted}

    def __str__(self) -> str:
        return f"{self.user} ({self.workspace}/{self.client})"
