"""`python -m bioengine_server.bound PID ...`: the command line, which ends with the process PID that started it.

The kernel sends it SIGTERM then, also where that process was killed and could end nothing itself.
"""

import ctypes
import os
import signal
import sys

from bioengine_server.cli import app

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    parent, *arguments = sys.argv[1:]
    if os.getppid() != int(parent):  # it has ended meanwhile
        sys.exit(1)
    app(arguments, prog_name="bioengine")
