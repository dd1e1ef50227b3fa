"""What answers in Triton's place, or models beside the router, cannot make the server go elsewhere or download something else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from bioengine_server.triton.errors import TritonUnavailable
from bioengine_server.dispatch.queue import Admission
from bioengine_server.access.caller import Caller
from bioengine_server.service.stored import StoredModels
from bioengine_server.settings import Settings
from bioengine_server.store.service import StoreService
from bioengine_server.triton.api import TritonApi

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
        await api.replace_router()
    assert not await api.is_ready("model")
    assert elsewhere == []


class _Liar:
    """A router whose answers are about another model. No model of a real Triton can be made to answer so from outside."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer

    async def ask(self, request: dict[str, Any], options: object = None) -> tuple[dict[str, Any], dict[str, Any]]:
        return dict(self.answer), {}


@pytest.mark.parametrize(
    ("asked", "named", "is_taken"),
    [
        ("affable-shark", "affable-shark", True),
        ("affable-shark/1.1", "affable-shark/1.1", True),
        ("/models/affable-shark/rdf.yaml", "affable-shark", True),
        ("10.5281/zenodo.5764892/6647674", "10.5281/zenodo.5764892/6647674", True),
        ("affable-shark", "other-model", False),
        ("affable-shark", "../../etc", False),
        ("affable-shark", ["affable-shark"], False),
        ("../x", "../x", False),
    ],
)
async def test_an_answer_names_no_other_model_to_download(tmp_path: Path, asked: str, named: object, is_taken: bool) -> None:
    router = _Liar({"success": False, "error": "not here", "not_stored": named})
    stored = StoredModels(router, Admission(14, 4, 256), StoreService(Settings(home=tmp_path)))  # type: ignore[arg-type]
    answer, _ = await stored.question("resolve", asked, Caller("anyone", "ws", "client"))
    assert answer["error"] == "not here"
    assert ("not_stored" in answer) == is_taken
