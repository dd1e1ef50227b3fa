"""Confinement: limits what Triton, its Python processes and the models in them can access on this machine.

A TorchScript file can read and write any file, and so can a model file that exploits a fault in its framework. So `launch` gives
up the rights that they do not need, just before it becomes Triton; the kernel then denies them to everything that Triton starts:

- `landlock`: they can read the environments, the model store and the admin's own Triton models, and write their boot folder and
  shared memory. They cannot open any other file, and cannot signal or inspect any process outside.
- `seccomp`: no connections to anywhere, no sockets except Unix ones to listen on (and TCP ones if Triton listens on TCP), and no
  system calls by which programs reach other processes or the kernel.
- of root's capabilities only the one to open files, even if root has started it; none by set-user-id programs (no_new_privs).

None of this needs special rights. If the kernel lacks a part, BIOENGINE_CONFINE decides whether Triton starts without it, and the
log says so.

Models share this domain with Triton; the process of each gives up more, as `one_model` says. The conversion of a package
runs in a stricter one: `reach.of_conversion`, `alone`.

    python -m bioengine_runner.confinement

prints what this machine's kernel supports, for `bioengine doctor`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from bioengine_runner.confinement import landlock, seccomp
from bioengine_runner.confinement.kernel import DROP_FROM_BOUNDING_SET, SET_NO_NEW_PRIVILEGES, process_control
from bioengine_runner.confinement.landlock import Access

# Root may start it with a home folder that belongs to a user: its files can still be opened, as far as Landlock allows.
_KEPT_RIGHT = 1  # CAP_DAC_OVERRIDE
_RIGHTS = 64  # more capabilities than exist

_SCOPES_SINCE, _PORTS_SINCE, _TRUNCATE_SINCE = 6, 4, 3


@dataclass(frozen=True)
class Protection:
    """What a kernel supports. `landlock`: the version of its interface; 0 if there is none."""

    landlock: int
    seccomp: bool

    @property
    def lacks(self) -> list[str]:
        """What models can do here that a newer kernel would prevent; empty if the kernel supports everything."""
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
    """What this machine's kernel supports."""
    return Protection(landlock.version(), seccomp.is_available())


def confine(accesses: Iterable[Access], tcp_ports: Iterable[int] = (), parts: Protection | None = None) -> Protection:
    """Confine this thread for good, with every program that it starts or becomes, as far as the kernel supports it.

    Other threads of the process are not confined: call this before there are any, or become another program afterwards.

    Args:
        accesses: the paths that may be opened.
        tcp_ports: the ports that it may listen on; if empty, no TCP at all.
        parts: those of what the kernel supports that are used; all if None.

    Returns what is used. Raises OSError.
    """
    ports = tuple(tcp_ports)
    protection = parts or available()
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
    """Remove a capability of root from the programs that this process becomes."""
    try:
        process_control(DROP_FROM_BOUNDING_SET, right)
    except OSError:
        pass  # there is no capability with this number, or it was removed already
