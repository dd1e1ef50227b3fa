"""Seccomp: refuses system calls to a process and everything that it starts. It needs Linux 3.17, and no special rights.

It complements Landlock, which is about paths: this filter refuses calls that reach other processes, the network and the kernel
itself, and what Landlock does not handle. Calls that models, their frameworks and CUDA use are allowed; each group below says why
it is refused. The numbers are those of x86-64 (asm/unistd_64.h); other architectures have no filter.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import platform
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from bioengine_runner.confinement.kernel import system_call

_SECCOMP = 317
_SET_MODE_FILTER, _GET_ACTION_AVAIL = 1, 2
# Without this flag, older kernels slow the process down to prevent speculation attacks, which is not the purpose of this filter.
_SPEC_ALLOW = 1 << 2
_ALL_THREADS = 1 << 0  # SECCOMP_FILTER_FLAG_TSYNC

_ARCHITECTURE = 0xC000003E  # AUDIT_ARCH_X86_64
_OTHER_NUMBERS = 0x40000000  # the x32 ABI's numbers begin here
_KILL, _TRAP, _ERRNO, _ALLOW = 0x80000000, 0x00030000, 0x00050000, 0x7FFF0000  # SECCOMP_RET_...
_LOAD, _AND, _EQUAL, _AT_LEAST, _JUMP, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x05, 0x06  # BPF's instructions
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

# Memory, threads and files of other processes.
_OTHER_PROCESSES = {"ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "pidfd_getfd": 438}
# Memory and messages that processes of one user share without a file: Landlock does not see them.
_SHARED_WITHOUT_FILES = {
    "shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "semop": 65, "semctl": 66, "msgget": 68, "msgsnd": 69,
    "msgrcv": 70, "msgctl": 71, "mq_open": 240, "mq_unlink": 241, "add_key": 248, "request_key": 249, "keyctl": 250,
}  # fmt: skip
# Opening files other than by path, and changing the view of the file system.
_FILE_SYSTEMS = {
    "open_by_handle_at": 304, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "mount_setattr": 442,
    "open_tree_attr": 467, "unshare": 272, "setns": 308, "quotactl": 179, "quotactl_fd": 443, "acct": 163, "swapon": 167,
    "swapoff": 168,
}  # fmt: skip
# Parts of the kernel in which most security holes were found, and calls that would stop the machine.
_KERNEL = {
    "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "kexec_load": 246, "kexec_file_load": 320, "init_module": 175,
    "finit_module": 313, "delete_module": 176, "reboot": 169, "syslog": 103, "iopl": 172, "ioperm": 173, "modify_ldt": 154,
    "personality": 135, "sethostname": 170, "setdomainname": 171, "settimeofday": 164, "clock_settime": 227, "vhangup": 153,
    "lookup_dcookie": 212, "nfsservctl": 180, "uselib": 134, "ustat": 136, "_sysctl": 156,
}  # fmt: skip
# Files that a process may not open must not be changed by their path either.
_BY_PATH = {
    "truncate": 76, "chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260, "setxattr": 188, "lsetxattr": 189,
    "fsetxattr": 190, "setxattrat": 463, "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199, "removexattrat": 466,
    "mknod": 133, "mknodat": 259,
}  # fmt: skip
# Notifications about files and folders that may not be opened: their names, and when they are used.
_WATCHING = {
    "inotify_init": 253, "inotify_init1": 294, "inotify_add_watch": 254, "fanotify_init": 300, "fanotify_mark": 301,
}  # fmt: skip
# Everything that Triton starts stays in its process group, and ends with it.
_OTHER_GROUPS = {"setsid": 112, "setpgid": 109}
NEVER_NEEDED = {
    **_OTHER_PROCESSES, **_SHARED_WITHOUT_FILES, **_FILE_SYSTEMS, **_KERNEL, **_WATCHING, **_OTHER_GROUPS,
}  # fmt: skip
"""System calls that neither a model nor a library of models makes, by name."""

# Connections, including those to a Unix socket such as Docker's.
_CONNECT = {"connect": 42}

# Changing a mode does nothing and reports success: otherwise Python's shutil would fail, and Boost in
# Triton's Python backend would open its shared memory to others (it makes it 0644 whatever the umask is).
# The times of a file that it may not open must stay as well; of an open one, they are set by its descriptor (futimens).
_WITHOUT_EFFECT = {
    "chmod": 90, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452, "utime": 132, "utimes": 235, "futimesat": 261,
}  # fmt: skip
# A filter cannot inspect the structures that these calls take; callers use the older call where these are missing.
_NOT_THERE = {"clone3": 435, "openat2": 437, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427}

_NEW_NAMESPACES = 0x7E020000  # all CLONE_NEW... flags of clone
_TYPE_OF_SOCKET = 0xF
_TYPE_INTO_TERMINAL = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
# A file can be told which process gets which signal when it is ready: that is a way to send any signal to any process.
_OWNERS_OF_FILES = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX of fcntl
_OWNERS_OF_SOCKETS = (0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP of ioctl
_TCP = (0, 6)  # the protocol TCP, by default or by number; not MPTCP, to which Landlock's rules for ports do not apply
_FAST_OPEN = 0x20000000  # MSG_FASTOPEN: connects without a connect


@dataclass(frozen=True)
class Check:
    """A condition for an argument of a system call: half of it, after `mask`, is one of `values`.

    `is_one` False: it is none of them. `is_upper_half`: it is the upper 32 bits of the argument that count, else the lower.
    """

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    is_one: bool = True
    is_upper_half: bool = False


@dataclass(frozen=True)
class Rule:
    """Refuses the system call `number` with `error`, unless all `checks` hold. Without checks, it is always refused.

    With the error 0, a refused call does nothing and reports success. `only_if`: the rule applies only to calls for which this
    condition holds. Rules for the same call have to follow each other; the first that refuses it decides.
    """

    number: int
    error: int
    checks: tuple[Check, ...] = ()
    only_if: Check | None = None


def is_available() -> bool:
    if platform.machine() != "x86_64":
        return False
    try:
        action = ctypes.c_uint32(_ERRNO)
        system_call(_SECCOMP, ctypes.c_uint(_GET_ACTION_AVAIL), ctypes.c_uint(0), ctypes.byref(action))
    except OSError:
        return False
    return True


def restrict(with_tcp: bool) -> None:
    """Install the filter for this thread, and every program that it starts or becomes, for good.

    Needs no_new_privs. Raises OSError.

    Args:
        with_tcp: whether it may listen on TCP ports; otherwise it can only listen on Unix sockets.
    """
    install(rules(with_tcp))


def install(refused: tuple[Rule, ...], is_trapped: bool = False, for_all_threads: bool = False) -> None:
    """Install a filter for this thread, and every program that it starts or becomes, for good. Raises OSError.

    Args:
        refused: the system calls that it refuses. Filters that were installed earlier stay in force.
        is_trapped: whether a refused call sends the signal SIGSYS, which ends the process unless it is handled.
        for_all_threads: whether it is for the other threads of this process, too.
    """
    program = _program(refused, is_trapped)
    filters = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, and their address.
    description = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(filters))
    flags = _SPEC_ALLOW | (_ALL_THREADS if for_all_threads else 0)
    thread = system_call(_SECCOMP, ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(flags), ctypes.c_char_p(description))
    if thread:
        raise OSError(errno.EBUSY, f"the thread {thread} has a filter of its own")


def rules(with_tcp: bool) -> tuple[Rule, ...]:
    """Which system calls are refused, and how."""
    tcp = (socket.AF_INET, socket.AF_INET6) if with_tcp else ()
    # A datagram carries its destination, and needs no connection.
    streams = Check(1, (socket.SOCK_STREAM,), _TYPE_OF_SOCKET)
    # CUDA's driver listens on a Unix socket of packets, and does not start without. On the network, such sockets are SCTP's.
    streams_or_packets = Check(1, (socket.SOCK_STREAM, socket.SOCK_SEQPACKET), _TYPE_OF_SOCKET)
    no_truncation = (os.O_RDONLY | os.O_TRUNC,)  # Landlock before Linux 6.2 does not refuse it
    no_address = (Check(4, (0,)), Check(4, (0,), is_upper_half=True))
    return (
        *(Rule(number, errno.EPERM) for number in (*NEVER_NEEDED.values(), *_BY_PATH.values())),
        *(Rule(number, errno.EACCES) for number in _CONNECT.values()),
        *(Rule(number, 0) for number in _WITHOUT_EFFECT.values()),
        *(Rule(number, errno.ENOSYS) for number in _NOT_THERE.values()),
        Rule(56, errno.EPERM, (Check(0, (0,), _NEW_NAMESPACES),)),  # clone
        Rule(41, errno.EACCES, (Check(0, (socket.AF_UNIX, *tcp)), streams_or_packets, Check(2, _TCP))),  # socket
        *([Rule(41, errno.EACCES, (streams,), only_if=Check(0, tcp))] if tcp else []),
        Rule(53, errno.EACCES, (Check(0, (socket.AF_UNIX,)), streams)),  # socketpair
        Rule(44, errno.EACCES, no_address),  # sendto
        Rule(46, errno.EACCES, (Check(2, (0,), _FAST_OPEN),)),  # sendmsg
        Rule(307, errno.EACCES, (Check(3, (0,), _FAST_OPEN),)),  # sendmmsg
        Rule(302, errno.EPERM, (Check(0, (0,)),)),  # prlimit64: limits of other processes
        # Priorities of other processes: pid 0 is the calling process itself.
        Rule(141, errno.EPERM, (Check(0, (os.PRIO_PROCESS,)), Check(1, (0,)))),  # setpriority
        *(Rule(number, errno.EPERM, (Check(0, (0,)),)) for number in (142, 144, 314)),  # sched_setparam, -scheduler, -attr
        Rule(251, errno.EPERM),  # ioprio_set
        Rule(16, errno.EPERM, (Check(1, (*_TYPE_INTO_TERMINAL, *_OWNERS_OF_SOCKETS), is_one=False),)),  # ioctl
        Rule(72, errno.EPERM, (Check(1, _OWNERS_OF_FILES, is_one=False),)),  # fcntl
        # utimensat. Setting the present time fails: Python's `touch` tries that first, and makes the file if it fails. Setting
        # another time works on an open file (without a path); by a path, it does nothing.
        Rule(280, errno.EPERM, (Check(2, (0,), is_one=False),)),
        Rule(280, 0, (Check(1, (0,)), Check(1, (0,), is_upper_half=True))),
        Rule(2, errno.EPERM, (Check(1, no_truncation, os.O_ACCMODE | os.O_TRUNC, is_one=False),)),  # open
        Rule(257, errno.EPERM, (Check(2, no_truncation, os.O_ACCMODE | os.O_TRUNC, is_one=False),)),  # openat
    )


def _program(refused: tuple[Rule, ...], is_trapped: bool) -> bytes:
    """Berkeley packet filter: instructions of (operation, jump if true, jump if false, operand)."""
    instructions = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, _ARCHITECTURE),
        (_RETURN, 0, 0, _KILL),  # 32-bit calls have other numbers
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _OTHER_NUMBERS),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    ]
    for number, rules_of_call in itertools.groupby(refused, lambda rule: rule.number):
        body = [
            instruction
            for rule in rules_of_call
            for instruction in _checks(rule, (_RETURN, 0, 0, _TRAP if is_trapped else _ERRNO | rule.error))
        ]
        body.append((_RETURN, 0, 0, _ALLOW))
        instructions += [(_EQUAL, 0, len(body), number), *body]
    instructions.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)


def _checks(rule: Rule, refuse: tuple[int, int, int, int]) -> Iterator[tuple[int, int, int, int]]:
    """The instructions of one rule: they carry out `refuse`, or go on behind it."""
    refusals = [instruction for check in rule.checks for instruction in _refusal(check, refuse)] if rule.checks else [refuse]
    if (condition := rule.only_if) is not None:
        yield from _loaded(condition)
        for number, value in enumerate(condition.values):
            yield (_EQUAL, len(condition.values) - number, 0, value)  # to the refusals
        yield (_JUMP, 0, 0, len(refusals))
    yield from refusals


def _refusal(check: Check, refuse: tuple[int, int, int, int]) -> Iterator[tuple[int, int, int, int]]:
    """The instructions that carry out `refuse` if a check does not hold."""
    yield from _loaded(check)
    if check.is_one:
        for number, value in enumerate(check.values):
            yield (_EQUAL, len(check.values) - number, 0, value)  # past the refusal
        yield refuse
    else:
        for value in check.values:
            yield (_EQUAL, 0, 1, value)
            yield refuse


def _loaded(check: Check) -> tuple[tuple[int, int, int, int], ...]:
    """The instructions that load what a check looks at: half of an argument, after the mask."""
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * check.argument + 4 * check.is_upper_half), (_AND, 0, 0, check.mask)
