"""Check whether BioEngine can run with this Python; print what is missing and how to install it.

The exit status is 0 if nothing is missing, 2 if the version of Python is wrong, otherwise 1. It runs with any Python 3 and uses
only the standard library.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import sysconfig

EXECUTABLE = sys.executable
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
SUITABLE = ((3, 11), (3, 12))


def what_is_missing() -> str | None:
    """What is missing, in one line; None if nothing is."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return f"Triton's server program exists for Linux on x86-64 only; this is {platform.system()} on {platform.machine()}."
    if sys.version_info[:2] not in SUITABLE:
        return f"{EXECUTABLE} is Python {VERSION}, but BioEngine needs 3.11 or 3.12."
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return f"{EXECUTABLE} cannot create virtual environments. Install its venv module:  sudo apt install python{VERSION}-venv"
    # Triton loads Python as a shared library.
    library = f"libpython{VERSION}.so.1.0"
    for candidate in (os.path.join(sysconfig.get_config_var("LIBDIR") or "/nowhere", library), library):
        try:
            ctypes.CDLL(candidate)
            return None
        except OSError:
            pass
    return f"{EXECUTABLE} has no shared library for Triton to load. Install it:  sudo apt install libpython{VERSION}"


if __name__ == "__main__":
    missing = what_is_missing()
    if missing:
        print(missing)
    sys.exit(0 if not missing else 1 if sys.version_info[:2] in SUITABLE else 2)
