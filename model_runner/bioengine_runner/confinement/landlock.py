"""Landlock: limits which files a process, and everything that it starts, may open. It needs Linux 5.13, and no special rights.

The numbers are those of linux/landlock.h; https://docs.kernel.org/userspace-api/landlock.html explains them. A right that is
handled is refused everywhere except under the paths that are named. No version of Landlock handles yet: reading names, sizes and
modes (stat), changing times, modes and owners, and connecting to a Unix socket that has a path.
`bioengine_runner.confinement.seccomp` refuses the changes and the connections.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bioengine_runner.confinement.kernel import system_call

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on all architectures
_ASK_VERSION = 1
_PATH_RULE, _PORT_RULE = 1, 2

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE = 1 << 4, 1 << 5
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
BIND_TCP, CONNECT_TCP = 1 << 0, 1 << 1
_SCOPE_ABSTRACT_UNIX_SOCKET, _SCOPE_SIGNAL = 1 << 0, 1 << 1

# The file system rights that each version of Landlock, from 1 on, can refuse.
_FILE_RIGHTS = ((1 << 13) - 1, REFER, TRUNCATE, 0, IOCTL_DEV)
_FIRST_WITH_PORTS = 4
_FIRST_WITH_SCOPES = 6

# The rights that a rule for a file, not a folder, may name.
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

READ = READ_FILE | READ_DIR
CHANGE = READ | WRITE_FILE | TRUNCATE | MAKE_REG | MAKE_DIR | MAKE_SYM | MAKE_FIFO | REMOVE_FILE | REMOVE_DIR | REFER


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("ports", ctypes.c_uint64), ("scopes", ctypes.c_uint64)]


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("rights", ctypes.c_uint64), ("parent", ctypes.c_int32)]


class _PortRule(ctypes.Structure):
    _fields_ = [("rights", ctypes.c_uint64), ("port", ctypes.c_uint64)]


@dataclass(frozen=True)
class Access:
    """`rights` to a path and everything below it; links are followed. A path that does not exist is ignored."""

    path: Path
    rights: int


def version() -> int:
    """The version of Landlock in this kernel; 0 if it has none, or if this process may not use it."""
    try:
        return system_call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_ASK_VERSION))
    except OSError:
        return 0


def restrict(accesses: Iterable[Access], bind_ports: Iterable[int] = (), with_scopes: bool = True) -> None:
    """Restrict this thread, and every program that it starts or becomes, to `accesses` for good, as far as the kernel can.

    It can bind only the TCP ports in `bind_ports`, connect to none, and cannot read the memory or environment of others. With
    `with_scopes`, it can signal only processes that are restricted together with it. Needs no_new_privs. Raises OSError.
    """
    known = version()
    handled = 0
    for rights in _FILE_RIGHTS[:known]:
        handled |= rights
    ports = BIND_TCP | CONNECT_TCP if known >= _FIRST_WITH_PORTS else 0
    scopes = _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL if with_scopes and known >= _FIRST_WITH_SCOPES else 0
    ruleset = _Ruleset(handled, ports, scopes)
    with _descriptor(
        system_call(_CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(ctypes.sizeof(ruleset)), ctypes.c_uint32(0))
    ) as rules:
        for access in accesses:
            _allow_path(rules, access, handled)
        for port in bind_ports if ports else ():
            _add(rules, _PORT_RULE, _PortRule(BIND_TCP, port))
        system_call(_RESTRICT_SELF, ctypes.c_int(rules), ctypes.c_uint32(0))


def _allow_path(rules: int, access: Access, handled: int) -> None:
    try:
        parent = os.open(access.path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # it does not exist on this machine, or this process cannot open it either
    with _descriptor(parent):
        rights = access.rights & handled
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            rights &= _OF_FILES
        _add(rules, _PATH_RULE, _PathRule(rights, parent))


def _add(rules: int, kind: int, rule: ctypes.Structure) -> None:
    system_call(_ADD_RULE, ctypes.c_int(rules), ctypes.c_int(kind), ctypes.byref(rule), ctypes.c_uint32(0))


@contextlib.contextmanager
def _descriptor(number: int) -> Iterator[int]:
    try:
        yield number
    finally:
        os.close(number)
