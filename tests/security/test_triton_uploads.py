"""Bodies that come slowly through `/triton` hold no model's place, and large ones are kept in a file until they are complete."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from bioengine_server.access.errors import BadBody
from bioengine_server.http import received_body as received
from bioengine_server.http.received_body import Received
from bioengine_server.http.triton_tensors import Segment, counted

from tests.security.witness import Witness

SEASHELL = "conscientious-seashell"


async def parts(data: bytes, step: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), step):
        yield data[at : at + step]


@pytest.mark.parametrize("size", [0, 5, received._STEP, received._IN_MEMORY, received._IN_MEMORY + 1, 3 * received._IN_MEMORY])
@pytest.mark.parametrize("step", [70_001, 5 << 20])
async def test_a_body_comes_out_as_it_came_in(tmp_path: Path, size: int, step: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    with Received(tmp_path) as body:
        await body.take(counted(parts(data, step), [Segment("image", size)]))
        assert body.size == size
        assert b"".join([part async for part in body.read()]) == data
        file: Any = body._file
        assert file._rolled == (size > received._IN_MEMORY)
        assert not list(tmp_path.iterdir()), "the file has no name that could stay behind"


async def test_a_body_that_is_wrong_is_not_complete(tmp_path: Path) -> None:
    with pytest.raises(BadBody), Received(tmp_path) as body:
        await body.take(counted(parts(bytes(100), 10), [Segment("image", 200)]))


def test_slow_uploads_keep_no_model_from_others(witness: Witness) -> None:
    size = 100_000_000
    spec = {"name": "image", "datatype": "FP32", "shape": [1, 1, 1, size // 4], "parameters": {"binary_data_size": size}}
    header = json.dumps({"inputs": [spec]}).encode()
    with contextlib.ExitStack() as uploads:
        for model in [SEASHELL] * 6 + ["label-doubler", "two-inputs"] * 3:
            connection = uploads.enter_context(socket.create_connection(("127.0.0.1", witness.stack.port), 30))
            connection.sendall(
                f"POST /triton/v2/models/{model}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(header) + size}\r\n"
                f"Inference-Header-Content-Length: {len(header)}\r\n\r\n".encode()
                + header
                + bytes(50_000)
            )
        time.sleep(1)
        begun = time.monotonic()
        witness.is_right(witness.client)
        assert time.monotonic() - begun < 10
