"""The machine: memory, shared memory, disks, the clock."""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from bioengine_server.doctor.finding import Finding
from bioengine_server.doctor.setup import Setup

_GB = 1e9
_SHARED_MEMORY = Path("/dev/shm")
_MIN_MEMORY, _USUAL_MEMORY = 3 * _GB, 8 * _GB
_MIN_SHARED_MEMORY, _USUAL_SHARED_MEMORY = 0.25 * _GB, 1.9 * _GB
_MIN_DISK, _USUAL_DISK, _MIN_RUN_DIR = 1 * _GB, 10 * _GB, 0.05 * _GB
_MAX_DIFFERENCE = (
    30.0  # seconds; a token is not valid before the time of its creation, according to the clock of the machine that checks it
)
_PATIENCE = 10.0  # seconds


def memory(_: Setup) -> Iterator[Finding]:
    """The stack takes about 1 GB, each loaded model a few hundred MB and more."""
    state = psutil.virtual_memory()
    found = f"{state.available / _GB:.1f} GB free of {state.total / _GB:.1f} GB"
    if state.available < _MIN_MEMORY:
        advice = "The stack and a small model need 3 GB. Stop other programs, or give the machine more memory."
        yield Finding("memory", "problem", found, advice)
    elif state.available < _USUAL_MEMORY:
        yield Finding("memory", "note", found, "Enough for small models; large models, and large images, need 8 GB and more.")
    else:
        yield Finding("memory", "ok", found)


def shared_memory(setup: Setup) -> Iterator[Finding]:
    """The memory through which processes pass tensors; with a Triton in another container, a shared folder, if any."""
    is_elsewhere = setup.settings.triton_is_elsewhere
    folder = setup.settings.shared_tensors if is_elsewhere else _SHARED_MEMORY
    if folder is None:
        return
    if not folder.is_dir():
        advice = (
            "Create it as an in-memory folder with this path for both this server and Triton, or remove BIOENGINE_SHARED_TENSORS."
        )
        yield Finding("shared memory", "problem", f"{folder} does not exist", advice)
        return
    space = shutil.disk_usage(folder)
    found = f"{folder}: {space.free / _GB:.1f} GB free of {space.total / _GB:.1f} GB"
    advice = "Images are passed to models through it: provide four times the size of the largest image, at least 2 GB. " + (
        "With containers it is the volume `tensors`, half of the machine's memory."
        if is_elsewhere
        else "`sudo mount -o remount,size=4G /dev/shm`."
    )
    if space.free < _MIN_SHARED_MEMORY:
        yield Finding("shared memory", "problem", found, advice)
    elif space.free < _USUAL_SHARED_MEMORY:
        yield Finding("shared memory", "note", found, advice)
    else:
        yield Finding("shared memory", "ok", found)


def disk(setup: Setup) -> Iterator[Finding]:
    """Room for models in the home and for logs in the run dir."""
    for subject, folder in (("disk of the home", setup.settings.home), ("disk of the run dir", setup.settings.node_folder)):
        place = next(parent for parent in (folder, *folder.parents) if parent.exists())
        space = shutil.disk_usage(place)
        found = f"{folder}: {space.free / _GB:.1f} GB free"
        is_home = folder == setup.settings.home
        # The run dir of a server whose Triton is elsewhere has its log and database, and in a container little room, in memory.
        least = _MIN_DISK if is_home or not setup.settings.triton_is_elsewhere else _MIN_RUN_DIR
        if not os.access(place, os.W_OK | os.X_OK):
            yield Finding(
                subject, "problem", f"{place} cannot be written to", "Give yourself access to it, or choose another folder."
            )
        elif space.free < least:
            advice = (
                "`./bioengine models prune --keep-gb N` removes the least recently used models."
                if is_home
                else "Free space there."
            )
            yield Finding(subject, "problem", found, advice)
        elif is_home and space.free < _USUAL_DISK:
            yield Finding(
                subject,
                "note",
                found,
                "A model has about 10 to 500 MB; free space, or choose a folder on another disk with --home.",
            )
        else:
            yield Finding(subject, "ok", found)


def clock(setup: Setup) -> Iterator[Finding]:
    """Compare the clock with that of the collection's host: with a wrong clock, tokens and certificates are not valid."""
    if setup.settings.offline:
        yield Finding(
            "clock", "note", f"{_now():%Y-%m-%d %H:%M} UTC", "Not compared with another clock, because the server is offline."
        )
        return
    host = urlsplit(setup.settings.collection_url)
    try:
        answer = httpx.head(f"{host.scheme}://{host.netloc}/", timeout=_PATIENCE)
        difference = (_now() - parsedate_to_datetime(answer.headers["date"])).total_seconds()
    except (httpx.HTTPError, KeyError, ValueError) as error:
        reason = f"{host.hostname} did not return the time ({type(error).__name__})"
        advice = (
            f"Not compared: {reason}. Models cannot be downloaded without that host either; use --offline if this is intended."
        )
        yield Finding("clock", "note", f"{_now():%Y-%m-%d %H:%M} UTC", advice)
        return
    found = f"{abs(difference):.0f} s {'after' if difference > 0 else 'before'} that of {host.hostname}"
    if abs(difference) > _MAX_DIFFERENCE:
        advice = "With a wrong clock, tokens and certificates are not valid. Synchronize it: `sudo timedatectl set-ntp true`."
        yield Finding("clock", "problem", found, advice)
    else:
        yield Finding("clock", "ok", found)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
