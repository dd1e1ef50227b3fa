"""Smaller parts of the server."""

from __future__ import annotations

import os
import stat
import tracemalloc
from pathlib import Path
from typing import Any

import hypha_rpc.rpc
import numpy as np
import pytest
from bioengine_contract import message
from bioengine_server.access.caller import Caller
from bioengine_server.access.errors import TooLarge
from bioengine_server.dispatch.errors import RefusedArgument
from bioengine_server.errors import StackError, UnsafeFolder
from bioengine_server.gateway.wrap import plain
from bioengine_server.hypha import rpc_limits
from bioengine_server.hypha.errors import WeakSecret
from bioengine_server.hypha.rpc_limits import _last_message, hide_tracebacks
from bioengine_server.hypha.secrets import checked_secret, external_secret, home_secret, new_secret
from bioengine_server.hypha.uploads import Uploads
from bioengine_server.lifecycle import own_home
from bioengine_server.limits import SizeLimit
from bioengine_server.service.infer_options import infer_options
from bioengine_server.service.tensors import from_triton, to_triton
from bioengine_server.settings import Settings
from pydantic import SecretStr

CONFIG = {
    "name": "cellpose-python",
    "input": [{"name": "image", "data_type": "TYPE_FP32"}, {"name": "param", "data_type": "TYPE_STRING"}],
    "output": [{"name": "mask"}, {"name": "info"}],
}


def test_inputs_of_other_triton_models() -> None:
    image = np.zeros((3, 4, 4), np.float32)
    (_, first), (name, second) = to_triton([image, {"diameter": 30}], CONFIG, "triton")
    assert first is image and name == "param" and second[0] == b'{"diameter": 30}'
    assert to_triton([image, "text"], CONFIG, "triton")[1][1][0] == b"text"
    with pytest.raises(TypeError, match=r"'image' is float64; expected float32"):
        to_triton([image.astype(np.float64), "x"], CONFIG, "triton")
    assert to_triton([[image, image], "x"], CONFIG, "triton")[0][1].shape == (2, 3, 4, 4), "a list is stacked"
    with pytest.raises(TypeError, match="'image' is a list of arrays of different shapes"):
        to_triton([[image, image[:1]], "x"], CONFIG, "triton")
    with pytest.raises(TypeError, match="'image' is a int"):
        to_triton([[1], "x"], CONFIG, "triton")
    with pytest.raises(RefusedArgument, match=r"takes a list of 2 \(image, param\), but 1 was given"):
        to_triton([image], CONFIG, "triton")


@pytest.mark.parametrize(
    ("values", "dtype", "told"),
    [
        ((7.0, np.inf), "float64", "no value changes"),
        ((7.0, 0.1), "float64", "its values are rounded to about 6 digits"),
        ((7.0, 1e300, np.nan), "float64", "replace NaN and infinity first"),
        ((7, 2**24 + 1), "int32", "renumber labels of objects from 1"),
        ((7, 8), "int32", "no value changes"),
    ],
)
def test_advice_on_a_large_input_takes_little_memory(values: tuple[float, ...], dtype: str, told: str) -> None:
    """Any client may send them, and all are looked at in the server's own process."""
    array = np.full((3, 1000, 16_000_000 // 3000), values[0], dtype)[:, :, ::2]
    array[0, 0, : len(values)] = values
    tracemalloc.start()
    with pytest.raises(TypeError, match=f"'image' is {dtype}; expected float32.*{told}"):
        to_triton([array, "x"], CONFIG, "triton")
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken <= 6_000_000 < array.nbytes // 4


def test_outputs_of_other_triton_models() -> None:
    outputs = {"mask": np.ones((1, 2, 2), np.uint16), "info": np.array([b'{"n": 1}'], dtype=np.object_)}
    assert from_triton(outputs, "triton", decode_json=True, decode_bytes=False)["info"] == [{"n": 1}]
    assert from_triton(outputs, "triton", decode_json=False, decode_bytes=True)["info"] == ['{"n": 1}']
    assert from_triton(outputs, "triton", decode_json=False, decode_bytes=False)["info"] == [b'{"n": 1}']
    assert from_triton(outputs, "triton", decode_json=False, decode_bytes=False)["mask"].dtype == np.uint16


@pytest.mark.parametrize(
    ("name", "value"),
    [("model_version", "../1"), ("compression_algorithm", "zip"), ("request_id", 5), ("priority", "high"), ("timeout", "1 s")],
)
def test_options_that_are_refused_are_named(name: str, value: Any) -> None:
    with pytest.raises(RefusedArgument, match=f"'{name}' is refused"):
        infer_options(**{name: value})


def test_what_cannot_be_sent_is_refused() -> None:
    config = {"name": "model", "input": [{"name": "kwargs", "data_type": "TYPE_STRING"}]}
    for value in (lambda: 1, np.array([object()])):
        with pytest.raises(RefusedArgument, match="'inputs' is refused"):
            to_triton([{"inputs": [value]}], config, "imjoy")
        with pytest.raises(TypeError, match="cannot be sent"):
            message.encode({"inputs": [value]})


def test_the_size_of_inputs_counts_arrays_wherever_they_are() -> None:
    assert message.size({"inputs": [[np.zeros(100, np.float64)], b"12"]}) >= 802


def test_callers() -> None:
    context: dict[str, Any] = {"user": {"id": "anonymouz-x", "roles": ["anonymous"]}, "ws": "ws-x", "from": "ws-x/client-1"}
    assert Caller.from_context(context) == Caller("anonymouz-x", "ws-x", "client-1", token="")
    assert Caller.from_context(None).token == ""
    context["user"]["roles"] = ["admin", "bioengine-token:12ab"]
    known = Caller.from_context(context)
    assert known.token == "12ab" and Caller.from_context(known.to_context()) == known


def test_clients_get_an_errors_message_alone() -> None:
    def fail() -> None:
        raise RefusedArgument("x", "no:\n  - here\n    at fail (page.js:1)\nReally.")

    import traceback

    try:
        fail()
    except RefusedArgument as error:
        assert _last_message(traceback.format_exc()) == f"RefusedArgument: {error}"


async def test_errors_of_limited_endpoints_are_sent_without_tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of methods that are not asynchronous, whose traceback hypha-rpc puts beside the message."""
    monkeypatch.setattr(rpc_limits.LimitedRPC, "sends_tracebacks", True)
    monkeypatch.setattr(hypha_rpc.rpc, "format_traceback", hypha_rpc.rpc.format_traceback)

    def sent() -> dict[str, Any]:
        rpc = rpc_limits.LimitedRPC(None, client_id="end", workspace="ws")
        try:
            raise TooLarge(5_900_000, SizeLimit(3_000_000), is_all=False)
        except TooLarge as error:
            return dict(rpc._encode([error])[0])

    assert __file__ in sent()["_rtrace"], "as with BIOENGINE_DEBUG"
    hide_tracebacks()
    assert sent() == {"_rtype": "error", "_rvalue": str(TooLarge(5_000_000, SizeLimit(3_000_000), is_all=False)), "_rtrace": ""}


async def test_an_unfinished_upload_that_is_too_large_is_not_said_to_be_all() -> None:
    uploads = Uploads(forget=lambda key: None)
    uploads.open("ws/client", "key", SizeLimit(1_500_000))
    with pytest.raises(TooLarge, match="The inputs are more than 2 MB, but this server takes at most 2 MB"):
        for _ in range(3):
            uploads.grow("ws/client", "key", bytes(900_000))


async def test_objects_of_one_rpc_library_become_plain_ones() -> None:
    class Remote(dict):
        pass

    async def method(value: int, callback: Any = None) -> Any:
        assert not hasattr(callback, "__rpc_object__")
        return Remote(result=await callback(value))

    def callback(value: int) -> int:
        return value + 1

    method.__rpc_object__ = callback.__rpc_object__ = {"_rtarget": "x"}  # type: ignore[attr-defined]
    service = plain(Remote(method=method, nested=[Remote(method=method)]))
    assert type(service) is dict and not hasattr(service["method"], "__rpc_object__")
    assert await service["nested"][0]["method"](1, callback=callback) == {"result": 2}


def test_a_secret_is_made_once_and_must_be_private(tmp_path: Path) -> None:
    first = home_secret(tmp_path, "x")
    assert len(first) >= 32 and home_secret(tmp_path, "x") == first != home_secret(tmp_path, "y")
    file = tmp_path / "secrets" / "x"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    with pytest.raises(StackError, match="chmod 600"):
        home_secret(tmp_path, "x")
    file.chmod(0o600)
    file.write_text("short")
    with pytest.raises(WeakSecret, match=r"too short.*Remove the file"):
        home_secret(tmp_path, "x")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "is missing"),
        ("a1b2c3d4" * 3, "too short"),
        ("change-me-" * 5, "is used in examples"),
        ("Change_This_In_Production_0123-4567-89ab", "is used in examples"),
        ("my very long secret, which nobody will ever find", "is used in examples"),
        ("PaSsWoRd-PaSsWoRd-PaSsWoRd-PaSsWoRd", "is used in examples"),
        ("abababababababababababababababababab", "repeats the same few characters"),
        ("0" * 64, "repeats the same few characters"),
    ],
)
def test_a_secret_that_others_can_guess_is_refused(value: str, reason: str) -> None:
    with pytest.raises(WeakSecret, match=rf"^THE_SECRET .*{reason}.*at least 32 characters.* Make another.$"):
        checked_secret("THE_SECRET", value, "Make another.")
    settings = Settings(triton="http://triton:8000", triton_secret=SecretStr(value))
    with pytest.raises(StackError, match=rf"BIOENGINE_TRITON_SECRET .*{reason}.*token_urlsafe"):
        external_secret(settings)


def test_secrets_that_are_made_are_good_ones() -> None:
    for _ in range(200):
        assert checked_secret("x", new_secret(), "")


def test_a_run_dir_of_somebody_else_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    link = tmp_path / "run"
    link.symlink_to(target)
    with pytest.raises(UnsafeFolder, match="is not a folder"), own_home(Settings(home=tmp_path / "home", run_dir=link)):
        pass
    if os.getuid() == 0:
        other = tmp_path / "other"
        other.mkdir()
        os.chown(other, 12345, 12345)
        with (
            pytest.raises(UnsafeFolder, match="belongs to another user"),
            own_home(Settings(home=tmp_path / "home", run_dir=other)),
        ):
            pass


def test_flags_win_over_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BIOENGINE_PORT", "1234")
    monkeypatch.setenv("BIOENGINE_OFFLINE", "1")
    assert Settings().port == 1234 and Settings(port=5).port == 5 and Settings().offline is True
    assert Settings(home=Path("~/x")).home == Path.home() / "x"


def test_clients_are_told_another_address_than_the_one_to_bind() -> None:
    assert Settings().url == Settings().advertised_url == "http://127.0.0.1:9520"
    container = Settings(listen="0.0.0.0", host="192.0.2.7", port=80)
    assert (container.bind_address, container.url, container.advertised_url) == (
        "0.0.0.0",
        "http://127.0.0.1:80",
        "http://192.0.2.7:80",
    )
    assert Settings(listen="0.0.0.0", public_url="https://bioengine.lab/").advertised_url == "https://bioengine.lab"
    assert Settings(host="0.0.0.0").advertised_url == "http://127.0.0.1:9520"
    with pytest.raises(ValueError, match=r"https://bioengine\.lab"):
        Settings(public_url="bioengine.lab")
