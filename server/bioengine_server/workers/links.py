"""The workers that have dialled in: who may join, whose lease is over, and who has left."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Callable

from bioengine_contract.version import VERSION

from bioengine_server.access.errors import WorkerTokenNeeded
from bioengine_server.untrusted import shown
from bioengine_server.workers.errors import (
    CannotWork,
    ClockOff,
    HasLeft,
    NameTaken,
    NotJoined,
    NotTaken,
    OtherVersion,
)
from bioengine_server.workers.link import Link
from bioengine_server.workers.protocol import MAX_CLOCK_DIFFERENCE, Join

logger = logging.getLogger(__name__)

_LOOK_INTERVAL = 0.25  # seconds between two looks at the leases
_MAX_LEFT = 10_000


class Links:
    """Of one server."""

    def __init__(self, check_token: Callable[[str], None], secret: str = "") -> None:
        """
        Args:
            check_token: raises NoAccess where a token is none for workers.
            secret: accepted as well; empty: there is none.
        """
        self._check_token = check_token
        self._secret = secret
        self._links: dict[str, Link] = {}
        self._left: OrderedDict[str, None] = OrderedDict()
        self.on_join: Callable[[Link], None] = lambda link: None
        self.on_loss: Callable[[Link], None] = lambda link: None

    def admit(self, token: str | None) -> None:
        """Let in who has a token for workers. Raises NoAccess."""
        if not token:
            raise WorkerTokenNeeded
        if not (self._secret and hmac.compare_digest(token.encode(), self._secret.encode())):
            self._check_token(token)

    def all(self) -> list[Link]:
        """Those that are joined."""
        return list(self._links.values())

    def find(self, name: str, instance: str | None) -> Link:
        """The worker of a name, in this joining. Raises NotJoined."""
        link = self._links.get(name)
        if link is None or link.instance != instance:
            raise NotJoined(name)
        return link

    def join(self, name: str, join: Join) -> Link:
        """Take a worker. Raises NotTaken."""
        try:
            self._check(name, join)
        except NotTaken as error:
            logger.warning("The worker %s on %s was refused: %s", name, shown(join.host), shown(error, 1000))
            raise
        if name in self._links:
            self._end(self._links[name], "it has joined anew")
        link = self._links[name] = Link(name, join)
        logger.info("The worker %s on %s has joined", name, shown(join.host))
        self.on_join(link)
        return link

    def close(self) -> None:
        """The server stops: workers wait for nothing more, and join again when it is back."""
        for link in self.all():
            self._end(link, "the server stops")

    def leave(self, link: Link) -> None:
        """A worker goes, and does not join again with this start."""
        self._left[link.start] = None
        while len(self._left) > _MAX_LEFT:
            self._left.popitem(last=False)
        self._end(link, "it has left")

    async def watch(self) -> None:
        """End the leases of workers that are not heard any more, until cancelled."""
        looked = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_INTERVAL)
            now = time.monotonic()
            if now - looked > 4 * _LOOK_INTERVAL:
                # We were not there ourselves: what they have said meanwhile has not been read yet.
                for link in self.all():
                    link.heard = max(link.heard, now - 1)
            looked = now
            for link in self.all():
                if link.lease_is_over:
                    self._end(link, "it is not heard any more")

    def _check(self, name: str, join: Join) -> None:
        """Raises NotTaken."""
        if join.start in self._left:
            raise HasLeft(name)
        if join.version != VERSION:
            raise OtherVersion(shown(join.version))
        if join.problem:
            raise CannotWork(shown(join.problem, 1000))
        if abs(difference := join.time - time.time()) > MAX_CLOCK_DIFFERENCE:
            raise ClockOff(difference)
        other = self._links.get(name)
        if other is not None and other.start != join.start:
            raise NameTaken(name, shown(other.host))

    def _end(self, link: Link, reason: str) -> None:
        if self._links.get(link.name) is link:
            del self._links[link.name]
        logger.info("The worker %s is gone: %s", link.name, reason)
        link.lose()
        self.on_loss(link)
