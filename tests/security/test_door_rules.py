"""Which hosts and origins are allowed, in every spelling, tested in front of an application that counts its requests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from bioengine_server.http.host_and_origin import HostAndOrigin
from bioengine_server.http.security_headers import SAFE_HEADERS, SafeAnswers
from bioengine_server.network import hosts as hosts_module
from bioengine_server.network.errors import HostNotAllowed, OriginNotAllowed
from bioengine_server.network.hosts import Hosts
from bioengine_server.network.origins import PUBLISHED, Origins
from bioengine_server.settings import Settings
from pydantic import ValidationError
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from tests.unit.server.tables import table

HERE = "192.168.7.5"
"""The address that connections come to."""


@pytest.fixture(autouse=True)
def own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts_module, "own_names", lambda: {"ws7", "ws7.local", "ws7.lab.example"})


def is_known(hosts: Hosts, *values: str) -> bool:
    try:
        hosts.check([value.encode("latin-1") for value in values], HERE)
    except HostNotAllowed:
        return False
    return True


LOOPBACK = [
    "localhost", "LOCALHOST", "localhost:9520", "localhost:1", "localhost:65535", "127.0.0.1", "127.0.0.1:9520", "127.8.9.1",
    "[::1]", "[::1]:80", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
]  # fmt: skip
STRANGERS = [
    "", " ", "evil.example", "evil.example:9520", "localhost.evil.example", "evil.example.localhost",
    "127.0.0.1.evil.example", "localhost.", "localhost..", "localhost:", "localhost:0", "localhost:65536", "localhost:99999",
    "localhost:-1", "localhost:+80", "localhost:9520:9520", "localhost:x", "evil.example@localhost", "localhost@evil.example",
    "localhost:80@evil.example", "evil.example#localhost", "evil.example?localhost", "evil.example/localhost", "localhost/",
    "http://localhost", "localhost,evil.example", "localhost evil.example", "evil.example localhost", " localhost",
    "localhost ", "localhost\t", "localhost\r\nX: y", "localhost\x00", "local%68ost", "%6cocalhost", "127.1", "127.0.1",
    "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.01", "0", "0.0.0.0", "[::]", "::1", "::1:80", "[::1", "::1]", "[::1]x",
    "[::1%25lo]", "[::1%lo]", "[fe80::1%25eth0]", "[127.0.0.1]", "[localhost]", "128.0.0.1", "10.0.0.1", "8.8.8.8",
    "[2001:db8::1]", "[::ffff:8.8.8.8]", "[64:ff9b::7f00:1]", "loc\xe4lhost", "\xef\xbd\x8cocalhost", "a", ".", "..",
    ".localhost", "-localhost", "*", "localhost*", "*.localhost", "ip6-localhost",
]  # fmt: skip


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_is_always_known(host: str) -> None:
    for settings in (Settings(), Settings(host="0.0.0.0"), Settings(allow_hosts="bioengine.lab")):
        assert is_known(settings.known_hosts(), host)


@pytest.mark.parametrize("host", STRANGERS)
def test_others_are_not_however_they_are_spelled(host: str) -> None:
    for settings in (Settings(), Settings(host="0.0.0.0"), Settings(allow_hosts="bioengine.lab, *.lab2.example")):
        assert not is_known(settings.known_hosts(), host)


def test_exactly_one_host_is_named() -> None:
    for values in ((), ("localhost", "localhost"), ("localhost", "evil.example"), ("evil.example", "localhost")):
        assert not is_known(Settings(allow_hosts="*").known_hosts(), *values)


@pytest.mark.parametrize(
    ("settings", "known", "unknown"),
    [
        (Settings(), [], ["ws7", "ws7.lab.example", "192.168.7.6", "10.0.0.1"]),
        (Settings(host="192.168.7.5"), [HERE, f"{HERE}:9520", "ws7"], ["192.168.7.6", "evil.example"]),
        (Settings(host="bioengine.lab"), ["bioengine.lab", HERE, "ws7.local"], ["192.168.7.6", "x.bioengine.lab"]),
        (
            Settings(host="0.0.0.0"),
            [HERE, f"{HERE}:9520", "[::ffff:192.168.7.5]", "ws7", "WS7:9520", "ws7.local", "ws7.lab.example"],
            ["192.168.7.6", "ws7.evil.example", "ws7.", "ws8.lab.example"],
        ),
        # In a container the addresses of the machine around it are not known, and an address cannot be made to point elsewhere.
        (Settings(listen="0.0.0.0"), [HERE, "10.1.2.3:9520", "[2001:db8::1]"], ["evil.example", "0.0.0.0", "[::]"]),
        (
            Settings(public_url="https://bioengine.lab"),
            ["bioengine.lab", "BioEngine.lab:443"],
            ["lab", "x.bioengine.lab", "bioengine.lab.evil.example"],
        ),
        (
            Settings(allow_hosts="a.lab, *.Lab.example, 10.0.0.1, 2001:DB8::1"),
            ["A.lab", "x.y.lab.example:8", "10.0.0.1", "[2001:db8:0::1]"],
            ["lab.example", "xlab.example", "b.lab", "10.0.0.2", "x.lab.example.evil.example"],
        ),
        (Settings(allow_hosts="*"), ["evil.example", "8.8.8.8"], ["evil.example@localhost", "", "a b", "evil.example:0"]),
    ],
    ids=["loopback", "an address", "a name", "every address", "container", "public URL", "list", "all"],
)
def test_which_names_a_server_has(settings: Settings, known: Sequence[str], unknown: Sequence[str]) -> None:
    hosts = settings.known_hosts()
    assert [host for host in known if not is_known(hosts, host)] == []
    assert [host for host in unknown if is_known(hosts, host)] == []


@pytest.mark.parametrize("value", ["http://bioengine.lab", "a b", "bio engine.lab", "lab:80", "a/b", "*lab", "*.*.lab", "a..b@c"])
def test_a_list_of_hosts_that_cannot_be_meant(value: str) -> None:
    with pytest.raises(ValidationError, match="is not a name or address"):
        Settings(allow_hosts=value)


def may_use(origins: Origins, *values: str, host: str = "localhost:9520") -> bool:
    try:
        origins.check([value.encode("latin-1") for value in values], host)
    except OriginNotAllowed:
        return False
    return True


OWN = "http://127.0.0.1:9520"
FRIENDS = [
    OWN, "http://localhost:9520", "https://localhost:9520", "http://localhost", "http://localhost:3000",
    "https://localhost:8888", "http://127.0.0.1:8888", "http://127.0.0.2", "http://[::1]:8080", "https://bioimage.io",
    "https://dev.bioimage.io", "https://imjoy.io", "https://slides.imjoy.io", "https://jupyter.imjoy.io",
    "https://a.b.imjoy.io", "https://piximi.app", "https://www.piximi.app", "https://bioimage-io.github.io",
]  # fmt: skip
OTHERS = [
    "null", "*", "", "https://evil.example", "http://evil.example:9520", "http://bioimage.io", "http://imjoy.io",
    "https://imjoy.io:8443", "https://imjoy.io.evil.example", "https://evilimjoy.io", "https://evil.example/imjoy.io",
    "https://imjoy.io@evil.example", "https://evil.example#.imjoy.io", "https://.imjoy.io", "https://x..imjoy.io",
    "https://evil.github.io", "https://x.piximi.app", "http://localhost.evil.example", "http://localhost@evil.example",
    "http://evil.example:80@localhost", "http://127.0.0.1.evil.example", "http://127.1", "http://0.0.0.0:9520",
    "http://[::]:9520", "http://localhost:x", "http://localhost:9520/", "ftp://localhost", "file://",
    "chrome-extension://abcdefgh", "localhost", "localhost:9520", "//localhost:9520", "http://localhost ",
    " http://localhost", "http://localhost\n", "http://localhost, http://evil.example",
    "https://bioimage.io https://evil.example",
]  # fmt: skip


@pytest.mark.parametrize("origin", FRIENDS)
def test_pages_that_may_use_the_server_by_default(origin: str) -> None:
    assert may_use(Origins(Settings().allow_origins, OWN), origin)


@pytest.mark.parametrize("origin", OTHERS)
def test_pages_that_may_not(origin: str) -> None:
    assert not may_use(Origins(Settings().allow_origins, OWN), origin)
    assert may_use(Origins("*", OWN), origin)


def test_every_published_client_is_reached_by_https_alone() -> None:
    assert all(origin.startswith("https://") for origin in PUBLISHED)


def test_an_empty_list_leaves_the_server_s_own_pages() -> None:
    origins = Origins("", "https://bioengine.lab")
    assert may_use(origins) and may_use(origins, "https://bioengine.lab") and may_use(origins, "http://localhost:9520")
    assert may_use(origins, "http://ws7:9520", host="ws7:9520")
    for origin in ("http://localhost:3000", "https://bioimage.io", "http://ws7", "http://ws7:9521", "http://bioengine.lab"):
        assert not may_use(origins, origin, host="ws7:9520"), origin


def test_a_list_replaces_the_default() -> None:
    origins = Origins("https://a.example:8443/, HTTPS://*.B.example, http://c.example:*, null-app://x", OWN)
    for origin in ("https://a.example:8443", "https://x.b.example", "http://c.example", "http://c.example:81", "null-app://x"):
        assert may_use(origins, origin, host="x"), origin
    for origin in ("https://a.example", "https://b.example", "https://c.example", "http://localhost:3000", "https://bioimage.io"):
        assert not may_use(origins, origin, host="x"), origin


def test_two_origins_are_none() -> None:
    assert not may_use(Origins(Settings().allow_origins, OWN), OWN, OWN)


@pytest.mark.parametrize(
    "value", ["null", "bioimage.io", "https://", "https://a/b", "https://*", "https://a*.io", "//a", "a b", "localhost"]
)
def test_a_list_of_origins_that_cannot_be_meant(value: str) -> None:
    with pytest.raises(ValidationError, match="is not an origin"):
        Settings(allow_origins=value)


class Served:
    """The gate in front of an application that counts what gets through."""

    def __init__(self, **settings: Any) -> None:
        chosen = Settings(**settings)
        self.passed = 0
        origins = Origins(chosen.allow_origins, chosen.advertised_url)
        self.app = SafeAnswers(HostAndOrigin(self._answer, chosen.known_hosts(), origins, table(chosen)))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.passed += 1
        if scope["type"] == "http":
            await JSONResponse({"path": scope["path"]})(scope, receive, send)
        else:
            await send({"type": "websocket.accept"})

    async def ask(self, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:9520") as client:
            return await client.request(method, path, headers=headers)

    async def connect(self, headers: dict[str, str], query: str = "", path: str = "/ws") -> list[Message]:
        """What a websocket gets that says nothing and goes."""
        given = {"host": "localhost:9520", **headers}
        scope = {
            "type": "websocket", "path": path, "raw_path": path.encode(), "query_string": query.encode(), "server": (HERE, 9520),
            "headers": [(name.encode(), value.encode()) for name, value in given.items()], "scheme": "ws",
            "extensions": {"websocket.http.response": {}}, "subprotocols": [], "root_path": "",
        }  # fmt: skip
        sent: list[Message] = []
        events = iter([{"type": "websocket.connect"}])

        async def receive() -> Message:
            return next(events, {"type": "websocket.disconnect", "code": 1005})

        async def send(message: Message) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        return sent


REQUESTS = [
    ("GET", "/health/readiness"),
    ("GET", "/public/services/triton-client/get_config?model_name=affable-shark"),
    ("POST", "/public/services/triton-client/execute"),
    ("POST", "/triton/v2/models/affable-shark/infer"),
    ("OPTIONS", "/public/services/triton-client/execute"),
    ("GET", "/no/such/page"),
]


@pytest.mark.parametrize(("method", "path"), REQUESTS)
async def test_what_is_refused_reaches_nothing(method: str, path: str) -> None:
    served = Served()
    refused = [
        (421, "BIOENGINE_ALLOW_HOSTS", {"Host": "evil.example:9520"}),
        (421, "BIOENGINE_ALLOW_HOSTS", {"Host": "evil.example", "Origin": "http://evil.example"}),
        (403, "BIOENGINE_ALLOW_ORIGINS", {"Origin": "https://evil.example"}),
        (403, "BIOENGINE_ALLOW_ORIGINS", {"Origin": "null", "Content-Type": "text/plain"}),
        (
            403,
            "BIOENGINE_ALLOW_ORIGINS",
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        ),
        (
            403,
            "BIOENGINE_ALLOW_ORIGINS",
            {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"},
        ),
        (
            403,
            "BIOENGINE_ALLOW_ORIGINS",
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
        ),
    ]
    for status, setting, headers in refused:
        answer = await served.ask(method, path, headers)
        assert answer.status_code == status, headers
        content = answer.json()
        assert setting in content["error"] and content["error"] == content["detail"] and content["success"] is False
        named = headers.get("Origin") if status == 403 else headers["Host"]
        assert named is None or repr(named) in content["error"]
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert served.passed == 0


@pytest.mark.parametrize(("method", "path"), REQUESTS)
async def test_what_is_allowed_gets_through(method: str, path: str) -> None:
    served = Served()
    allowed = [
        {},
        {"Origin": "https://bioimage.io", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://localhost:8888", "Sec-Fetch-Site": "same-site", "Content-Type": "text/plain"},
        {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    ]
    for headers in allowed:
        assert (await served.ask(method, path, headers)).status_code == 200
    assert served.passed == len(allowed)


async def test_a_link_may_lead_to_what_only_says_something() -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    served = Served()
    assert (await served.ask("GET", "/health/readiness", link)).status_code == 200
    assert (await served.ask("POST", "/health/readiness", link)).status_code == 403
    assert (await served.ask("GET", REQUESTS[1][1], link)).status_code == 403
    assert (await Served(allow_origins="*").ask("GET", REQUESTS[1][1], link)).status_code == 200


async def test_other_headers_do_not_name_the_host() -> None:
    for header in ("X-Forwarded-Host", "X-Host", "Forwarded", "X-Original-Host", "X-Forwarded-Server"):
        served = Served()
        assert (await served.ask("GET", "/", {"Host": "evil.example", header: "localhost"})).status_code == 421
        assert (await served.ask("GET", "/", {header: "evil.example"})).status_code == 200


@pytest.mark.parametrize("path", ["/ws", "/", "/public/ws"])
@pytest.mark.parametrize("query", ["", "client_id=x"])
async def test_websockets_of_another_name_fail_with_403(query: str, path: str) -> None:
    served = Served()
    for origin in ({}, {"origin": "http://evil.example"}, {"origin": "https://bioimage.io"}):
        start, body = await served.connect({"host": "evil.example", **origin}, query, path)
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 403)
        assert "BIOENGINE_ALLOW_HOSTS" in json.loads(body["body"])["error"]
        assert set(SAFE_HEADERS) <= set(start["headers"])
    assert served.passed == 0


async def test_a_stranger_s_websocket_is_told_why_and_closed() -> None:
    served = Served()
    accepted, told, closed = await served.connect({"origin": "https://evil.example"})
    assert accepted["type"] == "websocket.accept"
    error = json.loads(told["text"])
    assert (
        error["type"] == "error"
        and "'https://evil.example'" in error["message"]
        and "BIOENGINE_ALLOW_ORIGINS" in error["message"]
    )
    assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
    # At other addresses, and where the name of an imjoy-rpc client is none, it is not even accepted.
    assert (await served.connect({"origin": "https://evil.example"}, path="/other"))[0]["status"] == 403
    assert [message["type"] for message in await served.connect({"origin": "null"}, "client_id=../x")] == ["websocket.close"]
    assert served.passed == 0


@pytest.mark.parametrize("query", ["", "client_id=x"])
async def test_websockets_of_programs_and_of_pages_that_may(query: str) -> None:
    served = Served()
    for headers in ({}, {"origin": "https://bioimage.io"}, {"origin": "http://127.0.0.1:8888"}, {"host": "[::1]:9520"}):
        assert await served.connect(headers, query) == [{"type": "websocket.accept"}]
    assert served.passed == 4


async def test_every_answer_bounds_what_a_browser_does_with_it() -> None:
    served = Served()
    for headers in ({}, {"Host": "evil.example"}, {"Origin": "null"}):
        answer = await served.ask("GET", "/", headers)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert answer.headers["Referrer-Policy"] == "no-referrer"


async def test_a_page_of_the_server_s_own_sets_its_own_policy() -> None:
    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse({}, headers={"Content-Security-Policy": "default-src 'self'"})(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(SafeAnswers(page)), base_url="http://localhost") as client:
        assert (await client.get("/")).headers.get_list("Content-Security-Policy") == ["default-src 'self'"]
