"""Confinement: what Triton, its Python processes and the models in them can reach of this machine.

A TorchScript file reads and writes files as it likes, and so may whatever a model's file makes of a fault in its framework. So
`launch` gives up what they do not need just before it becomes Triton, and the kernel keeps it from all that Triton starts:

- `landlock`: they read the environments, the model store and the admin's own Triton models, and write their boot folder and
  shared memory. Nothing else of the file system can be opened, no process outside can be signalled or looked into.
- `seccomp`: no connection anywhere, no sockets but Unix ones to listen on (and TCP ones where Triton listens on TCP), and none of
  the system calls by which programs reach other processes or the kernel.
- no rights of root but that to files, even where root has started it; and none by set-user-id programs (no_new_privs).

No rights are needed for any of it. A kernel that lacks a part goes without, and the log says so; BIOENGINE_CONFINE decides.
Models are not kept from each other: they are one domain, with Triton.

    python -m bioengine_runner.confinement

prints what this machine's kernel has, for `bioengine doctor`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from bioengine_runner.confinement import landlock, seccomp
from bioengine_runner.confinement.kernel import DROP_FROM_BOUNDING_SET, SET_NO_NEW_PRIVILEGES, process_control
from bioengine_runner.confinement.landlock import Access

# Root may start it with a home that is a user's: its files can still be opened, as far as Landlock lets it.
_KEPT_RIGHT = 1  # CAP_DAC_OVERRIDE
_RIGHTS = 64  # more than there are

_SCOPES_SINCE, _PORTS_SINCE, _TRUNCATE_SINCE = 6, 4, 3


@dataclass(frozen=True)
class Protection:
    """What a kernel has. `landlock`: the version, 0 for none."""

    landlock: int
    seccomp: bool

    @property
    def lacks(self) -> list[str]:
        """What models can do that they could not on a newer kernel; nothing: all is there."""
        if not self.landlock:
            lacks = ["read and write all files of the user who started the server (no Landlock)"]
        elif self.landlock < _SCOPES_SINCE:
            lacks = [f"signal other processes of that user (Landlock {self.landlock}, complete from {_SCOPES_SINCE} on)"]
        else:
            lacks = []
        return lacks if self.seccomp else [*lacks, "connect to other programs and machines (no seccomp filter)"]

    def __str__(self) -> str:
        names = [f"Landlock {self.landlock}"] if self.landlock else []
        return " and ".join([*names, *(["seccomp"] if self.seccomp else [])]) or "nothing"


def available() -> Protection:
    """What this machine's kernel has."""
    return Protection(landlock.version(), seccomp.is_available())


def confine(accesses: Iterable[Access], tcp_ports: Iterable[int] = ()) -> Protection:
    """Confine this thread, and whatever it starts or becomes, for good; what did it, as far as the kernel has it. Raises OSError.

    The process's other threads are not confined: call it before there are any, or become another program afterwards.

    Args:
        accesses: what may be opened.
        tcp_ports: that may be listened on; none: no TCP at all.
    """
    ports = tuple(tcp_ports)
    protection = available()
    process_control(SET_NO_NEW_PRIVILEGES, 1)
    if os.geteuid() == 0:
        for right in range(_RIGHTS):
            if right != _KEPT_RIGHT:
                _drop(right)
    if protection.landlock:
        landlock.restrict(accesses, ports)
    if protection.seccomp:
        seccomp.restrict(with_tcp=bool(ports))
    return protection


def _drop(right: int) -> None:
    """Take a right of root from the programs that this process becomes."""
    try:
        process_control(DROP_FROM_BOUNDING_SET, right)
    except OSError:
        pass  # there is none of this number, or it was taken already
