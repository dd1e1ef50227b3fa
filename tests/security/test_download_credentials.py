"""Downloads carry no credentials of the user who runs the server, and use the proxies that the environment names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from bioengine_server.store.download import Downloader, _proxy
from yarl import URL

from tests.security.answering import answering


@pytest.fixture
async def heard() -> AsyncIterator[tuple[int, list[dict[str, str]]]]:
    """The port of a server, and the headers of what it was asked."""
    headers: list[dict[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        headers.append({name.lower(): value for name, value in request.headers.items()})
        return web.Response(body=b"content")

    async with answering(answer) as port:
        yield port, headers


@pytest.mark.parametrize("variable", ["NETRC", "HOME"])
async def test_passwords_of_netrc_stay_here(
    heard: tuple[int, list[dict[str, str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    port, headers = heard
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login admin password secret\ndefault login admin password secret\n")
    netrc.chmod(0o600)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv(variable, str(netrc if variable == "NETRC" else tmp_path))
    url = f"http://127.0.0.1:{port}/file"
    async with Downloader([url], timeout=10) as downloader:
        assert await downloader.fetch(url, 100) == b"content"
    assert len(headers) == 1 and "authorization" not in headers[0]


def test_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert _proxy(URL("https://example.org/x")) is None
    monkeypatch.setenv("https_proxy", "http://user:password@proxy.example:3128")
    monkeypatch.setenv("no_proxy", "internal.example,127.0.0.1")
    assert _proxy(URL("https://example.org/x")) == URL("http://user:password@proxy.example:3128")
    assert _proxy(URL("https://internal.example/x")) is None
    assert _proxy(URL("https://127.0.0.1:1/x")) is None
    assert _proxy(URL("http://example.org/x")) is None
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    assert _proxy(URL("https://example.org/x")) == URL("http://proxy.example:3128")
