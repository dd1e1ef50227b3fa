"""Services that legacy clients call directly, and sockets that send at once."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import hypha_rpc.rpc
import pytest
from bioengine_server.dispatch.errors import RefusedArgument
from bioengine_server.gateway.local import LocalServices
from bioengine_server.http.server import listen
from bioengine_server.hypha.rpc_limits import hide_tracebacks
from bioengine_server.network.ports import free_ports

CONTEXT = {"user": {"id": "anonymouz-x"}, "ws": "ws-x", "from": "ws-x/client"}


async def execute(inputs: Any = None, context: dict[str, Any] | None = None) -> Any:
    if inputs is None:
        raise RefusedArgument("inputs", "there are none.")
    return inputs, context


@pytest.fixture
def services() -> LocalServices:
    found = LocalServices()
    found.add("public/bioengine:triton-client", {"id": "triton-client", "execute": execute})
    return found


async def test_only_services_of_this_process_are_called_directly(services: LocalServices) -> None:
    assert set(services.methods("public/bioengine:triton-client", CONTEXT)) == {"execute"}
    assert services.methods("public/somebody:triton-client", CONTEXT) == {}


async def test_a_client_cannot_say_who_it_is(services: LocalServices) -> None:
    call = services.methods("public/bioengine:triton-client", CONTEXT)["execute"]
    assert await call("image", context={"user": {"id": "root"}}) == ("image", CONTEXT)


async def test_errors_are_told_as_hypha_tells_them(services: LocalServices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hypha_rpc.rpc, "format_traceback", hypha_rpc.rpc.format_traceback)
    hide_tracebacks()
    call = services.methods("public/bioengine:triton-client", CONTEXT)["execute"]
    with pytest.raises(RuntimeError) as caught:
        await call()
    assert str(caught.value) == "RefusedArgument: The argument 'inputs' is refused: there are none."


async def test_answers_are_sent_at_once_and_peers_that_are_gone_are_noticed() -> None:
    options: asyncio.Queue[tuple[int, int, int]] = asyncio.Queue()

    def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer: socket.socket = writer.get_extra_info("socket")
        options.put_nowait(
            (
                peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
                peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            )
        )
        writer.close()

    (port,) = free_ports(1)
    with contextlib.closing(listen("127.0.0.1", port)) as listener:
        async with await asyncio.start_server(connected, sock=listener):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await options.get() == (1, 1, 120_000)
            writer.close()
