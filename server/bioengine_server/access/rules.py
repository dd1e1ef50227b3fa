"""Who needs a token, which tokens are valid, and how many requests each client may have: all of it is decided here.

These rules are checked before anything is done for a client: by the authentication for each connection and HTTP request, by the
service for each call.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

from bioengine_contract import message

from bioengine_server.access.caller import OWN_USER, Caller
from bioengine_server.access.errors import TokenNeeded, TooLarge, TooManyRequests
from bioengine_server.access.refusals import Refusals
from bioengine_server.access.registry import Token, TokenRegistry
from bioengine_server.limits import SizeLimit
from bioengine_server.network.peers import gateway, is_loopback
from bioengine_server.settings import Settings

# Headers that proxies add. A client that sends one without a proxy needs a token too, but nothing worse happens.
_PROXY_HEADERS = (
    "cf-connecting-ip",
    "forwarded",  # X-Forwarded-For and others
    "true-client-ip",
    "via",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded-",
    "x-original-forwarded-for",
    "x-real-ip",
)


class Access:
    """The access rules of one server."""

    def __init__(self, settings: Settings, registry: TokenRegistry | None) -> None:
        """
        Args:
            settings: say who needs a token, and what the limits are.
            registry: of this server's tokens; None if another server has checked them.
        """
        self._settings = settings
        self._registry = registry
        self._under_way: Counter[str] = Counter()
        self._gateway = gateway()
        self.refusals = Refusals()

    @property
    def all_need_token(self) -> bool:
        """Whether every client needs a token, however it connects."""
        mode = self._settings.access
        return mode == "token" or (mode == "auto" and not is_loopback(self._settings.host))

    def needs_token(self, headers: Iterable[str], peer: str) -> bool:
        """Whether a client that connects in this way needs a token.

        Args:
            headers: the names of its HTTP headers.
            peer: the address at the other end of the connection.
        """
        if self.all_need_token or self._settings.access == "open":
            return self.all_need_token
        return bool(self.sign_of_proxy(headers)) or not self._is_here(peer)

    def sign_of_proxy(self, headers: Iterable[str]) -> str:
        """The header that shows that a request came through a proxy and therefore needs a token; otherwise empty.

        Args:
            headers: the names of its HTTP headers.
        """
        if self.all_need_token or self._settings.access != "auto":
            return ""
        return next((name.title() for name in headers if name.lower().startswith(_PROXY_HEADERS)), "")

    def needs_token_for_metrics(self, headers: Iterable[str], peer: str) -> bool:
        """Whether whoever comes this way needs a token to see what concerns all callers, also where none is needed to run models.

        All do but programs on this machine. Web pages count as strangers, and what comes through a proxy.

        Args:
            headers: names of the HTTP headers.
            peer: the address at the other end of the connection.
        """
        if self.all_need_token or any(name.lower().startswith((*_PROXY_HEADERS, "origin")) for name in headers):
            return True
        # To a container whose port is published on loopback alone, the machine is the gateway.
        is_machine = bool(self._settings.listen) and is_loopback(self._settings.host) and self._is_gateway(peer)
        return not (is_loopback(peer) or is_machine)

    def _is_here(self, peer: str) -> bool:
        """Whether a peer is a program on this machine, if the address that the server listens on does not imply it."""
        return not self._settings.listen or is_loopback(peer) or self._is_gateway(peer)

    def _is_gateway(self, peer: str) -> bool:
        """Whether a peer is the gateway; a socket that listens on `::` has its address mapped into IPv6."""
        return self._gateway is not None and peer.removeprefix("::ffff:") == self._gateway

    def check(self, caller: Caller) -> None:
        """Check that a caller may use the server. Raises TokenNeeded, UnknownToken, TokenRevoked, TokenExpired."""
        if caller.token:
            self._token(caller)
        elif self.all_need_token and caller.user != OWN_USER:
            raise TokenNeeded

    @contextlib.asynccontextmanager
    async def request(self, caller: Caller) -> AsyncIterator[Caller]:
        """Count a request of a caller while it is received, waits or runs; yields the caller, marked as counted.

        Raises TooManyRequests, and what `check` raises.
        """
        self.check(caller)
        if caller.counted or caller.user == OWN_USER:
            yield caller
            return
        token = self._token(caller)
        default = self._settings.token_requests if caller.token else self._settings.anonymous_requests
        limit = default if token is None or token.requests is None else token.requests
        if limit and self._under_way[caller.token] >= limit:
            raise TooManyRequests(limit, token.name if token else "", bool(caller.token))
        self._under_way[caller.token] += 1
        try:
            yield replace(caller, counted=True)
        finally:
            self._under_way[caller.token] -= 1
            if not self._under_way[caller.token]:
                del self._under_way[caller.token]

    @property
    def largest(self) -> int:
        """The largest size of one request's inputs for any client, in bytes."""
        return self._settings.max_request_size

    def size_limit(self, caller: Caller) -> SizeLimit:
        """The largest size of one request's inputs for a caller. Raises UnknownToken, TokenRevoked, TokenExpired."""
        settings, token = self._settings, self._token(caller)
        if caller.token:
            limit = SizeLimit(
                (token.max_size if token else None) or settings.token_max_request_size,
                f"the token '{token.name}' allows" if token else "a token allows",
                "ask the server's admin for a token with a larger --max-size",
            )
        else:
            limit = SizeLimit(
                settings.anonymous_max_request_size,
                "clients without a token may send",
                "ask the server's admin for a token (`./bioengine token create NAME`), or to raise "
                "BIOENGINE_ANONYMOUS_MAX_REQUEST_SIZE",
            )
        own = caller.user == OWN_USER or not 0 < limit.bytes < settings.max_request_size
        return SizeLimit(settings.max_request_size) if own else limit

    def check_size(self, inputs: object, caller: Caller) -> None:
        """Raises TooLarge if the inputs are larger than the caller may send in one request."""
        size, limit = message.size(inputs), self.size_limit(caller)
        if size > limit.bytes:
            raise TooLarge(size, limit)

    def _token(self, caller: Caller) -> Token | None:
        """The record of the caller's token; None if it has none."""
        return self._registry.checked(caller.token) if self._registry is not None and caller.token else None


def access_of(settings: Settings) -> str:
    """Who may run models, as a short text for the admin."""
    if Access(settings, None).all_need_token:
        return "with a token (create one with `./bioengine token create NAME`)"
    if settings.access == "auto":
        return "open to programs on this machine; with a token through a proxy"
    return "open to everybody who can reach it"
