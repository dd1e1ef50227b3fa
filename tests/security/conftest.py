"""Stacks that several files attack; each test leaves them as they were."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import hypha_rpc.rpc
import hypha_rpc.websocket_client
import imjoy_rpc.hypha.rpc
import pytest

from tests.security.witness import Witness
from tests.stack.conftest import filled_home, own_home, stack, token_stack
from tests.stack.harness import ROOT, Stack, fill_home

__all__ = ["filled_home", "own_home", "siege", "stack", "token_stack", "witness"]

_CHANGED = [
    (hypha_rpc.rpc, "index_object"),
    (hypha_rpc.websocket_client, "RPC"),
    (hypha_rpc.rpc, "format_traceback"),
    (imjoy_rpc.hypha.rpc, "FuturePromise"),
    (imjoy_rpc.hypha.rpc, "index_object"),
]
CANARY = "of-the-users-environment-and-nobody-elses"
SECRET = b"the secret of the lab: 4711"


@dataclass(frozen=True)
class Siege:
    """A stack with a hostile model in it, and what was there before it started."""

    stack: Stack
    before: frozenset[Path]

    @property
    def home(self) -> Path:
        return self.stack.home

    def tries(self, *tries: Any) -> list[list[Any]]:
        """What the intruder got by each of its tries: ["done", what], or [error, its text]."""
        tensor = {"name": "tries", "shape": [1], "datatype": "BYTES", "data": [json.dumps(tries)]}
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.stack.settings.triton_sockets / "http")), timeout=60
        ) as triton:
            answer = triton.post("http://triton/v2/models/intruder/infer", json={"inputs": [tensor]}).raise_for_status().json()
        outcomes: list[list[Any]] = json.loads(answer["outputs"][0]["data"][0])
        assert len(outcomes) == len(tries)
        return outcomes


def everything_under(*folders: Path) -> Iterator[Path]:
    for folder in folders:
        yield folder
        yield from folder.rglob("*")


@pytest.fixture(scope="session")
def siege(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    """Started in its home, with a secret of its user's in the environment and in files."""
    home = tmp_path_factory.mktemp("siege") / "home"
    fill_home(home, packages)
    shutil.copytree(ROOT / "tests" / "security" / "intruder", home / "triton-models" / "intruder")
    (home / "secret").write_bytes(SECRET)
    (home / "secret").chmod(0o600)
    before = frozenset(everything_under(home))
    program = ("env", "-C", str(home), str(ROOT / "bioengine"))
    with Stack(home, program=program, AWS_SECRET_ACCESS_KEY=CANARY) as stack:
        assert os.readlink(f"/proc/{stack.process.pid}/cwd") == str(home)
        stack.token("somebody")
        yield Siege(stack, before)


@pytest.fixture(autouse=True)
def unchanged_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo a test's changes of the client libraries, such as a server makes, so that the next test uses them unchanged."""
    for module, name in _CHANGED:
        monkeypatch.setattr(module, name, getattr(module, name))


@pytest.fixture
def witness(stack: Stack, packages: Path) -> Iterator[Witness]:
    with Witness(stack, packages) as watching:
        yield watching
