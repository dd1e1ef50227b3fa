"""MessagePack of clients that would keep the server busy, or create objects, is refused before it is unpacked."""

from __future__ import annotations

import struct
import time
from typing import Any

import msgpack
import numpy as np
import pytest
from bioengine_contract import message
from bioengine_contract.msgpack_scan import check_structure
from bioengine_server.hypha.envelope import NotAMessage, checked
from bioengine_server.service.tensors import from_triton

HEAD = msgpack.packb({"type": "method", "from": "alice", "to": "*/manager", "method": "services.default.echo"})
MANY = b"\xdf" + struct.pack(">I", 200_000) + b"".join(msgpack.packb(msgpack.Timestamp(n)) + b"\0" for n in range(200_000))
FEW = msgpack.packb({msgpack.Timestamp(2**33, 5): 0, "a": 1})
ODD: dict[str, bytes] = {
    "timestamp": msgpack.packb([msgpack.Timestamp(5)]),
    "long timestamp": msgpack.packb([msgpack.Timestamp(2**33, 5)]),
    "extension": msgpack.packb({"a": msgpack.ExtType(5, b"x")}),
    "timestamp as a key": FEW,
    "number as a key": msgpack.packb({"a": [{5: 1}]}),
    "bytes as a key": msgpack.packb({"a": [{b"_rtype": "ndarray"}]}),
    "list as a key": b"\x81\x91\x01\x01",
    "nothing as a key": msgpack.packb({None: 1}),
}


@pytest.mark.parametrize("data", ODD.values(), ids=ODD)
def test_keys_that_are_no_strings_and_types_of_ones_own_are_refused(data: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        message.decode(data)
    with pytest.raises((ValueError, TypeError)):
        from_triton({"result": np.array([data], np.object_)}, "imjoy", False, False)


@pytest.mark.parametrize("name", [name for name in ODD if name != "bytes as a key"])
def test_an_rpc_message_with_such_is_none(name: str) -> None:
    with pytest.raises(NotAMessage, match="is not MessagePack"):
        checked(HEAD + b"\x81\xa4args\x91" + ODD[name], "ws-user-a/alice")


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16, 17, 256, 65536])
def test_extensions_of_every_format_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="an extension type, such as a timestamp"):
        check_structure(msgpack.packb({"a": msgpack.ExtType(5, b"x" * size)}))


@pytest.mark.parametrize("data", [MANY, b"\xdd\x00\x03\x0d\x40" * 1023, b"\x80" * 50_000_000], ids=["keys", "sizes", "maps"])
def test_what_would_take_long_is_refused_at_once(data: bytes) -> None:
    """200,000 timestamps as keys, which could all have one hash; lists that say that they are long, each within the other."""
    calls: list[Any] = [
        lambda: message.decode(data),
        lambda: checked(HEAD + b"\x81\xa4args\x91" + data, "ws-user-a/alice"),
    ]
    for call in calls:
        begun = time.monotonic()
        with pytest.raises((ValueError, NotAMessage)):
            call()
        assert time.monotonic() - begun < 1
