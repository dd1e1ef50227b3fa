"""The connected legacy clients: each has a unique name, and gets its services back when it reconnects."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from bioengine_server.gateway.errors import ClientIdTaken

_MAX_REMEMBERED = 500  # clients that have left and whose services are remembered
_FAREWELL = 10.0  # seconds that the previous connection may take to end, or until it can be asked


@dataclass(eq=False)
class Client:
    """One connection of a client."""

    workspace: str
    client_id: str
    user: str
    """The id of the user."""

    is_new: bool
    """Whether the program has just been started. False if it has reconnected, which it proves with a token for this id."""

    answers: Callable[[], Awaitable[bool]] | None = None
    """Asks the client whether it is alive; None until the client can be asked."""

    services: tuple[str, ...] = ()
    """The services that it offered in its last connection; after this connection has ended, those of this one."""

    replaced_by: asyncio.Future[Client] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Set when a newer connection of the same client wants its name."""

    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the connection has ended and its name is free."""

    @property
    def name(self) -> str:
        return f"{self.workspace}/{self.client_id}"


async def end_of_last(client: Client) -> None:
    """Wait until the newest connection of the client, which may be a later one than this, has ended."""
    while True:
        await client.ended.wait()
        if not client.replaced_by.done():
            return
        client = client.replaced_by.result()


async def _answers(client: Client) -> bool:
    """Whether a connected client is alive. One that is just connecting is waited for until it can be asked."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_FAREWELL):
            while client.answers is None and not client.ended.is_set():
                await asyncio.sleep(0.02)
    return client.answers is not None and not client.ended.is_set() and await client.answers()


class Clients:
    """The connected clients by name, `<workspace>/<client id>`."""

    def __init__(self, is_taken: Callable[[str, str], bool]) -> None:
        """
        Args:
            is_taken: whether a hypha-rpc client with this workspace and id is connected.
        """
        self._is_taken = is_taken
        self._connected: dict[str, Client] = {}
        self._left: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    async def enter(self, client: Client) -> None:
        """Give a connection its name. If the same user's client is already connected with it, the new connection replaces it.

        Raises ClientIdTaken.
        """
        try:
            await self._enter(client)
        except BaseException:
            client.ended.set()  # for one that has made room for it, and waits for its end (`end_of_last`)
            raise

    async def _enter(self, client: Client) -> None:
        while (before := self._connected.get(client.name)) is not None:
            is_other = client.is_new or client.user != before.user
            if is_other and await _answers(before):
                raise ClientIdTaken(client.client_id)
            if not before.replaced_by.done():
                before.replaced_by.set_result(client)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL):
                    await before.ended.wait()
            if not before.ended.is_set():
                raise ClientIdTaken(client.client_id)
        if self._is_taken(client.workspace, client.client_id):
            raise ClientIdTaken(client.client_id)
        self._connected[client.name] = client
        services = self._left.pop(client.name, ())
        client.services = () if client.is_new else services

    def leave(self, client: Client) -> None:
        """Note that a connection has ended completely."""
        client.ended.set()
        if self._connected.get(client.name) is not client:
            return
        del self._connected[client.name]
        if client.services:
            self._left[client.name] = client.services
            while len(self._left) > _MAX_REMEMBERED:
                self._left.popitem(last=False)
