"""Who calls: every request of a client carries it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


def _always() -> bool:
    return True


@dataclass(frozen=True)
class Caller:
    """A client of the server, as Hypha knows it."""

    user: str
    """The user's id; anonymous users get one at random for each connection."""

    workspace: str
    """The workspace that the client is connected to."""

    client: str
    """The client's id within the workspace."""

    anonymous: bool

    connected: Callable[[], bool] = field(default=_always, compare=False, repr=False)
    """Whether the client is still there to get an answer, as far as this process knows."""

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
            anonymous=bool(user.get("is_anonymous", True)),
            connected=connected if callable(connected) else _always,
        )

    def to_context(self) -> dict[str, Any]:
        """The caller as a context that `from_context` reads."""
        user = {"id": self.user, "is_anonymous": self.anonymous}
        sender = f"{self.workspace}/{self.client}"
        return {"user": user, "ws": self.workspace, "from": sender, "connected": self.connected}

    def __str__(self) -> str:
        return f"{self.user} ({self.workspace}/{self.client})"
