"""A network namespace of the tests' own: the engine's firewall rules, bridges and ports stay in it, and go with it.

A second one with a single host stands for the internet.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from typing import Any

INTERNET = "198.51.100.2"
"""An address that only the outside has, where port 80 is answered."""

_GATEWAY = "198.51.100.1"
_CLONE_NEWNET = 0x40000000

_OUTSIDE = f"""
echo there
read connected
ip address add {INTERNET}/24 dev inside && ip link set inside up && ip link set lo up && ip route add default via {_GATEWAY}
exec python3 -m http.server --bind {INTERNET} 80
"""


@contextlib.contextmanager
def own_network() -> Iterator[None]:
    """Have this thread, and what it starts from now on, in a network of its own. Raises OSError where that cannot be."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if libc.unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    try:
        _ip("link set lo up")
        with _outside():
            yield
    finally:
        libc.setns(before, _CLONE_NEWNET)
        os.close(before)


@contextlib.contextmanager
def _outside() -> Iterator[None]:
    quiet: Any = {"stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", _OUTSIDE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/proc/self/ns", **quiet
    ) as host:
        assert host.stdin and host.stdout and host.stdout.readline() == "there\n"
        _ip(f"link add outside type veth peer name inside netns {host.pid}")
        _ip(f"address add {_GATEWAY}/24 dev outside")
        _ip("link set outside up")
        host.stdin.write("\n")
        host.stdin.flush()
        try:
            yield
        finally:
            host.kill()


def _ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)
