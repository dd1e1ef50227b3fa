"""Pages of other origins: what they may call, send and read, on every route and whatever is answered."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest
import requests

from tests.stack.harness import Stack

PUBLISHED = "https://piximi.app"  # which the default allows
PAGE = "https://page.example"
OTHER = "https://page.example.evil.example"
METHODS = ("GET", "HEAD", "OPTIONS", "PUT", "POST")
HEADERS = (
    "Authorization", "Content-Type", "Content-Encoding", "Accept-Encoding", "Range", "Origin", "X-Requested-With",
    "Inference-Header-Content-Length",
)  # fmt: skip
EXPOSED = {"Inference-Header-Content-Length", "Content-Type", "Range", "Origin", "Retry-After"}
EXECUTE = "/public/services/triton-client/execute"
LARGE = {"Content-Length": str(10**12)}
ANSWERS = [
    (200, "GET", "/health/liveness", {}),
    (200, "GET", "/health/readiness", {}),
    (200, "GET", "/public/services", {}),
    (200, "GET", "/public/services/", {}),
    (200, "GET", "/public/services/triton-client", {}),
    (200, "GET", "/public/services/triton-client/get_config?model_name=counter", {}),
    (400, "GET", "/public/services/triton-client/get_config", {}),
    (400, "POST", EXECUTE, {}),
    (401, "POST", EXECUTE, {"Authorization": "Bearer x"}),
    (405, "GET", EXECUTE, {}),
    (413, "POST", EXECUTE, LARGE),
    (200, "GET", "/triton/v2/health/live", {}),
    (200, "GET", "/triton/v2/models/counter/config", {}),
    (403, "POST", "/triton/v2/repository/index", {}),
    (404, "GET", "/triton/v2/models/no-such-model", {}),
    (400, "POST", "/triton/v2/models/counter/infer", {}),
    (413, "POST", "/triton/v2/models/counter/infer", LARGE),
    (404, "POST", "/public/services/hypha-login/start", LARGE),
    (404, "GET", "/no/such/page", {}),
    (404, "POST", "/oauth/token", {}),  # Hypha's own, closed
]


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack for the pages of two origins."""
    home = tmp_path_factory.mktemp("listed") / "home"
    with Stack(home, BIOENGINE_ALLOW_ORIGINS=f"https://first.example:8443, {PAGE}") as running:
        yield running


def answer_of(stack: Stack, method: str, path: str, **headers: str) -> http.client.HTTPResponse:
    """The answer, which comes before a body that is too large is sent."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=60)
    connection.putrequest(method, path)
    for name, value in {"Connection": "close", "Content-Length": "0", **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    return connection.getresponse()


@pytest.mark.parametrize(("status", "method", "path", "headers"), ANSWERS)
def test_every_answer_can_be_read_by_a_page(stack: Stack, status: int, method: str, path: str, headers: dict[str, str]) -> None:
    answer = answer_of(stack, method, path, Origin=PUBLISHED, **headers)
    assert answer.status == status, answer.read()
    assert answer.headers.get_all("Access-Control-Allow-Origin") == [PUBLISHED]
    assert "Origin" in answer.headers["Vary"]
    assert set(answer.headers["Access-Control-Expose-Headers"].split(", ")) == EXPOSED
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("path", sorted({path.partition("?")[0] for _, _, path, _ in ANSWERS}))
@pytest.mark.parametrize("method", METHODS)
def test_preflights_allow_every_method_and_header(stack: Stack, path: str, method: str) -> None:
    asked = {"Origin": PUBLISHED, "Access-Control-Request-Method": method}
    for names in (",".join(HEADERS), ",".join(HEADERS).lower(), *HEADERS):
        answer = requests.options(stack.url + path, headers={**asked, "Access-Control-Request-Headers": names})
        assert answer.status_code == 200, (names, answer.text)
        assert answer.headers["Access-Control-Allow-Origin"] == PUBLISHED
        assert set(answer.headers["Access-Control-Allow-Methods"].split(", ")) == set(METHODS)
        assert {name.lower() for name in HEADERS} <= {
            name.lower() for name in answer.headers["Access-Control-Allow-Headers"].split(", ")
        }
        assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize(
    "asked",
    [
        {"Access-Control-Request-Method": "DELETE"},
        {"Access-Control-Request-Method": "PATCH"},
        {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "bioengine-secret"},
    ],
    ids=str,
)
def test_a_preflight_for_anything_else_is_refused(stack: Stack, asked: dict[str, str]) -> None:
    assert requests.options(stack.url + EXECUTE, headers={"Origin": PUBLISHED, **asked}).status_code == 400


def test_cookies_make_no_difference(stack: Stack) -> None:
    answer = requests.get(f"{stack.url}/triton/v2/models/counter", headers={"Origin": PUBLISHED, "Cookie": "a=b"})
    assert answer.headers["Access-Control-Allow-Origin"] == PUBLISHED
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.extended
@pytest.mark.parametrize(("status", "method", "path", "headers"), [answer for answer in ANSWERS if "counter" not in answer[2]])
def test_a_list_of_origins_allows_these_alone(
    listed: Stack, status: int, method: str, path: str, headers: dict[str, str]
) -> None:
    for origin in (PAGE, "https://first.example:8443"):
        answer = answer_of(listed, method, path, Origin=origin, **headers)
        assert answer.status == status, answer.read()
        assert answer.headers.get_all("Access-Control-Allow-Origin") == [origin]
        assert "Origin" in answer.headers["Vary"] and "Access-Control-Allow-Credentials" not in answer.headers
    for origin in (OTHER, "http://page.example", "https://first.example", "null", "*"):
        answer = answer_of(listed, method, path, Origin=origin, **headers)
        assert answer.status == 403 and "Access-Control-Allow-Origin" not in answer.headers
        assert b"BIOENGINE_ALLOW_ORIGINS" in answer.read()


@pytest.mark.extended
def test_a_preflight_of_another_origin_is_refused(listed: Stack) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "Content-Type"}
    for origin, status in ((PAGE, 200), (OTHER, 403), ("null", 403)):
        answer = requests.options(listed.url + EXECUTE, headers={"Origin": origin, **asked})
        assert answer.status_code == status
        assert answer.headers.get("Access-Control-Allow-Origin") == (origin if status == 200 else None)
