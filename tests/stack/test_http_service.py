"""`triton-client` over plain HTTP: what is wrong comes back as JSON with a 4xx that says so."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import msgpack
import numpy as np
import pytest
import requests
from bioengine_contract.version import VERSION

from tests.stack.harness import RUNNER, Stack

SERVICE = "/public/services/triton-client"
MSGPACK, JSON = "application/msgpack", "application/json"


def post(stack: Stack, data: bytes, kind: str = MSGPACK, method: str = "execute", **headers: str) -> requests.Response:
    headers = {"Content-Type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return requests.post(f"{stack.url}{SERVICE}/{method}", data=data, headers=headers, timeout=60)


def refused(answer: requests.Response, status: int = 400) -> str:
    """The text of an error, whose form is the same for all."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == JSON
    document = answer.json()
    assert document["success"] is False and document["error"] == document["detail"]
    text: str = document["error"]
    assert text and "Traceback" not in text and ".py" not in text
    return text


def packed(arguments: Any, kind: str) -> bytes:
    return json.dumps(arguments).encode() if kind == JSON else bytes(msgpack.packb(arguments))


def array(data: bytes, shape: Any, dtype: str, kind: str) -> dict[str, Any]:
    value = base64.b64encode(data).decode() if kind == JSON else data
    return {"_rtype": "ndarray", "_rvalue": value, "_rshape": shape, "_rdtype": dtype}


def test_both_spellings_of_the_list_of_services_answer_at_once(stack: Stack) -> None:
    answers = [requests.get(f"{stack.url}/public/services{end}", allow_redirects=False) for end in ("", "/", "?x=1", "/?x=1")]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert all(answer.json() == answers[0].json() for answer in answers)
    assert any(service["id"].endswith(":triton-client") for service in answers[0].json())


def test_liveness(stack: Stack) -> None:
    assert requests.get(f"{stack.url}/health/liveness").json() == {"status": "OK", "version": VERSION}
    assert requests.get(f"{stack.url}/health/readiness").json() == {"status": "OK", "version": VERSION, "workers": 1}


@pytest.mark.parametrize("kind", [MSGPACK, JSON])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "'model_name' is refused: it is missing"),
        ({"model_name": "no-such-model"}, "this server's Triton has no model 'no-such-model'"),
        ({"model_name": "../counter"}, "'model_name' is refused"),
        ({"model_name": "stats"}, "'model_name' is refused"),
        ({"model_name": 5}, "'model_name' is refused"),
        ({"model_name": {"a": []}}, "'model_name' is refused"),
        ({"model_name": RUNNER, "serialization": "pickle"}, "'pickle' is not 'imjoy' or 'triton'"),
        ({"model_name": RUNNER, "serialization": ["imjoy"]}, "'serialization' is refused"),
        ({"model_name": RUNNER, "inputs": [msgpack.packb({"operation": "load"}).hex()]}, "accepts 'imjoy' only"),
        ({"model_name": RUNNER, "serialization": "triton", "inputs": []}, "accepts 'imjoy' only"),
        ({"model_name": RUNNER, "serialization": "imjoy", "inputs": 5}, "expected a list with one dict"),
        ({"model_name": RUNNER, "server_url": "http://127.0.0.1:8000"}, "'server_url' is refused"),
        ({"model_name": RUNNER, "wieght_format": "onnx"}, "'wieght_format' is refused: there is no such argument"),
        ({"model_name": RUNNER, "self": 1}, "'self' is refused: there is no such argument"),
        ({"model_name": "counter", "inputs": []}, "the model 'counter' takes a list of 1 (value), but 0 were given"),
        ({"model_name": "counter", "inputs": [1, 2]}, "the model 'counter' takes a list of 1 (value), but 2 were given"),
        ({"model_name": "counter", "inputs": ["text"]}, "Input 'value' is a str; expected an array of float32"),
        ({"model_name": "counter", "model_version": "x"}, "'x' is not a number"),
        ({"model_name": "counter", "timeout": "soon"}, "'soon' is not a whole number"),
        ({"model_name": "cellpose-like", "inputs": [[]], "select_outputs": ["flow"]}, "['flow'] is not a list out of mask, info"),
    ],
    ids=str,
)
def test_a_refused_argument_is_named(stack: Stack, arguments: dict[str, Any], words: str, kind: str) -> None:
    assert words in refused(post(stack, packed(arguments, kind), kind))


@pytest.mark.parametrize("kind", [MSGPACK, JSON])
def test_what_triton_refuses_is_a_4xx_in_its_words(stack: Stack, kind: str) -> None:
    """A wrong number of axes; and no sequence, which is Triton's own matter."""
    flat = array(bytes(16), [2, 2], "float32", kind)
    answer = post(stack, packed({"model_name": "cellpose-like", "inputs": [flat, {}]}, kind), kind)
    assert refused(answer).startswith("unexpected shape for input 'image' for model 'cellpose-like'. Expected [-1,-1,-1]")
    one = array(bytes(4), [1, 1], "float32", kind)
    answer = post(stack, packed({"model_name": "counter", "inputs": [one]}, kind), kind)
    assert "must specify a non-zero or non-empty correlation ID" in refused(answer)


def test_what_a_models_own_code_raises_is_told_without_its_place(stack: Stack) -> None:
    lost = {"model_name": "cellpose-like", "inputs": [array(b"", [0, 4, 4], "float32", MSGPACK), {}]}
    assert "index 0 is out of bounds" in refused(post(stack, packed(lost, MSGPACK)))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"_rshape": [5]}, "cannot have 4 bytes"),
        ({"_rshape": [-4]}, "is not a list of at most 32 sizes"),
        ({"_rshape": None}, "needs _rvalue (bytes) and _rshape (a list)"),
        ({"_rdtype": "O"}, "the dtype 'O' is not one of"),
        ({"_rvalue": None}, "needs _rvalue (bytes) and _rshape (a list)"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [MSGPACK, JSON])
def test_an_array_that_is_not_what_it_says_is_refused(stack: Stack, given: dict[str, Any], problem: str, kind: str) -> None:
    value = {**array(b"1234", [4], "uint8", kind), **given}
    assert problem in refused(post(stack, packed({"inputs": [value], "model_name": "counter"}, kind), kind))


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"words", MSGPACK, "cannot be read as application/msgpack"),
        (b"\xc1", MSGPACK, "cannot be read as application/msgpack"),
        (b"\x81\xa1a", MSGPACK, "cannot be read as application/msgpack"),
        (b"\x91" * 10_000, MSGPACK, "cannot be read as application/msgpack"),
        (b"\xdd\xff\xff\xff\xff", MSGPACK, "cannot be read as application/msgpack"),
        (b"\x90", MSGPACK, "it is not an object with arguments; send one object"),
        (b"\x81\x05\x06", MSGPACK, "cannot be read as application/msgpack"),
        (b"\x81\xc4\x01a\x06", MSGPACK, "cannot be read as application/msgpack"),
        (b"words", JSON, "cannot be read as application/json"),
        (b"{", JSON, "cannot be read as application/json"),
        (b"[" * 100_000, JSON, "cannot be read as application/json"),
        (b"\xff\xfe", JSON, "cannot be read as application/json"),
        (b'{"a": ' + b"9" * 5000 + b"}", JSON, "cannot be read as application/json"),
        (b'{"a": {"_rtype": "ndarray", "_rvalue": "?", "_rshape": [1], "_rdtype": "uint8"}}', JSON, "cannot be read as"),
        (b"[]", JSON, "it is not an object with arguments; send one object"),
        (b"null", JSON, "it is not an object with arguments; send one object"),
        (b"a=1", "application/x-www-form-urlencoded", "its Content-Type is 'application/x-www-form-urlencoded', expected"),
        (b"{}", "text/plain", "its Content-Type is 'text/plain', expected application/msgpack or application/json"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_body_that_cannot_be_read_is_refused_with_the_reason(stack: Stack, body: bytes, kind: str, words: str) -> None:
    assert words in refused(post(stack, body, kind))


@pytest.mark.parametrize(
    ("body", "encoding", "words"),
    [
        (b"words", "gzip", "it is not gzip"),
        (gzip.compress(bytes(1000))[:-9], "gzip", "it is not complete"),
        (gzip.compress(b"{}"), "deflate", "it is not deflate"),
        (b"{}", "br", "its Content-Encoding 'br' is not gzip, deflate or identity"),
        (gzip.compress(b"{}"), "gzip, gzip", "is not gzip, deflate or identity"),
    ],
)
def test_a_body_that_cannot_be_unzipped_is_refused(stack: Stack, body: bytes, encoding: str, words: str) -> None:
    assert words in refused(post(stack, body, JSON, Content_Encoding=encoding))


def test_the_kinds_names_may_be_spelled_as_http_allows(stack: Stack) -> None:
    arguments = {"model_name": "counter"}
    for kind, decode in (("Application/MsgPack", msgpack.unpackb), ("application/json; charset=utf-8", json.loads)):
        data = packed(arguments, MSGPACK if "Pack" in kind else JSON)
        answer = post(stack, data, kind, "get_config")
        assert answer.status_code == 200 and decode(answer.content)["name"] == "counter"


@pytest.mark.parametrize(
    ("method", "name"), [("GET", "execute"), ("PUT", "execute"), ("DELETE", "execute"), ("PUT", "get_config")]
)
def test_other_methods_are_405(stack: Stack, method: str, name: str) -> None:
    answer = requests.request(method, f"{stack.url}{SERVICE}/{name}", params={"model_name": "counter"})
    assert refused(answer, 405).startswith(f"Method {method} is not allowed for {SERVICE}/{name}; use ")


def test_get_config_by_get_and_by_post(stack: Stack) -> None:
    url = f"{stack.url}{SERVICE}/get_config"
    asked = requests.get(url, params={"model_name": "conscientious-seashell"})
    assert asked.headers["Content-Type"] == JSON and asked.json()["input"][0]["dims"] == [-1, 3, -1, -1]
    assert asked.json()["server_url"] == f"{stack.url}/triton" and asked.json()["model_name"] == "conscientious-seashell"
    arguments = {"model_name": "conscientious-seashell"}
    assert post(stack, packed(arguments, JSON), JSON, "get_config").json() == asked.json()
    assert msgpack.unpackb(post(stack, packed(arguments, MSGPACK), MSGPACK, "get_config").content) == asked.json()
    assert "it is missing" in refused(requests.get(url))
    assert "No model 'no-such-model' on this server" in refused(requests.get(url, params={"model_name": "no-such-model"}))
    assert "'server_url' is refused" in refused(requests.get(url, params={"model_name": "counter", "server_url": "x"}))


def test_get_status_by_get_and_by_post(stack: Stack) -> None:
    with stack.client() as client:
        assert client.run("conscientious-seashell", [np.zeros((1, 3, 64, 64), np.float32)])["success"] is True
        assert client.triton.get_status()["version"] == VERSION
    asked = requests.get(f"{stack.url}{SERVICE}/get_status").json()
    assert asked["version"] == VERSION and asked["ready"] is True
    assert asked["requests"].keys() == {"waiting", "running"}
    models = {model["name"]: model for model in asked["models"]}
    assert "bioengine-probe" not in models
    model = models["conscientious-seashell"]
    assert model["weight_format"] and model["device"] == "cpu" and 0 <= model["idle"] < 60
    for kind, decode in ((JSON, json.loads), (MSGPACK, msgpack.unpackb)):
        assert decode(post(stack, packed({}, kind), kind, "get_status").content).keys() == asked.keys()
    assert "The method takes no arguments" in refused(requests.get(f"{stack.url}{SERVICE}/get_status", params={"verbose": "1"}))


@pytest.mark.parametrize("header", ["Bearer not.a.token", "Bearer", "Basic dXNlcjpwYXNz", "token"])
def test_a_token_that_is_none_is_401(stack: Stack, header: str) -> None:
    for path in (f"{SERVICE}/get_config?model_name=counter", "/triton/v2/models/counter"):
        answer = requests.get(stack.url + path, headers={"Authorization": header})
        assert "The token is not valid" in refused(answer, 401)


def test_numbers_that_json_has_not_are_null(stack: Stack) -> None:
    """The model tells its parameters again."""
    image = array(bytes(4), [1, 1, 1], "float32", JSON)
    arguments = {"model_name": "cellpose-like", "inputs": [image, {"a": [float("inf")], "b": float("nan")}], "decode_json": True}
    answer = json.loads(post(stack, packed(arguments, JSON), JSON).content, parse_constant=pytest.fail)
    assert answer["info"][0]["parameters"] == {"a": [None], "b": None}


def test_who_calls_is_not_for_the_caller_to_say(stack: Stack) -> None:
    """`context` is the server's own word; as an argument it changes nothing."""
    arguments = {"model_name": "counter", "context": {"user": {"id": "root"}, "from": "public/root", "ws": "public"}}
    assert post(stack, packed(arguments, MSGPACK), MSGPACK, "get_config").status_code == 200
