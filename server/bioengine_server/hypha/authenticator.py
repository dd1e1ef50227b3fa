"""Authenticate clients by their tokens, for all kinds of connections:

HTTP             the header `Authorization: Bearer`
hypha-rpc        the token in its first message
imjoy-rpc        the token in the URL
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from bioengine_contract.errors import BioEngineError
from starlette.datastructures import Headers
from starlette.types import Scope

from bioengine_server.access.caller import Caller, token_id
from bioengine_server.access.errors import AccessDenied, TokenNeeded
from bioengine_server.access.registry import TokenRegistry
from bioengine_server.access.rules import Access
from bioengine_server.hypha.tokens import Verifier

logger = logging.getLogger(__name__)

_CHECK_INTERVAL = 1.0  # seconds


class Authenticator:
    """Checks tokens, and remembers which connections use which token."""

    def __init__(self, access: Access, registry: TokenRegistry) -> None:
        self.access = access
        self.verifier = Verifier(registry)
        self._registry = registry
        self._open: list[tuple[str, Callable[[BioEngineError], None]]] = []

    def admit(self, scope: Scope, token: str | None) -> Any:
        """The user of a token; None without a token.

        Args:
            scope: the ASGI scope of the connection or request.
            token: its token.

        Raises TokenNeeded if a valid token is needed; AccessDenied, UnknownToken, TokenRevoked, TokenExpired.
        """
        user = self.verifier.user_of(token) if token else None
        if self.needs_token(scope) and not (user and token_id(user.roles)):
            raise TokenNeeded(self.access.sign_of_proxy(Headers(scope=scope).keys()))
        return user

    def admit_to_metrics(self, scope: Scope, token: str | None) -> None:
        """Let somebody see what concerns all callers. Raises TokenNeeded, AccessDenied, UnknownToken, TokenRevoked, TokenExpired.

        Args:
            scope: of the request.
            token: that it came with.
        """
        user = self.verifier.user_of(token) if token else None
        names, peer = Headers(scope=scope).keys(), scope.get("client") or ("", 0)
        if self.access.needs_token_for_metrics(names, str(peer[0])) and not (user and token_id(user.roles)):
            raise TokenNeeded

    def needs_token(self, scope: Scope) -> bool:
        """Whether a connection or request needs a token."""
        peer = scope.get("client") or ("", 0)
        return self.access.needs_token(Headers(scope=scope).keys(), str(peer[0]))

    @contextlib.contextmanager
    def connected(self, user: Any, on_death: Callable[[BioEngineError], None]) -> Iterator[None]:
        """Call `on_death` with the reason, once, if the user's token becomes invalid while the context is open."""
        token = token_id(user.roles) if user else ""
        entry = (token, on_death)
        if token:
            self._open.append(entry)
        try:
            yield
        finally:
            if entry in self._open:
                self._open.remove(entry)

    async def watch(self) -> None:
        """Watch the tokens of open connections, until cancelled."""
        while True:
            await asyncio.sleep(_CHECK_INTERVAL)
            for entry in list(self._open):
                token, on_death = entry
                try:
                    self._registry.checked(token)
                except BioEngineError as error:
                    logger.info("A client is disconnected: %s", error)
                    self._open.remove(entry)
                    on_death(error)


def stranger(scope: Scope) -> Caller:
    """Whoever sends a request or opens a connection and could not be identified; in place of a client's id, its address."""
    address = str((scope.get("client") or ("unknown", 0))[0])
    return Caller(user=f"anonymous-{address}", workspace=scope["type"], client=address)


def is_legacy(scope: Scope) -> bool:
    """Whether a websocket is from an imjoy-rpc client. Hypha's own clients identify themselves in their first message."""
    return b"client_id=" in scope.get("query_string", b"")


def bearer(headers: Headers) -> str | None:
    """The token in `Authorization: Bearer`; None without that header. Raises AccessDenied if the header is anything else."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if not scheme:
        return None
    if scheme.lower() != "bearer" or not token.strip():
        raise AccessDenied
    return token.strip()
