"""The legacy clients that are connected: each has its name for itself, and gets its services back when it comes again."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from bioengine_server.gateway.errors import ClientIdTaken

_MAX_REMEMBERED = 500  # clients that have left, by whose services they are known again
_FAREWELL = 10.0  # seconds that the connection before may take to end


@dataclass(eq=False)
class Client:
    """One connection."""

    workspace: str
    client_id: str
    user: str
    """The id of whose it is."""

    is_new: bool
    """Whether it is a program that has just been started, not one whose connection was lost and that has shown its token for
    this id."""

    answers: Callable[[], Awaitable[bool]] | None = None
    """Asks the client whether it is there, once it can be asked."""

    services: tuple[str, ...] = ()
    """What it offered when it was last connected; from its end on, what it offers."""

    replaced_by: asyncio.Future[Client] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """The newer connection of the same client that wants its name, once there is one."""

    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the name is free."""

    @property
    def name(self) -> str:
        return f"{self.workspace}/{self.client_id}"


async def end_of_last(client: Client) -> None:
    """Wait until the newest connection of a client has ended, which may be another one."""
    while True:
        await client.ended.wait()
        if not client.replaced_by.done():
            return
        client = client.replaced_by.result()


class Clients:
    """By name, `<workspace>/<client id>`."""

    def __init__(self, is_taken: Callable[[str, str], bool]) -> None:
        """
        Args:
            is_taken: whether there is another client, of hypha-rpc, of a workspace and id.
        """
        self._is_taken = is_taken
        self._connected: dict[str, Client] = {}
        self._left: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    async def enter(self, client: Client) -> None:
        """Give a connection its name. One of a client that is known comes in place of the one before, which is the same user's.

        Raises ClientIdTaken.
        """
        while (before := self._connected.get(client.name)) is not None:
            is_other = client.is_new or client.user != before.user
            if is_other and before.answers is not None and await before.answers():
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
        """A connection has ended, and nothing of it is left."""
        client.ended.set()
        if self._connected.get(client.name) is not client:
            return
        del self._connected[client.name]
        if client.services:
            self._left[client.name] = client.services
            while len(self._left) > _MAX_REMEMBERED:
                self._left.popitem(last=False)
