"""What a client's message may contain (`hypha.envelope`): every forbidden part is refused by name."""

from __future__ import annotations

import struct
from typing import Any

import hypha_rpc.rpc
import imjoy_rpc.hypha.rpc
import msgpack
import pytest
from bioengine_contract import msgpack_scan
from bioengine_contract.library import digest_of
from bioengine_server import library
from bioengine_server.hypha import envelope, function_names
from bioengine_server.hypha.envelope import MessageRefused, NotAMessage, checked, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

SENDER = "ws-user-a/alice"
MAIN = {"type": "method", "from": "alice", "to": "*/manager", "method": "services.default.echo"}


def function(**changes: Any) -> dict[str, Any]:
    return {
        "_rtype": "method",
        "_rtarget": SENDER,
        "_rmethod": "s1.f",
        "_rpromise": True,
        "_rsig": "f(x)",
        "_rdoc": None,
        **changes,
    }


LONG = "aB3dE6gH9jK2mN5pQ8rT1v"
"""Such as the libraries name sessions, and functions in them."""


def promise(session: str = "s1") -> dict[str, Any]:
    parts = {name: function(_rmethod=f"{session}.{name}", _rpromise=False) for name in ("resolve", "reject", "heartbeat")}
    return {**parts, "interval": 1500}


def frame(main: dict[Any, Any] | None = None, body: dict[Any, Any] | None = None) -> bytes:
    packed: bytes = msgpack.packb({**MAIN, **(main or {})}) + (b"" if body is None else msgpack.packb(body))
    return packed


VALID = {
    "nothing more": frame(),
    "arguments": frame({"session": "s1"}, {"args": ["x", 1, None, [2.5], {"a": b"bytes"}], "promise": promise()}),
    "short promise": frame({"session": "s1"}, {"args": [], "promise": "*", "t": 15}),
    "keywords": frame({"session": "s1"}, {"args": [{"a": 1}], "with_kwargs": True}),
    "in one part": frame({"session": "s1", "args": [{"a": 1}], "with_kwargs": True}),
    "array": frame({}, {"args": [{"_rtype": "ndarray", "_rvalue": bytes(4), "_rshape": [4], "_rdtype": "uint8"}]}),
    "own function": frame({}, {"args": [{"progress": function(_rtarget="alice"), "more": [function()]}]}),
    "generator": frame({}, {"args": [function(_rtype="generator", _rclose_method="s1.close")]}),
    "own codec": frame({}, {"args": [{"_rtype": "zarr", "_rvalue": {"x": 1}}]}),
    "nested session": frame({"session": "s1.s2", "parent": "S3"}),
    "whole sender": frame({"from": SENDER}),
    "to another": frame({"to": "ws-user-b/bob"}),
    **{
        f"method {name}": frame({"method": name})
        for name in (
            f"{LONG}.resolve",
            f"{LONG}.{LONG}.reject",
            f"{LONG}.heartbeat",
            f"{LONG}.{LONG}",
            f"{LONG}.{LONG}-<lambda>",
            f"{LONG}.{LONG}#on_progress",
            f"{LONG}.{LONG}:close",
            "services.built-in.message_cache.set",
            "services.a.b.c",
            f"services._rintf_{LONG}.f",
            "services.a._dispose",
            "services.a.__enter__",
        )
    },
    "ordered map": frame({}, {"args": [{"_rtype": "orderedmap", "_rvalue": [["a", 1], ["b", [2]]]}]}),
}


@pytest.mark.parametrize("data", VALID.values(), ids=VALID)
def test_what_clients_send_passes_with_its_envelope_made_anew(data: bytes) -> None:
    message = checked(data, SENDER)
    assert message.main.keys() <= {"type", "to", "method", "session", "parent"}
    again = checked(message.to_frame(), SENDER)
    assert (again.main, again.body) == (message.main, message.body)


PAIRS: list[Any] = [[["_rtype", "method"], ["_rtarget", "ws-user-b/bob"]], [["a", 1], ["_x", 1]], [5], [[1, 2]], [[]]]
REFUSED = {
    **{
        f"{key} in the main part": (frame({key: {"user": {"id": "root"}}}), f"names '{key}'")
        for key in ("ctx", "user", "ws", "roles")
    },
    **{
        f"{key} behind it": (frame({}, {"args": [], key: "*/manager"}), f"names '{key}'")
        for key in ("ctx", "user", "ws", "from", "to", "type", "method", "session", "parent", "data")
    },
    "encrypted": (frame({}, {"_enc": {"v": 2}, "data": b""}), "names '_enc'"),
    "another's name": (frame({"from": "bob"}), "claims to be from 'bob'"),
    "another workspace": (frame({"from": "public/alice"}), "claims to be from 'public/alice'"),
    **{
        f"type {kind}": (frame({"type": kind}), f"its type is '{kind}'") for kind in ("peer_not_found", "error", "connected", "x")
    },
    "to all": (frame({"to": "*"}), r"it is to '\*'"),
    "to all of another": (frame({"to": "ws-user-b/*"}), "it is to"),
    "to a path": (frame({"to": "a/b/c"}), "it is to"),
    "no method": (frame({"method": None}), "its method is None"),
    "method with an escape": (frame({"method": "a\x1b[2J"}), "its method is"),
    **{
        f"method {name}": (frame({"method": name}), "its method is")
        for name in (
            "m" * 501,
            "services",
            "services.a",
            "services..a",
            "services.a.",
            "",
            ".",
            "x",
            LONG,
            "s1.resolve",
            f"{LONG}.resolve.__globals__.sys.modules.os.system",
            f"{LONG}.resolve.constructor",
            f"{LONG}.constructor",
            f"{LONG}.timer.reset",
            f"{LONG}._callback",
            f"{LONG}.{LONG}.hasOwnProperty",
            f"{LONG}.resolve.call",
            "services.a.__class__",
            "services.a.b.__globals__",
            "services._private.f",
            "services.__proto__.f",
            "message_cache.x",
        )
    },
    **{
        f"ordered map of {pairs}": (frame({}, {"args": [{"_rtype": "orderedmap", "_rvalue": pairs}]}), "an ordered map within")
        for pairs in PAIRS
    },
    "object of the library": (frame({}, {"args": [{"__rpc_object__": {"_rmethod": "x"}}]}), "the marker '__rpc_object__'"),
    "promise that waits itself": (
        frame({"session": "s1"}, {"promise": {**promise(), "resolve": function(_rmethod="s1.resolve", _rpromise=True)}}),
        "has a promise itself",
    ),
    **{
        f"session {name}": (frame({"session": name}), "its session is")
        for name in ("services", "services.default", "message_cache")
    },
    "session is a number": (frame({"session": 5}), "its session is 5"),
    "session with a space": (frame({"session": "a b"}), "its session is"),
    "parent services": (frame({"parent": "services.triton-client"}), "its parent is"),
    "args": (frame({}, {"args": {"a": 1}}), "its args are not a list"),
    "with_kwargs": (frame({}, {"args": [], "with_kwargs": True}), "it has no keyword arguments"),
    "with_kwargs of a list": (frame({}, {"args": [[1]], "with_kwargs": True}), "it has no keyword arguments"),
    "with_kwargs is text": (frame({}, {"args": [{}], "with_kwargs": "yes"}), "its with_kwargs is 'yes'"),
    "promise without a session": (frame({}, {"promise": "*", "t": 1}), "a promise and no session"),
    "promise of another session": (frame({"session": "s2"}, {"promise": promise("s1")}), "of its promise is 's1"),
    "promise is text": (frame({"session": "s1"}, {"promise": "x"}), "its promise does not have exactly the parts"),
    "promise has more": (
        frame({"session": "s1"}, {"promise": {**promise(), "x": 1}}),
        "its promise does not have exactly the parts",
    ),
    "promise resolves elsewhere": (
        frame(
            {"session": "s1"},
            {"promise": {**promise(), "resolve": function(_rmethod="s1.resolve", _rtarget="public/bioengine", _rpromise=False)}},
        ),
        "passes on a function of 'public/bioengine'",
    ),
    **{
        f"heartbeat {interval}": (frame({"session": "s1"}, {"promise": {**promise(), "interval": interval}}), "its heartbeat has")
        for interval in (0, -1, True, "1", None, float("nan"), float("inf"))
    },
    "short heartbeat": (frame({"session": "s1"}, {"promise": "*", "t": 0}), "its heartbeat has"),
    "function of another": (
        frame({}, {"args": [{"progress": function(_rtarget="ws-user-b/bob")}]}),
        "a function of 'ws-user-b/bob'",
    ),
    "function of the service": (
        frame({}, {"args": [[function(_rtarget="public/bioengine")]]}),
        "a function of 'public/bioengine'",
    ),
    "function of the manager": (frame({}, {"args": [function(_rtarget="*/manager")]}), r"a function of '\*/manager'"),
    "function of a list": (frame({}, {"args": [function(_rtarget=["alice"])]}), "a function of"),
    "generator of another": (frame({}, {"args": [function(_rtype="generator", _rtarget="bob")]}), "a function of 'bob'"),
    "close of a number": (frame({}, {"args": [function(_rtype="generator", _rclose_method=5)]}), "a function named 5"),
    "function of no name": (frame({}, {"args": [function(_rmethod=None)]}), "a function named None"),
    "function with a strange promise": (frame({}, {"args": [function(_rpromise="x")]}), "the _rpromise of a function"),
    "function with a long signature": (frame({}, {"args": [function(_rsig="(" * 20_001)]}), "the _rsig of a function"),
    "function with a key": (frame({}, {"args": [function(_renc_pub=b"x")]}), "the marker '_renc_pub'"),
    "function as something else": (frame({}, {"args": [function(_rtype="iostream")]}), "of the type 'iostream' names a function"),
    "file of the server": (
        frame({}, {"args": [{"_rtype": "ndarray", "_rfile": "input-0", "_rshape": [1]}]}),
        "the marker '_rfile'",
    ),
    "encryption within": (frame({}, {"args": [{"a": {"_enc": 1}}]}), "the marker '_enc'"),
    "classes": (frame({}, {"args": [{"_rtype": "pydantic_model", "_rvalue": {}}]}), "the type 'pydantic_model'"),
    "type is a map": (frame({}, {"args": [{"_rtype": {}}]}), "the type {}"),
    "bytes as a key": (frame({}, {"args": [{b"_rtype": "method"}]}), "the key '_rtype'"),
    "bytes as a key of the main part": (frame({b"ctx": 1}), "names 'ctx'"),
}


@pytest.mark.parametrize(("data", "said"), REFUSED.values(), ids=REFUSED)
def test_what_says_too_much_is_refused_by_name_and_its_sender_alone_hears_of_it(data: bytes, said: str) -> None:
    with pytest.raises(MessageRefused, match=said) as refused:
        checked(data, SENDER)
    unpacker = msgpack.Unpacker()
    unpacker.feed(refusal(refused.value, SENDER, "manager"))
    answer = unpacker.unpack()
    assert answer["to"] == SENDER and answer["type"] in ("method", "error")
    if answer["type"] == "method":
        assert answer["method"].endswith(".reject") and unpacker.unpack()["args"][0]["_rvalue"] == str(refused.value)


@given(st.binary(max_size=200))
@settings(max_examples=2000)
def test_bytes_are_a_message_or_refused_and_nothing_else_happens(data: bytes) -> None:
    try:
        checked(data, SENDER)
    except (NotAMessage, MessageRefused) as error:
        assert len(str(error)) < 400


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=40) | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=5), inner, max_size=20),
    max_leaves=60,
)


@pytest.mark.extended
@given(VALUES)
@settings(max_examples=500)
def test_the_structure_of_any_message_is_read_as_msgpack_reads_it(value: Any) -> None:
    data = msgpack.packb(value)
    msgpack_scan.check_structure(data)
    msgpack_scan.check_structure(data + data, parts=2)
    with pytest.raises(ValueError, match="more than 1 part"):
        msgpack_scan.check_structure(data + data)
    if len(data) > 1:
        with pytest.raises(ValueError):
            msgpack_scan.check_structure(data[:-1])


@pytest.mark.parametrize("size", [0, 1, 31, 32, 255, 256, 65535, 65536])
def test_the_structure_of_every_format_is_known(size: int) -> None:
    for value in (b"x" * size, "x" * size, [0] * size, {str(n): 0 for n in range(size)}):
        msgpack_scan.check_structure(msgpack.packb(value))


@pytest.mark.parametrize(
    ("item", "most", "said"),
    [(b"\x01", msgpack_scan.MAX_VALUES, "200,000 values"), (b"\x80", msgpack_scan.MAX_CONTAINERS, "20,000 maps and lists")],
)
def test_a_message_of_very_many_values_is_refused_before_memory_and_time_are_taken(item: bytes, most: int, said: str) -> None:
    many = b"\xdd" + struct.pack(">I", most + 1) + item * (most + 1)
    with pytest.raises(ValueError, match=said):
        msgpack_scan.check_structure(many)
    msgpack_scan.check_structure(b"\xdd" + struct.pack(">I", most - 2) + item * (most - 2))
    with pytest.raises(ValueError, match="nested more than"):
        msgpack_scan.check_structure(b"\x91" * 300 + b"\xc0")
    with pytest.raises(MessageRefused, match=said) as refused:
        checked(frame() + b"\x81\xa4args" + many, SENDER)
    assert refused.value.message["method"] == MAIN["method"]
    with pytest.raises(NotAMessage, match=said):
        checked(many, SENDER)


STORE = {
    "services": {"svc": {"call": print, "list": [print], "config": {}, "id": "svc"}},
    "session": {"resolve": print, "timer": object(), "target_id": "x"},
}


@pytest.mark.parametrize(
    "name",
    [
        "session.resolve.__globals__", "session.resolve.__class__", "session.timer.reset", "session.__class__",
        "services.svc.call.__self__",
        "services.svc.keys", "services.svc.list.1", "services.svc.list.-1", "services.svc.list.__len__", "services.get",
        "", ".", "..",
        "services.svc.call.__globals__.__builtins__.eval", "session.target_id.upper", "services.svc.id.0", "0", "session.0",
    ],
)  # fmt: skip
def test_a_name_leads_to_nothing_that_was_not_offered_under_it(name: str) -> None:
    with pytest.raises(KeyError):
        function_names.find(STORE, name)


def test_a_name_leads_to_what_was_offered_under_it() -> None:
    for name in ("services.svc.call", "services.svc.list.0", "session.resolve"):
        assert function_names.find(STORE, name) is print


def test_both_libraries_look_names_up_this_way(tmp_path: Any) -> None:
    from bioengine_server.gateway.rpc import use_offered_names
    from bioengine_server.hypha.rpc_limits import use_limited_rpc

    use_limited_rpc(lambda caller: None)  # type: ignore[arg-type,return-value]
    use_offered_names()
    assert hypha_rpc.rpc.index_object is function_names.find and imjoy_rpc.hypha.rpc.index_object is function_names.find


def test_a_library_that_is_not_the_one_that_was_looked_at_is_refused() -> None:
    known = {"find": (function_names.find, digest_of(function_names.find))}
    library.require("hypha-rpc", "0.21.47", known)
    for version, parts in (
        ("0.21.46", known),
        ("0.21.47", {"find": (function_names.find, "0" * 12)}),
        ("0.21.47", {"find": (None, "")}),
    ):
        with pytest.raises(library.LibraryChanged, match="needs hypha-rpc") as refused:
            library.require("hypha-rpc", version, parts)
        assert "`./bioengine setup --again`" in str(refused.value)
    with pytest.raises(library.LibraryChanged, match="none is installed"):
        library.require("no-such-library", "1", {})


def test_of_an_answer_that_is_refused_the_receiver_hears() -> None:
    """Else whoever waits for it would do so until its own time is up."""
    for main, body in (
        ({"method": f"{LONG}.resolve", "to": "ws-user-b/bob"}, {"args": [function(_rtarget="ws-user-c/carol")]}),
        ({"method": f"{LONG}.resolve", "to": "ws-user-b/bob"}, {"args": [{"_rtype": "pydantic_model"}]}),
    ):
        with pytest.raises(MessageRefused) as refused:
            checked(frame(main, body), SENDER)
        told = envelope.instead(refused.value)
        assert told is not None
        message = checked(told, SENDER)
        assert message.main == {"type": "method", "to": "ws-user-b/bob", "method": f"{LONG}.reject"}
        assert str(refused.value) in message.body["args"][0]["_rvalue"]
    for main in (
        {"method": "services.a.resolve"},
        {"method": "x.resolve"},
        {"method": f"{LONG}.resolve", "to": "*"},
        {"type": "x"},
    ):
        with pytest.raises(MessageRefused) as refused:
            checked(frame(main, {"args": [function(_rtarget="ws-user-c/carol")]}), SENDER)
        assert envelope.instead(refused.value) is None


def test_reserved_sessions_are_those_of_both_libraries() -> None:
    assert envelope.RESERVED_SESSIONS >= {"services", "message_cache"}
