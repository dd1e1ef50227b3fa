"""How many HTTP requests a second one address may send, where the admin wants a limit; by default there is none.

Hypha's own, 100 a second by an address that a header names, is taken out (`foreign.hypha`). Requests of RPC clients come in one
websocket, and have limits of their own.
"""

from __future__ import annotations

import time
from collections import OrderedDict

from bioengine_contract.errors import BioEngineError
from starlette.types import ASGIApp, Receive, Scope, Send

from bioengine_server.access.errors import Busy
from bioengine_server.http.connections import peer_of
from bioengine_server.http.error_responses import refusal

_BURST = 5.0  # seconds' worth of requests that may come at once
_MAX_PEERS = 10_000  # that are remembered; the one that was quiet for longest is forgotten

# Whoever watches the server has to see how it is.
_FREE = "/health/"


class TooFast(Busy):
    code = "too_many_requests_per_second"

    def __init__(self, limit: int) -> None:
        BioEngineError.__init__(
            self,
            f"This address sends more than {limit} requests a second, the server's limit for one. Send fewer, or wait as long as "
            "Retry-After says; the server's admin can raise BIOENGINE_PEER_REQUESTS.",
        )


class PeerRate:
    """ASGI middleware: a bucket of requests for each address, that fills with time."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        """
        Args:
            app: what is asked.
            limit: requests a second; 0: any number.
        """
        self._app = app
        self._limit = limit
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and when it was

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._limit and scope["type"] == "http" and not scope["path"].startswith(_FREE):
            client = scope.get("client") or ("", 0)
            if not self._takes(peer_of(str(client[0])), time.monotonic()):
                await refusal(TooFast(self._limit))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _takes(self, peer: str, now: float) -> bool:
        left, since = self._buckets.pop(peer, (self._limit * _BURST, now))
        left = min(self._limit * _BURST, left + (now - since) * self._limit)
        self._buckets[peer] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > _MAX_PEERS:
            self._buckets.popitem(last=False)
        return left >= 1
