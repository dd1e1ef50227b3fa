"""Which addresses answer: a short list, on every route of the running application and in every spelling."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import subprocess
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.stack.harness import ROOT, Stack, python

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
# What stands for the variable parts of a path.
PLACES = {
    "workspace": ["public", "ws-anonymous", "*"],
    "service_id": ["triton-client", "hypha-login", "ws", "bioengine:triton-client"],
    "function_key": ["execute", "get_config", "get_status", "cancel", "start", "list_workspaces", "generate_token"],
    "path:path": ["x"],
    "page:path": ["x", "hypha-login", ""],
}
# Where workers dial in: it answers nobody without a token of theirs.
WORKERS = {
    ("GET", "/workers"): 401,
    ("HEAD", "/workers"): 401,
    ("POST", "/workers/box/join"): 401,
    ("POST", "/workers/box/beat"): 401,
    ("GET", "/workers/box/take"): 401,
    ("POST", f"/workers/box/answer/{'0' * 32}"): 401,
    ("POST", "/workers/box/leave"): 401,
    ("GET", "/workers/models/old-otter/1.0.0/model.json"): 401,
    ("HEAD", "/workers/models/old-otter/1.0.0/model.json"): 401,
}
# What may answer, and how, without arguments; a path that is here answers other methods with 405.
OPEN = {
    ("GET", "/health/liveness"): 200,
    ("HEAD", "/health/liveness"): 200,
    ("GET", "/health/readiness"): 200,
    ("HEAD", "/health/readiness"): 200,
    ("GET", "/metrics"): 200,
    ("HEAD", "/metrics"): 200,
    ("GET", "/public/services"): 200,
    ("GET", "/public/services/"): 200,
    ("GET", "/public/services/triton-client"): 200,
    ("POST", "/public/services/triton-client/execute"): 400,
    ("GET", "/public/services/triton-client/get_config"): 400,
    ("HEAD", "/public/services/triton-client/get_config"): 400,
    ("POST", "/public/services/triton-client/get_config"): 400,
    ("GET", "/public/services/triton-client/get_status"): 200,
    ("HEAD", "/public/services/triton-client/get_status"): 200,
    ("POST", "/public/services/triton-client/get_status"): 200,
    ("POST", "/public/services/triton-client/cancel"): 400,
    **WORKERS,
}
FUNCTIONS = ("execute", "get_config", "get_status", "cancel")
# Where a token is needed, these ask for one, whatever the method.
WITHOUT_TOKEN = (
    {path: status for path, status in OPEN.items() if status == 200}
    | {
        (method, path): 401
        for method in METHODS
        for path in ("/metrics", *(f"/public/services/triton-client/{function}" for function in FUNCTIONS))
    }
    | WORKERS
)


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Every route, as the application has them when it runs."""
    folder = tmp_path_factory.mktemp("routes")
    program = [python("server"), "-m", "tests.stack.routes", str(folder / "home"), str(folder / "routes.json")]
    (folder / "home").mkdir()
    environment = {**os.environ, "HYPHA_LOGLEVEL": "ERROR"}
    subprocess.run(program, cwd=ROOT, env=environment, check=True, timeout=120, stdout=subprocess.DEVNULL)
    found: list[dict[str, Any]] = json.loads((folder / "routes.json").read_text())
    return found


def paths_of(route: str) -> list[str]:
    """Paths that a route takes. Those of models' files and of Triton's protocol have tests of their own."""
    if "(?" in route:
        paths = [path for _, path in WORKERS if re.fullmatch(route, path)]
        assert paths or "models" in route or "triton" in route, f"which paths are those of {route}?"
        return paths
    names = [name for name in PLACES if f"{{{name}}}" in route]
    assert route.count("{") == len(names), f"what stands for the parts of {route}?"
    paths = []
    for values in itertools.product(*(PLACES[name] for name in names)):
        path = route
        for name, value in zip(names, values):
            path = path.replace(f"{{{name}}}", value)
        paths.append(path)
    return paths


def ask(stack: Stack, method: str, path: str, **headers: str) -> tuple[int, bytes]:
    """Status and body, of a path sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=60)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def answering(stack: Stack, routes: list[dict[str, Any]]) -> dict[tuple[str, str], int]:
    """What answers other than that there is nothing, or not for this method."""
    paths = {path for route in routes for path in paths_of(route["path"])} | {"/", "/static/x"}
    found = {}
    for method, path in itertools.product(METHODS, sorted(paths)):
        status, body = ask(stack, method, path or "/")
        if status == 404 and method != "HEAD":
            error = json.loads(body)["error"]
            assert error.startswith("Not found: ") and "/health/readiness" in error, (method, path)
        elif status not in (404, 405):
            found[method, path] = status
    return found


def test_hypha_has_more_than_is_open(routes: list[dict[str, Any]]) -> None:
    """This list is of what is closed; without Hypha's routes in it the tests below would show nothing."""
    paths = {route["path"] for route in routes}
    assert {"/rpc", "/openapi.json", "/metrics", "/{workspace}/info", "/{workspace}/apps/{service_id}", "/{page:path}"} <= paths


def test_only_what_clients_use_answers(stack: Stack, routes: list[dict[str, Any]]) -> None:
    assert answering(stack, routes) == OPEN


def test_only_what_needs_no_token_answers_without(token_stack: Stack, routes: list[dict[str, Any]]) -> None:
    assert answering(token_stack, routes) == WITHOUT_TOKEN


@pytest.mark.parametrize(
    "path",
    [
        "//public/services", "/public//services", "/./public/services", "/public/./services", "/public/x/../services",
        "/%70ublic/services", "/public%2fservices", "/public/services%2f", "/public/services%20", "/public/services;x",
        "/PUBLIC/services", "/Public/Services/", "/public/services//", "/public/services/*", "/public/services/triton-client/",
        "/public/services/triton-client/get_config/", "/public/services/triton-client//get_config",
        "/public/services/%74riton-client/get_config", "/public/services/triton-client%2fget_config",
        "/public/services/TRITON-CLIENT/get_config", "/public/services/bioengine:triton-client/get_config",
        "/public/services/*:triton-client/get_config", "/public/services/triton-client@x/get_config",
        "/*/services/triton-client/get_config", "/public/apps/triton-client", "/health", "/health/", "/health/liveness/",
        "/health/liveness%00", "/health/%6civeness", "/HEALTH/liveness", "/health//liveness", "/health/x/../liveness",
        "/health/liveness/../../public/info", "/public/services/../info", "/public/services/..%2finfo",
        "/public/services%2f..%2finfo", "/%2e%2e/public/info", "/public/info", "/public/info/", "//public/info", "/rpc/", "/RPC",
        "/%72pc", "/%2fpublic/info", "/public/services\\", "/public%5cservices", "/ws", "/ws/", "/ws?client_id=x",
        "/public/services/triton-client?function=x/../info/", "/trit/on", "/triton-x/v2", "/x/triton/v2",
    ],
)  # fmt: skip
def test_no_other_spelling_gets_around_the_list(stack: Stack, token_stack: Stack, path: str) -> None:
    if path.startswith("/public/services/triton-client?"):
        assert b"triton-client" in ask(stack, "GET", path)[1], "a query is no part of the path"
        return
    for server, method in itertools.product((stack, token_stack), ("GET", "POST")):
        status, body = ask(server, method, path)
        assert status == 404, (method, body)
        assert json.loads(body)["error"].startswith("Not found: ")


@pytest.mark.parametrize(
    "path",
    [
        "/triton/../public/info",
        "/triton/..%2fpublic/info",
        "//triton/v2",
        "/./triton/v2",
        "/triton%2f..%2fpublic/info",
        "/TRITON/v2",
    ],
)
def test_what_looks_like_triton_is_judged_by_its_own_list(stack: Stack, token_stack: Stack, path: str) -> None:
    assert ask(stack, "GET", path)[0] == 403
    assert ask(token_stack, "GET", path)[0] in (401, 403)


@pytest.mark.parametrize(
    "path",
    ["/ws/", "//ws", "/WS", "/%77s", "/public/apps/ws/x", "/rpc", "/ws-anonymous/ws", "/", "/triton/ws", "/public/services"],
)
def test_websockets_are_at_one_address_only(stack: Stack, path: str) -> None:
    for query in ("", "?client_id=x"):
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{stack.port}{path}{query}")
        assert refused.value.response.status_code == 403


def test_the_whole_address_in_the_request_makes_no_difference(stack: Stack) -> None:
    assert ask(stack, "GET", f"{stack.url}/public/info")[0] == 404
    assert ask(stack, "GET", "http://elsewhere.example/rpc")[0] == 421  # its Host header is that of elsewhere


def test_other_headers_do_not_change_the_path(stack: Stack) -> None:
    for header in ("X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Prefix", "X-HTTP-Method-Override"):
        assert ask(stack, "GET", "/public/info", **{header: "/health/liveness"})[0] == 404
        assert b"There is nothing" not in ask(stack, "GET", "/health/liveness", **{header: "/public/info"})[1]
