"""A process by itself: it starts no program and no other process, and has no socket, once it has called `be_alone`.

It is for the conversion of a package's weights, which runs code of the package. This filter comes on top of those of
`bioengine_runner.confinement.seccomp`. The first call that it refuses ends the process, which reports the call's name: no
conversion needs one of them. A package that handles the signal (SIGSYS) itself, or that blocks it, gains nothing: the call is not
made either way.

The signal's handler is machine code: where it arrives in the middle of a fork, the C library holds locks on which a handler in
Python would wait forever.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import struct
from typing import Any

from bioengine_runner.confinement import seccomp
from bioengine_runner.confinement.kernel import SET_SIGNAL_AT_END_OF_PARENT
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
# Shared memory without a file, too, is counted nowhere once it was unmapped in part (MADV_DONTNEED): the kernel keeps it.
_MMAP, _SHARED_AND_ANONYMOUS = 9, 0x21
# It must not outlive the server, which gives up the process's time and memory only while it runs itself.
_PRCTL = 157
_SET_AFFINITY = 203

_WITH_INFO = 0x4  # SA_SIGINFO

_NAME, _NAMES = 32, 512  # bytes of a name, and how many there are; system calls have smaller numbers


class _Action(ctypes.Structure):
    """struct sigaction of glibc on x86-64."""

    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


_kept: list[Any] = []  # what the kernel calls must not be freed


def be_alone(report: int) -> None:
    """Install the filter for this process with all of its threads, for good.

    Args:
        report: the descriptor of a file, to which the name of the first refused call is written, filled up with zeros; the
            process then ends with status 1. Nothing is written if the process has blocked the signal, as the C library does while
            it starts a program: the signal then ends the process.

    Needs no_new_privs. Raises OSError.
    """
    action = _Action(_handler(report), flags=_WITH_INFO)
    if ctypes.CDLL(None, use_errno=True).sigaction(signal.SIGSYS, ctypes.byref(action), None) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    # Libraries try this for their own threads, and go on without.
    seccomp.install((Rule(_SET_AFFINITY, errno.EPERM, (Check(0, (0,)),)),), for_all_threads=True)
    seccomp.install(_rules(), is_trapped=True, for_all_threads=True)


def _handler(report: int) -> int:
    """The address of a signal handler, which writes the name of the call that its argument `siginfo_t` names, and exits."""
    names = ctypes.create_string_buffer(_NAME * _NAMES)
    for name, number in {**_REFUSED, "clone": _CLONE, "tgkill": _TGKILL, "mmap": _MMAP, "prctl": _PRCTL}.items():
        ctypes.memmove(ctypes.addressof(names) + _NAME * number, name.encode(), len(name))
    code = b"".join((
        b"\x8b\x46\x18",  # mov eax, [rsi + 24]      si_syscall
        b"\x25\xff\x01\x00\x00",  # and eax, 511
        b"\xc1\xe0\x05",  # shl eax, 5               times the length of a name
        b"\x48\xbe" + struct.pack("<Q", ctypes.addressof(names)),  # mov rsi, names
        b"\x48\x01\xc6",  # add rsi, rax
        b"\xba" + struct.pack("<I", _NAME),  # mov edx, 32
        b"\xbf" + struct.pack("<I", report),  # mov edi, report
        b"\xb8\x01\x00\x00\x00\x0f\x05",  # mov eax, 1; syscall      write
        b"\xbf\x01\x00\x00\x00",  # mov edi, 1
        b"\xb8\xe7\x00\x00\x00\x0f\x05",  # mov eax, 231; syscall    exit_group
    ))  # fmt: skip
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    place = ctypes.c_char.from_buffer(memory)
    _kept.extend((names, memory, place))
    return ctypes.addressof(place)


def _rules() -> tuple[Rule, ...]:
    return (
        *(Rule(number, errno.EPERM) for number in _REFUSED.values()),
        *threads_and_itself_only(),
        Rule(_MMAP, errno.EPERM, (Check(3, (_SHARED_AND_ANONYMOUS,), _SHARED_AND_ANONYMOUS, is_one=False),)),
        Rule(_PRCTL, errno.EPERM, (Check(0, (SET_SIGNAL_AT_END_OF_PARENT,), is_one=False),)),
    )


def threads_and_itself_only() -> tuple[Rule, ...]:
    """Rules for a process that starts threads but no other process, and sends signals to itself alone, as abort() does."""
    return (
        Rule(_CLONE, errno.EPERM, (Check(0, (_CLONE_THREAD,), _CLONE_THREAD),)),
        Rule(_TGKILL, errno.EPERM, (Check(0, (os.getpid(),)),)),
    )
