"""Who calls: every request of a client carries it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

TOKEN_ROLE = "bioengine-token:"
"""Begins the role by which Hypha's user of a token of ours is known; the id of the token's record follows."""

OWN_USER = "root"
"""Hypha's user in whose name the server itself calls, such as for the readiness probe."""


# In a context: nothing that comes over a connection is this object, so no client can say that its request is counted.
_COUNTED = object()


def _always() -> bool:
    return True


def token_id(roles: Iterable[Any]) -> str:
    """The id of the token that a user with these roles has; empty where it is none of ours."""
    ids = (role.removeprefix(TOKEN_ROLE) for role in roles if isinstance(role, str) and role.startswith(TOKEN_ROLE))
    return next(ids, "")


@dataclass(frozen=True)
class Caller:
    """A client of the server, as Hypha knows it."""

    user: str
    """The user's id; anonymous users get one at random for each connection."""

    workspace: str
    """The workspace that the client is connected to."""

    client: str
    """The client's id within the workspace."""

    token: str = ""
    """The id of the token that the client has; empty: none that counts."""

    connected: Callable[[], bool] = field(default=_always, compare=False, repr=False)
    """Whether the client is still there to get an answer, as far as this process knows."""

    counted: bool = field(default=False, compare=False, repr=False)
    """Whether the request counts already among the caller's own, as one whose body had to be read first."""

    @property
    def key(self) -> str:
        """Names who asks, where callers take turns: a token, or one connection without."""
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
        """The caller as a context that `from_context` reads."""
        user = {"id": self.user, "roles": [f"{TOKEN_ROLE}{self.token}"] if self.token else []}
        sender = f"{self.workspace}/{self.client}"
        counted = _COUNTED if self.counted else None
        return {"user": user, "ws": self.workspace, "from": sender, "connected": self.connected, "counted": counted}

    def __str__(self) -> str:
        return f"{self.user} ({self.workspace}/{self.client})"
