"""Every route of the server's HTTP, through all of its middleware, in this process; what is behind it are fakes (`web`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bioengine_contract.ids import RUNNER

from tests.unit.server.web import REACHED, Web

SERVICE = "/public/services/triton-client"
INFER = f"/triton/v2/models/{RUNNER}/infer"
FILE = "/models/shark/1/files/test_input.npy"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "X")

# Each route, the methods that it takes, and whether no token is ever needed.
ROUTES = {
    "/health/liveness": (("GET", "HEAD"), True),
    "/health/readiness": (("GET", "HEAD"), True),
    "/metrics": (("GET", "HEAD"), False),
    "/public/services": (("GET", "HEAD"), True),
    "/public/services/": (("GET", "HEAD"), True),
    SERVICE: (("GET", "HEAD"), True),
    f"{SERVICE}/execute": (("POST",), False),
    f"{SERVICE}/get_config": (("GET", "HEAD", "POST"), False),
    f"{SERVICE}/get_status": (("GET", "HEAD", "POST"), False),
    f"{SERVICE}/cancel": (("POST",), False),
    FILE: (("GET", "HEAD"), False),
}
TRITON = {
    "/triton/v2": "GET",
    "/triton/v2/health/live": "GET",
    "/triton/v2/health/ready": "GET",
    "/triton/v2/models/shark": "GET",
    "/triton/v2/models/shark/versions/1/ready": "GET",
    "/triton/v2/models/shark/config": "GET",
    INFER: "POST",
    "/triton/v2/models/own/versions/1/infer": "POST",
}


@pytest.fixture
def web(tmp_path: Path) -> Web:
    return Web(tmp_path)


# --- the table


@pytest.mark.parametrize("path", [*ROUTES, *TRITON])
async def test_a_route_takes_its_methods_and_no_others(web: Web, path: str) -> None:
    taken = ROUTES[path][0] if path in ROUTES else (TRITON[path],)
    for method in METHODS:
        response = await web.ask(method, path)
        if method in taken:
            assert response.status_code not in (403, 405, 500, 501), (method, response.text)
        elif path in ROUTES:
            assert response.status_code == 405, (method, response.text)
            assert response.json()["code"] == "method_not_allowed" and " or ".join(taken) in response.json()["error"]
            assert response.headers["allow"] == ", ".join(taken)
        else:
            assert response.status_code == 403 and response.json()["code"] == "forbidden", (method, response.text)
        assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", [*ROUTES, *TRITON])
async def test_where_a_token_is_needed_none_of_the_wrong_ones_helps(tmp_path: Path, path: str) -> None:
    web = Web(tmp_path, access="token")
    (methods, is_open) = ROUTES.get(path) or ((TRITON[path],), False)
    method = methods[-1]
    token = await web.token()
    revoked = await web.token("bob")
    web.server.registry.revoke("bob")
    wrong = {"": "token_needed", "Bearer x": "access_denied", "Basic eDp5": "access_denied", "Bearer": "access_denied"}
    for header, code in {**wrong, revoked["Authorization"]: "token_revoked"}.items():
        response = await web.ask(method, path, **({"authorization": header} if header else {}))
        if is_open:
            assert response.status_code not in (401, 404, 405)
        else:
            assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer", response.text
            assert method == "HEAD" or response.json()["code"] == code
    response = await web.ask(method, path, **{name.lower(): value for name, value in token.items()})
    assert response.status_code not in (401, 403, 405, 500)
    refused = {outcome: count for (_, outcome, _), count in web.server.counts().items() if outcome in wrong.values()}
    assert path == "/metrics" or (sum(refused.values()) == 0) == is_open


@pytest.mark.parametrize(
    "path",
    [
        "/", "//", "/docs", "/openapi.json", "/redoc", "/index.html", "/ws", "/health", "/health/", "/health/liveness/",
        "/public", "/public/apps", "/public/services/other", f"{SERVICE}/", f"{SERVICE}/execute/", f"{SERVICE}/run",
        f"{SERVICE}//execute",
        "//public/services", "/PUBLIC/services", "/public/%73ervices", f"/public/services/..{SERVICE}", f"{SERVICE}/%65xecute",
        f"{SERVICE}/execute%00", f"{SERVICE}/execute;x=1", "/public/services/public/triton-client", "/ws-user-ada/services",
        "/metrics/", "/%6detrics", "/./metrics", "/models", "/models/shark", "/models/shark/1/files", "/models/shark/1/files/",
        "/models/../files/x", "/s3/bucket", "/mcp", "/proxy/x", "/ööö", "/%ff%fe", "/" + "x" * 5000,
    ],
)  # fmt: skip
async def test_nothing_else_is_there(web: Web, path: str) -> None:
    path = path.encode().decode("latin-1")
    for method in ("GET", "POST"):
        response = await web.ask(method, path)
        assert response.status_code == 404 and response.json()["code"] == "not_found", response.text
        assert REACHED not in response.text and len(response.content) < 1000


@pytest.mark.parametrize(
    "path",
    [
        "/triton", "/triton/", "/triton//v2", "/TRITON/v2", "//triton/v2", "/./triton/v2", "/%74riton/v2", "/triton/v2/",
        "/triton/v1",
        "/triton/v2/models/stats", "/triton/v2/models/shark/stats", "/triton/v2/repository/index", "/triton/v2/logging",
        "/triton/v2/systemsharedmemory/status", "/triton/v2/trace/setting", "/triton/v2/models/%73hark", "/triton/metrics",
        "/triton/v2/models/shark/../../repository/index", "/triton/v2/models/a/b/infer", "/triton/v2/models//infer",
        "/triton/v2/models/shark/versions/0x1/infer", "/triton/v2/models/shark/infer?x", "/triton/v2/health/live%2f",
    ],
)  # fmt: skip
async def test_triton_is_reached_by_plain_paths_alone(web: Web, path: str) -> None:
    response = await web.ask("GET", path)
    assert response.status_code == 403 and response.json()["code"] == "forbidden", response.text
    assert web.triton.asked == []


@pytest.mark.parametrize("path", [f"{FILE}x", "/models/shark/1/files/weights.onnx", "/models/shark/1/files/%2e%2e/model.json"])
async def test_files_that_are_not_shown_are_not_there(web: Web, path: str) -> None:
    assert (await web.ask("GET", path)).json()["code"] == "not_found"


# --- hosts and pages


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1.evil.example:9520"}, 421),
        ({"host": ""}, 421),
        ({"host": "localhost:9520"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://imjoy.io"}, 200),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}, 403),
        ({"sec_fetch_site": "same-origin"}, 200),
    ],
)
async def test_names_and_pages_of_strangers_get_nothing(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    web = Web(tmp_path, allow_origins="https://imjoy.io")
    response = await web.ask("GET", f"{SERVICE}/get_status", **headers)
    assert response.status_code == status, response.text


async def test_a_link_on_any_page_leads_to_documents(tmp_path: Path) -> None:
    web = Web(tmp_path, allow_origins="https://imjoy.io")
    followed = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    for path, (_, is_open) in ROUTES.items():
        response = await web.ask("GET", path, **followed)
        assert (response.status_code == 403) != is_open, path


async def test_pages_are_told_what_they_may_send(tmp_path: Path) -> None:
    web = Web(tmp_path, allow_origins="https://imjoy.io")
    asked = {"access_control_request_method": "POST", "access_control_request_headers": "content-type"}
    response = await web.ask("OPTIONS", f"{SERVICE}/execute", origin="https://imjoy.io", **asked)
    assert response.status_code == 200 and response.headers["access-control-allow-origin"] == "https://imjoy.io"
    assert "access-control-allow-credentials" not in response.headers
    answer = await web.ask("GET", f"{SERVICE}/get_status", origin="https://imjoy.io")
    assert answer.headers["access-control-allow-origin"] == "https://imjoy.io"
    assert "Retry-After" in answer.headers["access-control-expose-headers"], "errors advise to wait as long as it says"


async def test_an_address_that_asks_too_often_waits(tmp_path: Path) -> None:
    web = Web(tmp_path, peer_requests=1)
    codes = [(await web.ask("GET", "/public/services")).status_code for _ in range(8)]
    assert codes.count(429) >= 2 and codes[0] == 200
    assert (await web.ask("GET", "/health/liveness")).status_code == 200, "health checks are never limited"


# --- health


async def test_health_says_why_and_which_version(web: Web) -> None:
    alive, ready = await web.ask("GET", "/health/liveness"), await web.ask("GET", "/health/readiness")
    assert alive.status_code == 200 and alive.json()["status"] == "OK" and alive.json()["version"]
    assert ready.status_code == 503 and "starting" in ready.json()["reason"] and ready.headers["retry-after"]


async def test_the_list_of_services_and_the_service_are_hyphas(web: Web) -> None:
    for path in ("/public/services", "/public/services/"):
        assert (await web.ask("GET", path)).json()["path"] == "/public/services/"
    assert (await web.ask("GET", SERVICE)).json()["reached"] == REACHED


# --- websockets


async def first_words(web: Web, first: Any, **headers: str) -> tuple[str, list[Any]]:
    """What a client of hypha-rpc is told after its first message, and all that it was sent."""
    text = first if isinstance(first, str) else json.dumps(first)
    sent = await web.connect("/ws", [text], **headers)
    assert sent[0]["type"] == "websocket.accept"
    return str(sent[1].get("text")), sent


async def test_a_client_that_may_connect_gets_to_hypha(tmp_path: Path) -> None:
    web = Web(tmp_path, access="token")
    token = (await web.token())["Authorization"].removeprefix("Bearer ")
    text, _ = await first_words(web, {"client_id": "abc", "token": token})
    assert REACHED in text and web.server.counts() == {}


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ("no json", "not_let_in"),
        ("[]", "not_let_in"),
        ("[" * 100_000, "not_let_in"),
        ({"client_id": "../x"}, "not_let_in"),
        ({"client_id": "abc", "workspace": "a/b"}, "not_let_in"),
        ({"client_id": "abc", "token": ["x"]}, "access_denied"),
        ({"client_id": "abc", "token": "x"}, "access_denied"),
        ({"client_id": "abc"}, "token_needed"),
        ({"client_id": "x" * 30_000}, "not_let_in"),
    ],
)
async def test_a_client_that_may_not_is_told_why_closed_and_counted(tmp_path: Path, first: Any, code: str) -> None:
    web = Web(tmp_path, access="token")
    text, sent = await first_words(web, first)
    assert json.loads(text)["type"] == "error" and json.loads(text)["message"] and REACHED not in str(sent)
    assert sent[-1]["type"] == "websocket.close" and sent[-1]["code"] == 1008 and len(sent[-1]["reason"]) <= 120
    assert web.server.counts() == {("unknown", code, ""): 1}


async def test_a_workspace_of_somebody_else_is_refused(web: Web) -> None:
    text, _ = await first_words(web, {"client_id": "abc", "workspace": "ws-user-ada"})
    assert "ws-user-ada" in text and web.server.counts() == {("unknown", "workspace_denied", ""): 1}


@pytest.mark.parametrize("path", ["/", "/ws/", "//ws", "/w%73", "/public/services", "/triton", f"{SERVICE}/execute"])
async def test_there_are_no_other_websockets(web: Web, path: str) -> None:
    assert [event["type"] for event in await web.connect(path, ["{}"])] == ["websocket.close"]


async def test_websockets_of_strangers_pages_and_names(tmp_path: Path) -> None:
    web = Web(tmp_path, allow_origins="https://imjoy.io")
    text, sent = await first_words(web, {"client_id": "abc"}, origin="https://evil.example")
    assert "evil.example" in text and sent[-1]["type"] == "websocket.close"
    assert [event["type"] for event in await web.connect("/ws", ["{}"], host="evil.example")] == ["websocket.close"]
    answered = await web.connect("/ws", ["{}"], {"websocket.http.response": {}}, host="evil.example")
    assert answered[0]["type"] == "websocket.http.response.start" and answered[0]["status"] == 403
    assert (b"x-content-type-options", b"nosniff") in answered[0]["headers"]
