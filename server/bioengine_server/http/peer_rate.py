"""Limit the HTTP requests per second of one address, if the admin sets such a limit; by default there is none.

Hypha's own limit, 100 per second for the address in a header, is removed (`foreign.hypha`). Requests of RPC clients use one
websocket, and have their own limits.
"""

from __future__ import annotations

import time
from collections import OrderedDict

from bioengine_contract.errors import BioEngineError
from starlette.types import ASGIApp, Receive, Scope, Send

from bioengine_server.access.errors import Busy
from bioengine_server.access.refusals import Refusals
from bioengine_server.http.connections import peer_of
from bioengine_server.http.error_responses import refusal
from bioengine_server.hypha.authenticator import stranger

_BURST = 5.0  # a burst may have as many requests as are allowed in this many seconds
_MAX_PEERS = 10_000  # addresses that are remembered; the one that was silent for longest is forgotten

# Health checks are never limited.
_FREE = "/health/"


class TooFast(Busy):
    code = "too_many_requests_per_second"

    def __init__(self, limit: int) -> None:
        BioEngineError.__init__(
            self,
            f"This address sends more than {limit} requests per second, the server's limit for one address. Send fewer, or wait "
            "as long as the header Retry-After says; the server's admin can raise BIOENGINE_PEER_REQUESTS.",
        )


class PeerRate:
    """ASGI middleware: a token bucket for each address."""

    def __init__(self, app: ASGIApp, limit: int, refusals: Refusals) -> None:
        """
        Args:
            app: the application.
            limit: requests per second; 0 for no limit.
            refusals: are told of each request that is refused.
        """
        self._app = app
        self._limit = limit
        self._refusals = refusals
        self._buckets: OrderedDict[str, tuple[float, float]] = (
            OrderedDict()
        )  # by address: the requests that are left, and the time when this was computed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._limit and scope["type"] == "http" and not scope["path"].startswith(_FREE):
            client = scope.get("client") or ("", 0)
            if not self._takes(peer_of(str(client[0])), time.monotonic()):
                error = TooFast(self._limit)
                self._refusals.tell(error, stranger(scope))
                await refusal(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _takes(self, peer: str, now: float) -> bool:
        left, since = self._buckets.pop(peer, (self._limit * _BURST, now))
        left = min(self._limit * _BURST, left + (now - since) * self._limit)
        self._buckets[peer] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > _MAX_PEERS:
            self._buckets.popitem(last=False)
        return left >= 1
