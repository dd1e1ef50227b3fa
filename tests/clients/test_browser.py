"""All calls of the contract with the JavaScript libraries, unmodified, in a browser."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.clients.browser import MODULES, run_page
from tests.stack.harness import ROOT, USUAL_URL, Stack

LIBRARIES = ("imjoy-rpc-oldest", "imjoy-rpc-newest", "hypha-rpc")
PROGRAM = (ROOT / "tests" / "clients" / "javascript" / "program.js").read_text()
CALLS = re.findall(r'^call\("(.+)", ', PROGRAM, re.MULTILINE)
# Of libraries that have no function for them.
NOT_THERE = {("imjoy-rpc-oldest", "login")}

PAGE = """<!doctype html>
<meta charset="utf-8">
<script src="https://cdn.jsdelivr.net/npm/{name}@{version}/dist/hypha-rpc-websocket.min.js"></script>
<script>const GIVEN = {given};</script>
<script>{program}</script>
"""


@pytest.fixture(scope="session")
def reports(stack: Stack, peers: dict[str, dict[str, str]]) -> Callable[[str], dict[str, Any]]:
    """What a library's page reported: each runs once. `client` is the library with its version."""

    @functools.cache
    def report(library: str) -> dict[str, Any]:
        package = json.loads((MODULES / library / "package.json").read_text())
        name, version = package["name"], package["version"]
        peer = peers["hypha" if name == "imjoy-rpc" else "imjoy"]
        given = json.dumps({"library": name, "url": USUAL_URL, **peer})
        page = PAGE.format(name=name, version=version, given=given, program=PROGRAM)
        calls = run_page(page, stack, seconds=400)["result"]
        return {"client": f"{name} {version}, JavaScript", "calls": calls}

    return report


@pytest.mark.parametrize(("library", "call"), [(x, y) for x in LIBRARIES for y in CALLS if (x, y) not in NOT_THERE])
def test_call(
    reports: Callable[[str], dict[str, Any]], record_property: Callable[[str, object], None], library: str, call: str
) -> None:
    report = reports(library)
    record_property("client", report["client"])
    record_property("call", call)
    assert report["calls"][call] is None, report["calls"][call]
