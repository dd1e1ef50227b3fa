"""What each command that runs for long does with its process: its home and its run dir are its own, signals stop it, and work
goes on beside."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from bioengine_server.errors import HomeInUse, StackError, UnsafeFolder
from bioengine_server.fresh import locked
from bioengine_server.home_in_use import announced
from bioengine_server.parts import check_room
from bioengine_server.private_folder import make_private
from bioengine_server.settings import Settings
from bioengine_server.triton.orphans import left_of, sweep

logger = logging.getLogger(__name__)

# The time limit for a stop as a whole; a second Ctrl-C ends the process at once.
STOP_PATIENCE = 9.0  # seconds
_BACKGROUND_PATIENCE = 1.0  # seconds
_BACKGROUND_PAUSE = 1.0  # seconds


@contextlib.contextmanager
def own_home(settings: Settings) -> Iterator[str]:
    """Lock the home and its run dir for this process, and return the server's name. Raises StackError."""
    try:
        settings.store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StackError(
            f"The home {settings.home} cannot be made: {error.strerror}. Choose another with --home FOLDER."
        ) from error
    folder = settings.node_folder
    if "?" in str(folder):  # SQLAlchemy would cut the path of Hypha's database there
        raise StackError(f"The run dir {folder} has a '?' in its name. Choose another with BIOENGINE_RUN_DIR.")
    try:
        make_private(folder)
    except OSError as error:
        raise StackError(
            f"The run dir {folder} cannot be made: {error.strerror}. Choose another with BIOENGINE_RUN_DIR."
        ) from error
    check_room(settings)
    with contextlib.ExitStack() as locks:
        with contextlib.suppress(OSError):  # a file system without locks; the folder's times are updated too
            locks.enter_context(locked(folder))
        locks.enter_context(_owned(folder, settings))
        # Needed even if two servers with the same home use different run dirs: they would stop each other's Triton.
        if folder != settings.usual_node_folder:
            with contextlib.suppress(OSError, UnsafeFolder):
                make_private(settings.usual_node_folder)
                locks.enter_context(_owned(settings.usual_node_folder, settings))
        yield locks.enter_context(announced(settings))


def sweep_dead() -> None:
    """End and remove what servers and workers of ours on this machine have left that were killed, whatever their homes are."""
    owners = {f"{owner.parent.name}-": owner for owner in Path(tempfile.gettempdir()).glob("bioengine-*/owner")}
    for shm_prefix in left_of(owners):  # of the thousands of homes that there may have been, few have left anything
        owner = owners[shm_prefix]
        with contextlib.suppress(OSError), open(os.open(owner, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)) as file:
            if os.fstat(file.fileno()).st_uid == os.geteuid():
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # those that live hold it
                sweep(shm_prefix)


@contextlib.contextmanager
def _owned(folder: Path, settings: Settings) -> Iterator[None]:
    """Lock a folder on this node for this process. Raises HomeInUse, OSError."""
    # On this node, not in the home, which may be on a network file system.
    with open(os.open(folder / "owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+") as owner:
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HomeInUse(settings.home, owner.read().strip() or "starting") from None
        owner.truncate(0)
        owner.write(f"process {os.getpid()}, {settings.url}\n")
        owner.flush()
        yield


def stop_on_signals(patience: float | None = STOP_PATIENCE) -> asyncio.Event:
    """An event that SIGINT and SIGTERM set. A second signal, or a stop that hangs, ends the process at once.

    Args:
        patience: seconds that a stop may take; None: as long as it needs, and only a second SIGINT ends it at once, since engines
            may send SIGTERM more than once: Slurm does before the end of a job's time, whoever has told it to end already.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def handle(number: int) -> None:
        if stop.is_set() and (patience is not None or number == signal.SIGINT):
            os._exit(1)
        stop.set()
        # The kernel then kills Triton too (see bioengine_runner.launch); the next start cleans up the rest.
        if patience is not None:
            loop.call_later(patience, os._exit, 1)

    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, handle, signal_number)
    return stop


@contextlib.asynccontextmanager
async def background(work: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Run `work()` as a task for as long as the context is open. If it fails, that is logged, and it is begun again."""
    task = asyncio.create_task(_kept_going(work))
    try:
        yield
    finally:
        task.cancel()
        # With a time limit: a hypha-rpc call that is cancelled while its other side is disconnected may never end.
        await asyncio.wait({task}, timeout=_BACKGROUND_PATIENCE)


async def _kept_going(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        try:
            return await work()
        except Exception:
            logger.exception("Work in the background failed, and is begun again")
            await asyncio.sleep(_BACKGROUND_PAUSE)


async def first(*events: asyncio.Event) -> None:
    """Wait for any of them."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
