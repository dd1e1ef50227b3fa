"""Who calls: every request of a client carries it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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

    @classmethod
    def from_context(cls, context: dict[str, Any] | None) -> Caller:
        """The caller from the context that Hypha gives to a service's method (`require_context`)."""
        context = context or {}
        user = context.get("user") or {}
        sender = str(context.get("from") or "")
        return cls(
            user=str(user.get("id") or "unknown"),
            workspace=str(context.get("ws") or sender.split("/", maxsplit=1)[0] or "unknown"),
            client=sender.rsplit("/", maxsplit=1)[-1] or "unknown",
            anonymous=bool(user.get("is_anonymous", True)),
        )

    def to_context(self) -> dict[str, Any]:
        """The caller as a context that `from_context` reads."""
        user = {"id": self.user, "is_anonymous": self.anonymous}
        return {"user": user, "ws": self.workspace, "from": f"{self.workspace}/{self.client}"}

    def __str__(self) -> str:
        return f"{self.user} ({self.workspace}/{self.client})"
