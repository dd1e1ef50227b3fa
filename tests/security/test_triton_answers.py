"""A hostile program in Triton's place cannot make the server connect to other addresses."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest
from aiohttp import web
from bioengine_server.triton.api import TritonApi
from bioengine_server.triton.errors import TritonUnavailable

from tests.security.answering import answering


@pytest.fixture(params=[301, 302, 303, 307, 308])
async def redirecting(request: pytest.FixtureRequest) -> AsyncIterator[tuple[TritonApi, list[str]]]:
    """An API of a server that redirects all requests to a path of its own, and the requests that came there."""
    elsewhere: list[str] = []

    async def answer(asked: web.Request) -> web.Response:
        if asked.path == "/elsewhere":
            elsewhere.append(str(dict(asked.headers)))
            return web.json_response({})
        return web.Response(status=request.param, headers={"Location": "/elsewhere"})

    async with answering(answer) as port:
        api = TritonApi(f"http://127.0.0.1:{port}", "a secret", 5)
        yield api, elsewhere
        await api.close()


async def test_no_request_follows_a_redirect(redirecting: tuple[TritonApi, list[str]]) -> None:
    """Neither with the secret, nor with a client's image."""
    api, elsewhere = redirecting
    image = np.zeros((1, 2), np.float32)
    with pytest.raises(TritonUnavailable, match="Redirected"):
        await api.infer("model", [("image", image)])
    with pytest.raises(TritonUnavailable, match="Redirected"):
        await api.model_config("model")
    with pytest.raises(TritonUnavailable, match="Redirected"):
        await api.open("GET", "/v2/models/model", None, {})
    with pytest.raises(TritonUnavailable, match="Redirected"):
        await api.replace_runner()
    assert not await api.is_ready("model")
    assert elsewhere == []
