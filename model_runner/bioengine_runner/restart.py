"""End a stuck Triton when the server asks for it: by a file beside the secret that both share.

The server's side is `bioengine_server.triton.restart`. In a container, Docker then starts all of it again.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from bioengine_contract.triton_protocol import RESTART_FILE

_INTERVAL = 1.0  # seconds between two looks


def end_on_request(secret_file: Path) -> None:
    """Have a process of its own kill this one, whatever it has become by then, as soon as the server asks for it."""
    file = secret_file.with_name(RESTART_FILE)
    before, parent = _content(file), os.getpid()
    if os.fork() != 0:
        return
    while os.getppid() == parent:
        time.sleep(_INTERVAL)
        if _content(file) not in ("", before):
            print("The server asks for a new Triton: this one is stuck. Ending it.", flush=True)
            os.kill(parent, signal.SIGKILL)
            break
    os._exit(0)


def _content(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
