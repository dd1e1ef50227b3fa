"""HTTP calls that take long to read or write have limits, and are handled outside the event loop."""

from __future__ import annotations

import threading
from typing import Any

import msgpack
import numpy as np
import pytest
from bioengine_server.access.errors import BadBody, TooLarge
from bioengine_server.dispatch.errors import RefusedArgument
from bioengine_server.http import service_route
from bioengine_server.http.body import Rest
from bioengine_server.limits import SizeLimit
from bioengine_server.service.tensors import to_triton
from bioengine_server.triton.infer_options import MAX_TEXTS
from starlette.requests import Request

TEXTS = {"name": "m", "input": [{"name": "text", "data_type": "TYPE_STRING"}], "output": []}


async def arguments(body: bytes, kind: str) -> dict[str, Any]:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-length", str(len(body)).encode())]
    request = Request({"type": "http", "method": "POST", "headers": headers})
    return await service_route._arguments(request, Rest(receive), kind, SizeLimit(10**9), lambda size: None)


async def test_json_is_bounded_and_told_of_messagepack() -> None:
    with pytest.raises(TooLarge, match=r"a request in JSON may have.*send MessagePack"):
        await arguments(b'{"inputs":"' + b"a" * 65_000_000 + b'"}', "application/json")
    assert (await arguments(msgpack.packb({"inputs": b"a" * 65_000_000}), "application/msgpack")).keys() == {"inputs"}


async def test_whole_numbers_of_very_many_digits_are_refused() -> None:
    with pytest.raises(BadBody, match="it has a number of 1001 digits"):
        await arguments(b'{"timeout": ' + b"9" * 1001 + b"}", "application/json")
    assert (await arguments(b'{"timeout": ' + b"9" * 1000 + b"}", "application/json"))["timeout"] == 10**1000 - 1


@pytest.mark.parametrize(("letters", "aside"), [(10, False), (1_000_000, True)])
async def test_a_large_body_is_read_aside_of_the_loop(monkeypatch: pytest.MonkeyPatch, letters: int, aside: bool) -> None:
    threads: list[int] = []
    read = service_route._json

    def watched(body: bytearray) -> Any:
        threads.append(threading.get_ident())
        return read(body)

    monkeypatch.setattr(service_route, "_json", watched)
    assert len((await arguments(b'{"inputs":"' + b"\\u00e9" * letters + b'"}', "application/json"))["inputs"]) == letters
    assert (threads != [threading.get_ident()]) is aside


@pytest.mark.parametrize("value", [np.zeros(MAX_TEXTS + 1, np.uint8), [np.zeros(MAX_TEXTS // 2, np.uint8)] * 3])
def test_texts_are_counted_before_they_become_objects(value: Any) -> None:
    with pytest.raises(RefusedArgument, match=f"BYTES elements, expected at most {MAX_TEXTS}"):
        to_triton([value], TEXTS, "triton")
    assert to_triton([np.zeros(5, np.uint8)], TEXTS, "triton")[0][1].dtype == np.object_
