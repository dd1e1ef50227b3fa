"""`python -m bioengine_server.bound ...`: the command line, which ends when its standard input is closed.

The process that starts it holds the other end of the pipe; the kernel closes it even if that process was killed. (Linux' signal
on a parent's death is sent once for each of the parent's threads, and a second SIGTERM would end the process at once.)
"""

import os
import signal
import sys
import threading

from bioengine_contract.lean_import import lean_import

with lean_import():
    from bioengine_server.cli import app


def _end_with_input() -> None:
    # Not by sys.stdin, whose lock would be missed where the program ends first.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    app(prog_name="bioengine")
