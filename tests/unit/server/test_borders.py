"""Private names of other libraries: in one module for each library, and known to be what they were."""

from __future__ import annotations

import importlib
import pkgutil
import re
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import bioengine_server.foreign
import pytest
import tritonclient.http as triton_http
from bioengine_contract.library import changes, digest_of
from bioengine_server.foreign import aiohttp as aiohttp_border
from bioengine_server.foreign import tritonclient as tritonclient_border
from bioengine_server.library import LibraryChanged

from tests.private_names import ROOT, inherited, modules, touched

BORDERS = [each.name for each in pkgutil.iter_modules(bioengine_server.foreign.__path__)]
FILES = [
    file
    for folder in ("server/bioengine_server", "contract/bioengine_contract", "model_runner", "deploy")
    for file in sorted((ROOT / folder).rglob("*.py"))
    if "foreign" not in file.parts
]


def test_no_private_name_of_a_library_is_touched_elsewhere() -> None:
    assert len(FILES) > 100
    assert [line for file in FILES for line in touched(file)] == []


@pytest.mark.parametrize("name", BORDERS)
def test_every_installation_has_the_version_that_was_looked_at(name: str) -> None:
    """The wheel's too: it takes its dependencies from these files, and not from the lock files."""
    wanted = "".join((ROOT / "server" / file).read_text() for file in ("requirements.txt", "requirements-no-deps.txt"))
    version = importlib.import_module(f"bioengine_server.foreign.{name}").VERSION
    assert re.search(rf"^{name.replace('_', '-')}(\[\w+\])?=={re.escape(version)}\b", wanted, re.MULTILINE)


@pytest.mark.parametrize("package", ["bioengine_server", "bioengine_contract"])
def test_no_private_name_of_a_base_class_of_a_library_is_used_elsewhere(package: str) -> None:
    assert [name for module in modules(package) for name in inherited(module)] == []


@pytest.mark.parametrize(
    "code",
    ["client._stub", "import a\nfrom a._inner import b", "from a import _b", "getattr(client, '_stub', None)", "a.b._c.d = 1"],
)
def test_a_private_name_is_seen(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.private_names.ROOT", tmp_path)
    (tmp_path / "module.py").write_text(code)
    assert len(list(touched(tmp_path / "module.py"))) == 1


def test_a_private_name_of_a_base_class_is_seen() -> None:
    """As a foreign module, which has them, looks to it."""
    found = list(inherited(aiohttp_border))
    assert "bioengine_server.foreign.aiohttp.CheckedUnixConnector._create_connection" in found
    assert "bioengine_server.foreign.aiohttp.WholeResponse._body" in found


@pytest.mark.parametrize("name", BORDERS)
def test_a_library_is_what_it_was_or_the_start_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    border: Any = importlib.import_module(f"bioengine_server.foreign.{name}")
    border.check()
    part, (found, digest) = next(iter(border.PARTS.items()))
    assert digest_of(found) == digest
    with monkeypatch.context() as patched, pytest.raises(LibraryChanged, match=f"differs in {part}") as refused:
        patched.setitem(border.PARTS, part, (found, "0" * 12))
        border.check()
    assert border.VERSION in str(refused.value) and "`./bioengine setup --again`" in str(refused.value)
    with monkeypatch.context() as patched, pytest.raises(LibraryChanged, match=r"needs \S+ 0\.0"):
        patched.setattr(border, "VERSION", "0.0")
        border.check()


def test_what_differs_is_told_with_its_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(changes("bioengine_server.foreign")) == []
    monkeypatch.setitem(aiohttp_border.PARTS, "ClientResponse.read", (None, "0" * 12))
    assert list(changes("bioengine_server.foreign")) == [
        "bioengine_server.foreign.aiohttp: ClientResponse.read: 000000000000 -> no longer exists"
    ]


class _Live(BaseHTTPRequestHandler):
    """Triton's answer to the question whether it lives."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/v2/health/live" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def address_string(self) -> str:
        return "a Unix socket"


def test_a_client_of_tritonclient_connects_to_a_socket(tmp_path: Path) -> None:
    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

    path = str(tmp_path / "http")
    with Server(path, _Live) as server, triton_http.InferenceServerClient("triton") as client:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        tritonclient_border.connect_to_socket(client, path)
        assert client.is_server_live()
        server.shutdown()
