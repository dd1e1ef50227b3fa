"""A process by itself: it starts no program and no other process, and has no socket, once it has called `be_alone`.

It is for the conversion of a package's weights, which runs code of the package. This filter comes on top of those of
`bioengine_runner.confinement.seccomp`. The first call that it refuses ends the process, which reports the call's name: no
conversion needs one of them. A package that handles the signal (SIGSYS) itself, or that blocks it, gains nothing: the call is not
made either way.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Callable
from typing import Any

from bioengine_runner.confinement import seccomp
from bioengine_runner.confinement.seccomp import NEVER_NEEDED, Check, Rule

PROGRAMS = {"execve": 59, "execveat": 322}
PROCESSES = {"fork": 57, "vfork": 58}
# Signals, and handles by which signals are sent.
KILL = 62
SIGNALS = {
    "tkill": 200, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "pidfd_open": 434, "pidfd_send_signal": 424,
    "process_madvise": 440, "process_mrelease": 448,
}  # fmt: skip
SOCKETS = {
    "socket": 41, "socketpair": 53, "connect": 42, "bind": 49, "listen": 50, "accept": 43, "accept4": 288, "sendto": 44,
    "sendmsg": 46, "sendmmsg": 307,
}  # fmt: skip
# Memory that no limit of a process counts.
_HIDDEN_MEMORY = {"memfd_create": 319, "memfd_secret": 447}
_IO_URING = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427}
_REFUSED = {
    **NEVER_NEEDED, **PROGRAMS, **PROCESSES, "kill": KILL, **SIGNALS, **SOCKETS, **_HIDDEN_MEMORY, **_IO_URING,
}  # fmt: skip

_CLONE, _CLONE_THREAD = 56, 0x00010000
_TGKILL = 234

_NUMBER = 24  # offset of si_syscall in siginfo_t
_WITH_INFO, _NESTED = 0x4, 0x40000000  # SA_SIGINFO, SA_NODEFER

_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _Action(ctypes.Structure):
    """struct sigaction of glibc on x86-64."""

    _fields_ = [
        ("handler", _Handler),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


_kept: list[Any] = []  # what the kernel calls must not be freed


def be_alone(tell: Callable[[str], None]) -> None:
    """Install the filter for this process with all of its threads, for good.

    Args:
        tell: called with the name of the first refused call; the process then ends with status 1.

    Needs no_new_privs. Raises OSError.
    """
    names = {number: name for name, number in _REFUSED.items()} | {_CLONE: "clone", _TGKILL: "tgkill"}

    def refused(_: int, information: int, __: int) -> None:
        try:
            number = ctypes.c_int.from_address(information + _NUMBER).value
            tell(names.get(number, f"number {number}"))
        finally:
            os._exit(1)

    action = _Action(_Handler(refused), flags=_WITH_INFO | _NESTED)
    _kept.append(action)
    if ctypes.CDLL(None, use_errno=True).sigaction(signal.SIGSYS, ctypes.byref(action), None) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    seccomp.install(_rules(), is_trapped=True, for_all_threads=True)


def _rules() -> tuple[Rule, ...]:
    return (
        *(Rule(number, errno.EPERM) for number in _REFUSED.values()),
        *threads_and_itself_only(),
    )


def threads_and_itself_only() -> tuple[Rule, ...]:
    """Rules for a process that starts threads but no other process, and sends signals to itself alone, as abort() does."""
    return (
        Rule(_CLONE, errno.EPERM, (Check(0, (_CLONE_THREAD,), _CLONE_THREAD),)),
        Rule(_TGKILL, errno.EPERM, (Check(0, (os.getpid(),)),)),
    )
