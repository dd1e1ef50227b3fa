"""The system calls that confine a process, through ctypes: neither Python's standard library nor glibc offers them."""

from __future__ import annotations

import ctypes
import os
import signal

SET_NO_NEW_PRIVILEGES, GET_NO_NEW_PRIVILEGES = 38, 39  # PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS
DROP_FROM_BOUNDING_SET = 24  # PR_CAPBSET_DROP
SET_SIGNAL_AT_END_OF_PARENT = 1  # PR_SET_PDEATHSIG

_LIBRARY = ctypes.CDLL(None, use_errno=True)


def system_call(number: int, *arguments: object) -> int:
    """Make a system call and return its result. Raises OSError."""
    result = int(_LIBRARY.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def process_control(option: int, value: int) -> int:
    """Call prctl(2) and return its result. Raises OSError."""
    none = ctypes.c_ulong(0)
    result = int(_LIBRARY.prctl(option, ctypes.c_ulong(value), none, none, none))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that has started it ends, for whatever reason. Raises OSError."""
    process_control(SET_SIGNAL_AT_END_OF_PARENT, signal.SIGKILL)
