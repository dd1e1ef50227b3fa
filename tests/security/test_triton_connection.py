"""A hostile program in Triton's place gets no secrets, and cannot fill the server's memory."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from bioengine_server.triton import connection
from bioengine_server.triton.api import TritonApi
from bioengine_server.triton.errors import TritonUnavailable

from tests.security.answering import answering

LISTENS = """
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listens", flush=True)
other, _ = listener.accept()
print(other.recv(65536), flush=True)
"""


@contextlib.asynccontextmanager
async def api(url: str) -> AsyncIterator[TritonApi]:
    one = TritonApi(url, "the-secret-of-the-closed-apis", 5)
    try:
        yield one
    finally:
        await one.close()


@pytest.mark.parametrize("leads_a_group", [False, True])
async def test_a_model_in_tritons_place_is_told_nothing(tmp_path: Path, leads_a_group: bool) -> None:
    """A model's process is in Triton's group; Triton leads it."""
    path = tmp_path / "http"
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENS, str(path)], stdout=subprocess.PIPE, text=True, start_new_session=leads_a_group
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "listens\n"
        async with api(connection.socket_url(path)) as triton:
            with pytest.raises(TritonUnavailable) as raised:
                await asyncio.wait_for(triton.model_config("old-otter"), 20)
        assert str(tmp_path) not in str(raised.value)
        heard = await asyncio.to_thread(process.stdout.readline)
        assert heard.startswith("b'GET /v2/models") if leads_a_group else heard == "b''\n"
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("status", [200, 400])
async def test_answers_are_bounded(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """A server on TCP stands in for Triton, which gives no such answers."""
    monkeypatch.setattr(connection, "_MAX_ANSWER", 1_000_000)
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        answer = web.StreamResponse(status=status)
        await answer.prepare(request)
        while sent < 1_000_000_000:
            await answer.write(b"x" * 100_000)
            sent += 100_000
        return answer

    async with answering(endless) as port:
        async with api(f"http://127.0.0.1:{port}") as triton:
            with pytest.raises(Exception, match=r"did not answer|more than 1000000 bytes"):
                await triton.model_config("old-otter")
            if status >= 400:
                with pytest.raises(TritonUnavailable):
                    await triton.open("GET", "/v2", None, {})
        assert sent < 100_000_000
