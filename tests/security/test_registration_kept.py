"""The server's registration is renewed if it is lost; if Hypha's manager has ended, the process is restarted.

No client can cause either any more, so the loss is caused from within.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from bioengine_contract.version import VERSION
from bioengine_server.access.registry import TokenRegistry
from bioengine_server.access.rules import Access
from bioengine_server.foreign.hypha import manager_of
from bioengine_server.hypha.application import create_hypha, hypha_store
from bioengine_server.hypha.secrets import new_secret
from bioengine_server.service.registration import LocalRegistration
from bioengine_server.settings import Settings

from tests.stack.harness import ROOT, free_port, get, wait_for
from tests.tiers import cases

DEFINITION = {
    "id": "triton-client",
    "config": {"visibility": "public", "require_context": True},
    "execute": lambda context=None: "done",
}


class Registering:
    """Stands in for `Registration`, whose service would need a Triton."""

    async def register(self, api: Any) -> str:
        info = await api.register_service(dict(DEFINITION), {"overwrite": True})
        return str(info["id"])


class Kept:
    def __init__(self, store: Any) -> None:
        self.store = store
        self.registered: list[str] = []
        self.lost = asyncio.Event()
        self.registration = LocalRegistration(store, Registering(), self.registered.append, self.lost.set)  # type: ignore[arg-type]

    async def answers(self) -> bool:
        """Whether a client finds the service and gets an answer."""
        try:
            async with self.store.get_workspace_interface(self.store.get_root_user(), "public", client_id="asking") as api:
                async with asyncio.timeout(2):
                    service = await api.get_service("public/triton-client")
                    return bool(await service.execute() == "done")
        except Exception:
            return False


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    settings = Settings(home=tmp_path, run_dir=tmp_path, port=free_port())
    app = create_hypha(settings, Access(settings, TokenRegistry(tmp_path)), new_secret())
    async with app.router.lifespan_context(app):
        found = Kept(hypha_store(app))
        await found.registration.register()
        watching = asyncio.create_task(found.registration.watch())
        yield found
        watching.cancel()
        await asyncio.wait({watching})


def ends_of(store: Any, client: str) -> list[Any]:
    """The RPC ends of a client in the public workspace."""
    import gc

    from bioengine_server.hypha.rpc_limits import LimitedRPC

    found = [thing for thing in gc.get_objects() if isinstance(thing, LimitedRPC)]
    return [end for end in found if end.client_id == client and end.workspace == "public"]


@pytest.mark.parametrize("loss", cases(["its services", "its entry", "its connection"], core=["its services"]))
async def test_a_service_that_is_lost_is_soon_there_again(kept: Kept, loss: str) -> None:
    assert await kept.answers() and len(kept.registered) == 1
    if loss == "its services":
        for end in ends_of(kept.store, "bioengine"):
            end.sessions.pop("services")
    elif loss == "its entry":
        redis = manager_of(kept.store)._redis
        for key in [key async for key in redis.scan_iter("*triton-client*")]:
            await redis.delete(key)
    else:
        for end in ends_of(kept.store, "bioengine"):
            await end.disconnect()
    async with asyncio.timeout(30):
        while len(kept.registered) == 1 or not await kept.answers():
            await asyncio.sleep(0.2)
    assert len(kept.registered) == 2 and not kept.lost.is_set()


async def test_a_manager_that_is_gone_is_told_of(kept: Kept) -> None:
    manager_of(kept.store)._rpc._object_store.pop("services")
    async with asyncio.timeout(30):
        await kept.lost.wait()


LOSING = """
import asyncio, os, sys
from bioengine_server import stack
from bioengine_server.foreign.hypha import manager_of

made = stack._local_registration

def losing(store, *arguments):
    async def lose():
        await asyncio.sleep(1)
        manager_of(store)._rpc._object_store.pop("services")
    if not os.environ.get("LOST"):
        os.environ["LOST"] = "1"
        asyncio.ensure_future(lose())
    return made(store, *arguments)

stack._local_registration = losing
from bioengine_server.cli import app
app(prog_name="bioengine")
"""


@pytest.mark.extended
def test_a_process_whose_manager_is_gone_fails_liveness_and_starts_again(tmp_path: Path) -> None:
    port = free_port()
    program = tmp_path / "losing.py"
    program.write_text(textwrap.dedent(LOSING))
    command = [sys.executable, str(program), "up", "--workers-only", "--port", str(port), "--home", str(tmp_path / "home")]
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        url = f"http://127.0.0.1:{port}/health/liveness"
        wait_for(lambda: "Restarting." in log.read_text(), 60, f"the process starts again:\n{log.read_text()}")
        wait_for(lambda: get(url) == (200, {"status": "OK", "version": VERSION}), 60, "alive again")
        assert process.poll() is None, "it is the same process"
        assert log.read_text().count("Hypha's manager does not answer") >= 3
    finally:
        process.terminate()
        process.wait(20)
