"""The contract's calls over plain HTTP: of the service, as the other clients make them, and in Triton's own protocol."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.test_python_clients import PROGRAM, run_program
from tests.stack.harness import Stack

ENVIRONMENT = "client-pyotritonclient"
TRITON_PROGRAM = PROGRAM.with_name("triton_program.py")

# What both speak of: models. They hold no connection that others could call, and pyotritonclient knows no tokens.
CALLS = [
    "published example", "[[image]]", "return_rdf", "failure as data", "array and dict", "wrong dtype", "sequences",
    "get_config", "model dtypes", "large image",
]  # fmt: skip
OF_SERVICES = ["get_status", "refused argument", "wrong token", "list_services"]
PLAIN = {"msgpack": "plain HTTP, msgpack", "gzip": "plain HTTP, gzip and msgpack", "json": "plain HTTP, JSON"}
CELLS = [
    *(("plain_http", mode, call) for mode in PLAIN for call in [*CALLS, *OF_SERVICES]),
    *(("triton_http", "async", call) for call in CALLS),
]
TRITON_CELLS = re.findall(r'^@call\("(.+)", "(.+)"\)$', TRITON_PROGRAM.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def reports(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Any]:
    """What a client reported; each runs once."""

    @functools.cache
    def report(library: str, mode: str) -> Any:
        folder: Path = tmp_path_factory.mktemp(f"{library}-{mode}")
        if mode == "triton":
            return run_program(ENVIRONMENT, folder, str(TRITON_PROGRAM), library, f"{stack.url}/triton")
        calls = [call for of_library, of_mode, call in CELLS if (of_library, of_mode) == (library, mode)]
        (folder / "given.json").write_text(json.dumps({"calls": calls}))
        return run_program(ENVIRONMENT, folder, str(PROGRAM), library, mode, stack.url, str(folder / "given.json"))

    return report


@pytest.mark.parametrize(("library", "mode", "call"), CELLS)
def test_call(
    reports: Callable[[str, str], Any], record_property: Callable[[str, object], None], library: str, mode: str, call: str
) -> None:
    report = reports(library, mode)
    record_property("client", PLAIN.get(mode, f"pyotritonclient {report['version']}"))
    record_property("call", call)
    assert report["calls"][call] is None, report["calls"][call]


@pytest.mark.parametrize(("library", "call"), TRITON_CELLS)
def test_call_of_tritons_protocol(
    reports: Callable[[str, str], Any], record_property: Callable[[str, object], None], library: str, call: str
) -> None:
    report = reports(library, "triton")
    record_property("client", f"{library} {report['version']}")
    record_property("call", call)
    assert report["calls"][call] is None, report["calls"][call]
