"""`python -m bioengine_server.bound ...`: the command line, which ends when its standard input does.

Whoever starts it holds the other end of that pipe; the kernel closes it also where that process was killed. (Linux' own signal
on a parent's death comes once for each of the parent's threads, and a second SIGTERM means not to end in order.)
"""

import os
import signal
import sys
import threading

from bioengine_server.cli import app


def _end_with_input() -> None:
    # Not by sys.stdin, whose lock would be missed where the program ends first.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    app(prog_name="bioengine")
