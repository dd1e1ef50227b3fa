"""Kill a Triton that hangs when the server asks for it, by changing a file beside the shared secret.

The server's side is `bioengine_server.triton.restart`. Docker then starts the container again.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from bioengine_contract.triton_protocol import RESTART_FILE

_INTERVAL = 1.0  # seconds between two checks


def end_on_request(secret_file: Path) -> None:
    """Start a process that kills this one, even after it has become Triton, as soon as the server asks for it."""
    file = secret_file.with_name(RESTART_FILE)
    before, parent = _content(file), os.getpid()
    if os.fork() != 0:
        return
    while os.getppid() == parent:
        time.sleep(_INTERVAL)
        if _content(file) not in ("", before):
            print("The server asks for a restart because Triton hangs. Killing it.", flush=True)
            os.kill(parent, signal.SIGKILL)
            break
    os._exit(0)


def _content(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
