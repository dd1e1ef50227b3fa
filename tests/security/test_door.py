"""Hosts and origins on a running server: other names, pages of other sites, and what answers reveal about the server."""

from __future__ import annotations

import http.client
import json
import socket
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from bioengine_contract import message
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.clients.browser import installed, run_page
from tests.stack.harness import RUNNER, Stack, example_input, wait_for
from tests.stack.raw import GENERATIONS, RawClient
from tests.tiers import cases

STRANGER = "https://evil.example"
EXECUTE = "/public/services/triton-client/execute"
GET_CONFIG = "/public/services/triton-client/get_config?model_name=counter"
INFER = "/triton/v2/models/cellpose-like/infer"


def ask(stack: Stack, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes, http.client.HTTPMessage]:
    """Status, body and headers of the answer to exactly these headers."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=60)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def execution(packages: Path) -> dict[str, Any]:
    inputs = [message.represent(array) for array in example_input(packages, "conscientious-seashell")]
    request = {"model_id": "conscientious-seashell", "inputs": inputs}
    return {"inputs": [request], "model_name": RUNNER, "serialization": "imjoy"}


def inference() -> tuple[bytes, dict[str, str]]:
    """A request in Triton's own protocol, as a page sends it without being asked whether it may."""
    given = {"name": "image", "shape": [1, 2, 2], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}
    return json.dumps({"inputs": [given]}).encode(), {"Content-Type": "text/plain"}


@pytest.fixture(scope="module", autouse=True)
def loaded(stack: Stack, packages: Path) -> None:
    """The models that are attacked have run once."""
    with stack.client() as client:
        assert client.run("conscientious-seashell", example_input(packages, "conscientious-seashell"))["success"]
    assert ask(stack, "POST", INFER, inference()[0])[0] == 200


def runs(stack: Stack) -> int:
    """How many runs of these models Triton has counted."""
    return sum(stack.statistics(model)["inference_count"] for model in ("conscientious-seashell", "cellpose-like"))


REBOUND = [
    "evil.example",
    "evil.example:9520",
    "localhost.evil.example",
    "evil.example@localhost",
    "127.0.0.1.",
    "10.1.2.3",
    "0.0.0.0",
]


@pytest.mark.parametrize("host", REBOUND)
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/health/readiness"), ("GET", GET_CONFIG), ("POST", EXECUTE), ("POST", INFER)]
)
def test_a_name_that_was_made_to_point_here_gets_nothing(
    stack: Stack, token_stack: Stack, method: str, path: str, host: str
) -> None:
    for server in (stack, token_stack):
        status, body, _ = ask(server, method, path, Host=host)
        assert status == 421
        assert repr(host) in json.loads(body)["error"] and "BIOENGINE_ALLOW_HOSTS" in json.loads(body)["error"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9520", "127.0.0.1", "[::1]", "[::1]:1"])
def test_the_names_of_loopback_are_the_server_s(stack: Stack, host: str) -> None:
    assert ask(stack, "GET", "/health/liveness", Host=host)[0] == 200


@pytest.mark.parametrize("hosts", [(), ("localhost", "localhost"), ("localhost", "evil.example")])
def test_a_request_names_one_host(stack: Stack, hosts: tuple[str, ...]) -> None:
    for protocol, connection in (("1.1", ""), ("1.0", "Connection: close\r\n")):
        with socket.create_connection(("127.0.0.1", stack.port), timeout=10) as raw:
            lines = "".join(f"Host: {host}\r\n" for host in hosts)
            raw.sendall(f"GET /health/liveness HTTP/{protocol}\r\n{lines}{connection}\r\n".encode())
            assert raw.recv(1000).split(b" ")[1] in (b"400", b"421")


def test_the_address_in_the_request_line_is_no_way_around(stack: Stack) -> None:
    for target in ("http://localhost/health/liveness", "//localhost/health/liveness", "evil.example:80"):
        with socket.create_connection(("127.0.0.1", stack.port), timeout=10) as raw:
            raw.sendall(f"GET {target} HTTP/1.1\r\nHost: evil.example\r\n\r\n".encode())
            assert raw.recv(1000).startswith(b"HTTP/1.1 421 ")


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("host", ["evil.example", "evil.example@localhost", "10.1.2.3:9520"])
def test_a_websocket_of_another_name_is_refused(stack: Stack, generation: str, host: str) -> None:
    query = "?client_id=x" if generation == "imjoy-rpc" else ""
    for origin in (None, f"http://{host}", "https://bioimage.io"):
        with socket.create_connection(("127.0.0.1", stack.port)) as raw, pytest.raises(InvalidStatus) as refused:
            # The library takes the Host from the address.
            connect(f"ws://{host.replace('@', '.')}/ws{query}", sock=raw, origin=origin)  # type: ignore[arg-type]
        assert refused.value.response.status_code == 403
        assert "BIOENGINE_ALLOW_HOSTS" in json.loads(refused.value.response.body)["error"]


@pytest.mark.parametrize("origin", [STRANGER, "null", "http://bioimage.io", "http://localhost.evil.example"])
def test_a_stranger_s_simple_requests_run_nothing(stack: Stack, packages: Path, origin: str) -> None:
    """What browsers send without asking first: bodies without a type or as text, and everything that is a GET."""
    before = runs(stack)
    infer, plain = inference()
    simple: list[tuple[str, str, bytes, dict[str, str]]] = [
        ("POST", EXECUTE, json.dumps(execution(packages), default=lambda data: "").encode(), {}),
        ("POST", EXECUTE, msgpack.packb(execution(packages)), {"Content-Type": "text/plain"}),
        ("POST", EXECUTE, msgpack.packb(execution(packages)), {"Content-Type": "application/msgpack"}),
        ("POST", INFER, infer, plain),
        ("POST", INFER, infer, {}),
        ("GET", GET_CONFIG, b"", {}),
        ("GET", "/triton/v2/models/counter/config", b"", {}),
        ("GET", "/public/services", b"", {}),
        ("OPTIONS", EXECUTE, b"", {"Access-Control-Request-Method": "POST"}),
    ]
    for method, path, body, headers in simple:
        status, content, answered = ask(stack, method, path, body, Origin=origin, **headers)
        assert status == 403, (method, path)
        assert repr(origin) in json.loads(content)["error"] and "BIOENGINE_ALLOW_ORIGINS" in json.loads(content)["error"]
        assert "Access-Control-Allow-Origin" not in answered
    # What a browser asks for without an origin, such as for an image.
    for mode in ("no-cors", "navigate"):
        assert ask(stack, "GET", GET_CONFIG, **{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": mode})[0] == 403  # type: ignore[arg-type]
    assert runs(stack) == before


@pytest.mark.parametrize(
    "origin", ["http://localhost:8888", "https://bioimage.io", "https://slides.imjoy.io", "https://piximi.app"]
)
def test_pages_that_may_are_answered_as_before(stack: Stack, packages: Path, origin: str) -> None:
    before = runs(stack)
    body = msgpack.packb(execution(packages))
    status, content, headers = ask(stack, "POST", EXECUTE, body, Origin=origin, Content_Type="application/msgpack")
    assert status == 200 and message.decode(content)["result"]["success"]
    assert headers["Access-Control-Allow-Origin"] == origin
    assert ask(stack, "GET", GET_CONFIG, Origin=origin, **{"Sec-Fetch-Site": "cross-site"})[0] == 200  # type: ignore[arg-type]
    assert runs(stack) == before + 1
    infer, plain = inference()
    assert ask(stack, "POST", INFER, infer, Origin=origin, **plain)[0] == 200
    assert runs(stack) == before + 2


@pytest.mark.parametrize("origin", [STRANGER, "null"])
def test_a_stranger_s_websocket_of_hypha_rpc_is_told_why(stack: Stack, origin: str) -> None:
    with connect(f"ws://127.0.0.1:{stack.port}/ws", origin=Origin(origin)) as websocket:
        told = json.loads(websocket.recv(10))
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(10)
    assert told["type"] == "error" and repr(origin) in told["message"] and "BIOENGINE_ALLOW_ORIGINS" in told["message"]
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008


@pytest.mark.parametrize("origin", [STRANGER, "null"])
def test_a_stranger_s_calls_with_imjoy_rpc_are_answered_with_the_reason(stack: Stack, origin: str) -> None:
    before = runs(stack)
    with pytest.raises(RuntimeError, match="BIOENGINE_ALLOW_ORIGINS"):
        RawClient(stack, "imjoy-rpc", headers={"Origin": origin})
    assert runs(stack) == before


@pytest.mark.parametrize("generation", GENERATIONS)
def test_websockets_of_pages_that_may_run_models(stack: Stack, packages: Path, generation: str) -> None:
    image = message.represent(example_input(packages, "conscientious-seashell")[0])
    for origin in ("https://bioimage.io", "http://127.0.0.1:8888", stack.url):
        with RawClient(stack, generation, client_id="page", headers={"Origin": origin}) as page:
            assert page.execute(image)["success"]


PAGE = """<!doctype html>
<meta charset="utf-8">
<script src="https://cdn.jsdelivr.net/npm/{name}@{version}/dist/hypha-rpc-websocket.min.js"></script>
<script type="module">
const url = "http://127.0.0.1:9520", found = {{}};
const tried = async (name, what) => {{
  try {{ found[name] = "got " + JSON.stringify(await what()); }} catch (error) {{ found[name] = String(error.message ?? error); }}
}};
const connect = (window.hyphaWebsocketClient).connectToServer;
await tried("library", async () => {{
  const server = await connect({{ server_url: url, method_timeout: 20 }});
  const triton = await server.getService("triton-client");
  return (await triton.get_config({{ model_name: "counter", _rkwargs: true }})).name;
}});
await tried("read", async () => await (await fetch(`${{url}}/health/readiness`)).text());
await tried("blind", async () => (await fetch(`${{url}}{infer}`, {{ method: "POST", mode: "no-cors", body: '{body}' }})).type);
await tried("image", () => new Promise((resolve, reject) => {{
  const image = new Image();
  image.onload = image.onerror = () => resolve("an event");
  image.src = `${{url}}{config}`;
}}));
window.report = found;
</script>
"""


@pytest.mark.parametrize("library", cases(["imjoy-rpc-newest", "hypha-rpc"], core=["imjoy-rpc-newest"]))
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1"])
def test_a_page_in_a_browser(stack: Stack, host: str, library: str) -> None:
    """A stranger's page gets nothing and can show why; one of this machine works."""
    name, number = installed(library)
    body, _ = inference()
    page = PAGE.format(name=name, version=number, infer=INFER, config=GET_CONFIG, body=body.decode())
    before = runs(stack)
    found = run_page(page, stack, host=host)["result"]
    if host == "127.0.0.1":
        assert found["library"] == 'got "counter"' and found["read"].startswith("got "), found
        wait_for(lambda: runs(stack) > before, 10, "its request was run")
    else:
        assert "may not use this server" in found["library"] and "BIOENGINE_ALLOW_ORIGINS" in found["library"], found
        assert not found["read"].startswith("got "), found
        assert runs(stack) == before


def test_a_page_of_a_name_that_was_made_to_point_here(stack: Stack) -> None:
    """The page's own server and this one have the same name for the browser, as after DNS rebinding."""
    page = """<script type="module">
    const found = {};
    const socket = new WebSocket("ws://evil.example:PORT/ws");
    found.websocket = await new Promise((resolve) => {
      socket.onopen = () => resolve("open");
      socket.onerror = () => resolve("refused");
    });
    try { found.read = await (await fetch("http://evil.example:PORT/public/services")).text(); } catch { found.read = "refused"; }
    window.report = found;
    </script>""".replace("PORT", str(stack.port))
    assert run_page(page, stack, host="evil.example")["result"] == {"websocket": "refused", "read": "refused"}


def test_answers_name_no_version(stack: Stack, token_stack: Stack) -> None:
    secrets = [version(package) for package in ("hypha", "uvicorn", "starlette", "websockets", "fastapi")] + ["2.51", "uvicorn"]
    paths = [
        "/health/liveness", "/health/readiness", "/public/services", "/public/services/triton-client", "/no", "/openapi.json",
        "/docs", "/", "/triton/v2", "/triton/v2/health/live", "/triton/v2/models/none/config", "/triton/v2/logging", GET_CONFIG,
        "/ws",
    ]  # fmt: skip
    for server in (stack, token_stack):
        for method in ("GET", "POST", "OPTIONS", "TRACE"):
            for path in paths:
                status, body, headers = ask(server, method, path)
                assert not {"Server", "X-Powered-By", "Via"} & set(headers), (path, status)
                assert headers["X-Content-Type-Options"] == "nosniff"
                assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
                said = body.decode(errors="replace") + str(headers)
                assert not [secret for secret in secrets if secret in said], (path, said)


def test_refused_handshakes_name_no_version(stack: Stack) -> None:
    for path, status in (("/ws/", 403), ("/public/ws", 403)):
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{stack.port}{path}")
        assert refused.value.response.status_code == status and "Server" not in refused.value.response.headers
    # A handshake that is none is answered before anything of ours sees it.
    handshake = (
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 1\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", stack.port), timeout=10) as raw:
        raw.sendall(handshake.encode())
        answer = raw.recv(2000)
    assert b" 426 " in answer or b" 400 " in answer
    assert b"\r\nserver:" not in answer.lower() and version("websockets").encode() not in answer


def test_clients_are_not_told_hypha_s_version(stack: Stack) -> None:
    with connect(f"ws://127.0.0.1:{stack.port}/ws", user_agent_header=None) as websocket:
        websocket.send(json.dumps({"client_id": "curious"}))
        info = websocket.recv(10)
        assert "Server" not in (websocket.response.headers if websocket.response else {})
    assert json.loads(info)["type"] == "connection_info" and version("hypha") not in str(info)
    with RawClient(stack, "imjoy-rpc") as legacy:
        assert version("hypha") not in str(legacy.call("services.default.get_connection_info"))


def test_the_log_says_once_who_was_refused(stack: Stack) -> None:
    origin = "https://said-once.example"
    for _ in range(3):
        ask(stack, "GET", "/health/liveness", Origin=origin)
    wait_for(lambda: origin in stack.log, 5, "the refusal is in the log")
    assert stack.log.count(origin) == 1
    # A refused handshake is no error of the server's.
    with socket.create_connection(("127.0.0.1", stack.port)) as raw, pytest.raises(InvalidStatus):
        connect("ws://evil.example/ws", sock=raw)
    assert " ERROR " not in stack.log


def test_what_a_client_names_forges_no_line_of_the_log(stack: Stack) -> None:
    """Line breaks, terminal escapes and hidden characters, wherever a client can put them; and a name of 200 kB."""
    forged = "x\n2026-01-01 00:00:00,000 INFO bioengine_server: forged \x1b[2J\x9b31m\u202e\u2028\r" + "y" * 200_000
    client_id = "curious"
    with RawClient(stack, "hypha-rpc", client_id) as client:
        for name, value in (("model_name", forged), ("serialization", forged)):
            with pytest.raises(RuntimeError):
                client.call(f"{client.service}.execute", inputs=[], **{name: value})  # type: ignore[arg-type]
        request = {"model_id": forged, "inputs": [message.represent(np.zeros(2))]}
        client.call(f"{client.service}.execute", inputs=[request], model_name=RUNNER, serialization="imjoy")
    for query in ("client_id=x%0Aforged%1b[2J", "client_id=a&token=x%0Aforged%1b[2J", "client_id=a&workspace=x%0Aforged%1b[2J"):
        with pytest.raises((InvalidStatus, RuntimeError, ConnectionClosed)):
            RawClient(stack, "imjoy-rpc", query=query)
    ask(stack, "GET", "/x%0Aforged%1b[2J")
    ask(stack, "GET", "/triton/v2/models/x%0Aforged%1b[2J/config")
    ask(stack, "GET", "/health/liveness", Origin="https://x\x1b[2J")
    lines = stack.log.splitlines()
    assert not [line for line in lines if line.startswith("forged")]
    assert not [char for char in stack.log.replace("\n", "") if ord(char) in (*range(32), *range(127, 160), 0x202E, 0x2028)]
    assert "\\x1b[2J" in stack.log and max(map(len, lines)) < 3_000
