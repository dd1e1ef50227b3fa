"""Whether BioEngine can run with this Python: it prints what is missing and how to get it.

The exit status is 0 where nothing is, 2 for another version of Python, 1 for all else. For any Python 3, standard library only.
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
    """One line, or None."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return f"Triton's server program exists for Linux on x86-64 only; this is {platform.system()} on {platform.machine()}."
    if sys.version_info[:2] not in SUITABLE:
        return f"{EXECUTABLE} is Python {VERSION}; 3.11 or 3.12 is needed."
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return f"{EXECUTABLE} cannot make environments. Install its venv module:  sudo apt install python{VERSION}-venv"
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
