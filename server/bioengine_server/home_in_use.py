"""Find out which home a running server uses, so that commands for another home can print a note.

A server has a random name while it runs. The name is in a file in its home, which only the owner can read, and in a header of the
health routes: a user of the home can recognize its server, and nobody else learns anything about the home.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bioengine_server.settings import Settings
from bioengine_server.whole_file import whole_file

HEADER = "BioEngine-Server"
_FILE = "server.json"
_PATIENCE = 1.0  # seconds


@dataclass(frozen=True)
class Announcement:
    """`name`: the random name. `url`: where it listens. `machine`, `process` and `run_dir`: of the server that wrote it."""

    name: str
    url: str
    machine: str
    process: int
    run_dir: str = ""


@contextlib.contextmanager
def announced(settings: Settings) -> Iterator[str]:
    """Write into the home which server uses it, and return the server's name. If the disk is full, the server runs without it."""
    file = settings.home / _FILE
    announcement = Announcement(secrets.token_hex(8), settings.url, socket.gethostname(), os.getpid(), str(settings.node_folder))
    with contextlib.suppress(OSError), whole_file(file, 0o600) as stream:
        stream.write(json.dumps(asdict(announcement)).encode())
    try:
        yield announcement.name
    finally:
        with contextlib.suppress(OSError):
            file.unlink()


def server_with_another_home(settings: Settings) -> str | None:
    """The URL of a server on this machine that uses another home, if no server uses that of these settings; otherwise None."""
    answering = _name_at(settings.url)
    if answering is None:
        return None
    user = _user_of(settings.home)
    if user is None:
        return settings.url
    if answering == user.name or _lives_here(user) or _name_at(user.url) == user.name:
        return None
    return settings.url


def run_dir_of(settings: Settings) -> Path:
    """The run dir of the server that uses the home, whatever settings it was started with; without one, that of the settings."""
    user = _user_of(settings.home)
    return Path(user.run_dir) if user and user.run_dir and user.machine == socket.gethostname() else settings.node_folder


def usual_url(settings: Settings) -> str:
    """The URL of the settings; if no BioEngine answers there, that of the home's server, whatever port it was started with."""
    user = _user_of(settings.home)
    if user is None or user.url == settings.url or _name_at(settings.url) is not None:
        return settings.url
    return user.url if _name_at(user.url) == user.name else settings.url


def _user_of(home: Path) -> Announcement | None:
    try:
        return Announcement(**json.loads((home / _FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _lives_here(user: Announcement) -> bool:
    """Whether the process that wrote it is alive, even if it does not serve HTTP, such as `./bioengine triton`."""
    if user.machine != socket.gethostname():
        return False
    try:
        # Not another process that has the same pid now.
        return b"bioengine_server" in Path(f"/proc/{user.process}/cmdline").read_bytes()
    except OSError:
        return False


def _name_at(url: str) -> str | None:
    """The name of the server at this address; None if no BioEngine answers."""
    try:
        address = urlsplit(url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", "/health/liveness")
            return connection.getresponse().headers.get(HEADER)
    except (OSError, ValueError, http.client.HTTPException):
        return None
