"""Errors that prevent Hypha from starting."""

from __future__ import annotations

from bioengine_server.errors import StackError


class WeakSecret(StackError):
    code = "weak_secret"

    def __init__(self, name: str, reason: str, remedy: str) -> None:
        super().__init__(f"{name} {reason}. Expected a secret of at least 32 characters that nobody can guess. {remedy}")
