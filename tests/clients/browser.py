"""Web pages in a real browser, from another origin than the server's."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.stack.harness import ENVIRONMENTS, ROOT, USUAL_URL, Stack

_MODULES = ENVIRONMENTS / "client-javascript" / "node_modules"


def chromium() -> str:
    """The browser's program. Skips the test where it, or npm, with whose packages pages work, is not installed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None or shutil.which("npm") is None:
        pytest.skip("Chromium or npm is not here")
    return program


def installed(folder: str) -> tuple[str, str]:
    """Name and version of the npm package in a folder of `node_modules`."""
    chromium()
    package = json.loads((_MODULES / folder / "package.json").read_text())
    return package["name"], package["version"]


def run_page(
    html: str, stack: Stack, until: str = "window.report", seconds: float = 60, host: str = "127.0.0.1"
) -> dict[str, Any]:
    """What became of a page (`run_pages`)."""
    (report,) = run_pages([html], stack, until, seconds, host)
    return report


def run_pages(
    htmls: Iterable[str], stack: Stack, until: str = "window.report", seconds: float = 60, host: str = "127.0.0.1"
) -> list[dict[str, Any]]:
    """What became of pages in one browser, which find the stack at the server's usual address.

    Libraries come from `https://cdn.jsdelivr.net/npm/<package>@<version>/<path>`, as in the docs; the files are those that
    npm has installed for the tests. A page that asks for anything else outside of this machine fails.

    Args:
        htmls: the pages.
        stack: the server that they call.
        until: a JavaScript expression that is true once a page has its result, and then is that.
        seconds: to wait for it.
        host: the name that the pages are served under, which the browser finds on this machine.

    Returns `{"result", "console": [str], "errors": [str]}` for each: what was written to the console, and what no code caught.
    """
    program = chromium()
    with ExitStack() as parts:
        addresses = [parts.enter_context(_Origin(html.replace(USUAL_URL, stack.url), host)) for html in htmls]
        drive = ["node", str(ROOT / "tests" / "clients" / "javascript" / "drive.mjs"), str(_MODULES), program]
        run = subprocess.run([*drive, until, str(seconds), *addresses], capture_output=True, text=True, timeout=seconds + 60)
    assert run.returncode == 0, run.stderr
    reports: list[dict[str, Any]] = json.loads(run.stdout)
    for report in reports:
        refused = report.pop("refused")
        assert not refused, f"the page asks for what is not on this machine: {refused}"
        assert report["result"] is not None, report
    return reports


class _Origin(ThreadingHTTPServer):
    """A web server of one page while the context lasts, which gives its address."""

    def __init__(self, html: str, host: str) -> None:
        self.page, self._host = html.encode(), host
        super().__init__(("127.0.0.1", 0), _Page)

    def __enter__(self) -> str:  # type: ignore[override]
        threading.Thread(target=self.serve_forever, args=[0.02]).start()
        return f"http://{self._host}:{self.server_port}/"

    def __exit__(self, *arguments: Any) -> None:
        self.shutdown()
        super().__exit__(*arguments)


class _Page(BaseHTTPRequestHandler):
    server: _Origin

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/" else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        if self.path == "/":
            self.wfile.write(self.server.page)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the tests' output is their own."""
