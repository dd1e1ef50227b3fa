"""Two hosts with a poor network between them, on this machine: two network namespaces, and a wire that delays and loses packets.

The kernels of test machines lack `netem`, so the wire is a thread between two TUN devices. TCP on both ends is the kernel's own.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time
from collections.abc import Iterator

HERE, THERE = "10.99.0.1", "10.99.0.2"
"""The addresses of this thread's host, and of the other one."""

TUN = "/dev/net/tun"
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_NAME = "wire"
_MTU = 1500  # bytes

_libc = ctypes.CDLL(None, use_errno=True)


class Wire:
    """Carries packets both ways."""

    def __init__(self, ends: tuple[int, int], delay: float, loss: float) -> None:
        """
        Args:
            ends: descriptors of the two TUN devices.
            delay: seconds that each packet takes.
            loss: the share of packets that get lost.
        """
        self._ends = ends
        self._delay = delay
        self._loss = loss
        self._random = random.Random(1)
        self.is_cut = False
        self.carried = self.lost = 0
        self._is_over = False
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._is_over = True
        self._thread.join()

    def _carry(self) -> None:
        other = dict(zip(self._ends, reversed(self._ends)))
        under_way: list[tuple[float, int, int, bytes]] = []
        while not self._is_over:
            wait = max(0.0, min(0.1, under_way[0][0] - time.monotonic())) if under_way else 0.1
            for end in select.select(self._ends, [], [], wait)[0]:
                packet = os.read(end, _MTU + 100)
                if self.is_cut or self._random.random() < self._loss:
                    self.lost += 1
                    continue
                self.carried += 1
                heapq.heappush(under_way, (time.monotonic() + self._delay, self.carried, other[end], packet))
            while under_way and under_way[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(under_way)
                with contextlib.suppress(OSError):
                    os.write(end, packet)


@contextlib.contextmanager
def two_hosts(delay: float, loss: float) -> Iterator[tuple[Wire, list[str]]]:
    """Have this thread, and what it starts, on a host of its own; yields the wire, and what begins a command on the other host.

    Raises OSError where that cannot be.
    """
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if _libc.unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    with contextlib.ExitStack() as life:
        life.callback(os.close, before)
        life.callback(_libc.setns, before, _CLONE_NEWNET)
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        life.callback(os.close, here)
        _ip("link set lo up")
        one = _tun(HERE)
        life.callback(os.close, one)
        host = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo there; exec sleep 3600"], stdout=subprocess.PIPE, text=True
        )
        life.callback(host.wait)
        life.callback(host.kill)
        assert host.stdout and host.stdout.readline() == "there\n"
        there = os.open(f"/proc/{host.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        life.callback(os.close, there)
        _libc.setns(there, _CLONE_NEWNET)
        try:
            _ip("link set lo up")
            two = _tun(THERE)
        finally:
            _libc.setns(here, _CLONE_NEWNET)
        life.callback(os.close, two)
        wire = Wire((one, two), delay, loss)
        life.callback(wire.end)
        yield wire, ["nsenter", f"--net=/proc/{host.pid}/ns/net"]


def _tun(address: str) -> int:
    """A TUN device with an address, in this thread's namespace."""
    descriptor = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", _NAME.encode(), _IFF_TUN | _IFF_NO_PI))
    _ip(f"address add {address}/24 dev {_NAME}")
    _ip(f"link set {_NAME} up mtu {_MTU}")
    return descriptor


def _ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)
