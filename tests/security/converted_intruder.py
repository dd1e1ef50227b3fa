"""The architecture file of a hostile package: what it tries when its weights are converted, and a network that is all right.

It runs in the sandbox of conversions as code of the package, where this project is not to be found: it imports nothing of it. It
handles the signal of a refused system call itself, as malicious code would, and goes on. `tries.json` in its working folder says
what came of each try: "done", the name of an error, or "trapped" for a system call that was not made.
"""

import contextlib
import ctypes
import errno
import json
import mmap
import os
import signal
import threading
from pathlib import Path

import torch

LIBRARY = ctypes.CDLL(None, use_errno=True)
HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class Action(ctypes.Structure):
    _fields_ = [
        ("handler", HANDLER),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


trapped: list[int] = []


@HANDLER
def handler(_, information, __):
    trapped.append(ctypes.c_int.from_address(information + 24).value)


ACTION = Action(handler, flags=0x4 | 0x40000000)
LIBRARY.sigaction(signal.SIGSYS, ctypes.byref(ACTION), None)

PARENT = os.getppid()
HERE = Path.cwd()

# System calls by name: their numbers on x86-64, and arguments; None for a pointer to 128 bytes of zeros.
CALLS = {
    "socket of IPv4": (41, 2, 1, 0),
    "socket of IPv6": (41, 10, 1, 0),
    "socket for datagrams": (41, 2, 2, 0),
    "Unix socket": (41, 1, 1, 0),
    "netlink socket": (41, 16, 3, 0),
    "raw socket": (41, 2, 3, 1),
    "pair of sockets": (53, 1, 1, 0, None),
    "connect": (42, 0, None, 16),
    "bind": (49, 0, None, 16),
    "fork": (57,),
    "vfork as clone": (56, 0x4111, 0, 0, 0, 0),
    "clone into a user namespace": (56, 0x10000011, 0, 0, 0, 0),
    "execve": (59, None, None, None),
    "execveat": (322, -100, None, None, None, 0),
    "kill its parent": (62, PARENT, 15),
    "kill everybody": (62, -1, 15),
    "signal a thread of its parent": (234, PARENT, PARENT, 15),
    "pidfd of its parent": (434, PARENT, 0),
    "pidfd_send_signal": (424, 0, 15, 0, 0),
    "ptrace": (101, 16, PARENT, 0, 0),
    "read memory of its parent": (310, PARENT, None, 1, None, 1, 0),
    "write memory of its parent": (311, PARENT, None, 1, None, 1, 0),
    "mount": (165, None, None, None, 0, None),
    "umount": (166, None, 0),
    "unshare": (272, 0x10000000),
    "setns": (308, 0, 0),
    "chroot": (161, None),
    "pivot_root": (155, None, None),
    "open a file by its handle": (304, 0, None, 0),
    "io_uring_setup": (425, 1, None),
    "keyctl": (250, 0, 0),
    "add_key": (248, None, None, None, 0, 0),
    "bpf": (321, 0, None, 0),
    "userfaultfd": (323, 0),
    "perf_event_open": (298, None, 0, -1, -1, 0),
    "memory without a file": (319, None, 0),
    "memory of System V": (29, 0, 4096, 0o1600),
    "message queue": (240, None, 0o102, 0o600, None),
    "load a module of the kernel": (175, None, 0, None),
    "modify_ldt": (154, 0, None, 16),
    "personality": (135, 0x0040000),
    "inotify": (294, 0),
    "a session of its own": (112,),
    # All of these would be counted nowhere, or reach others.
    "shared memory without a file": (9, 0, 4096, 3, 0x21, -1, 0),
    "outlive its parent": (157, 1, 0, 0, 0, 0),
    "another process's signals for a file": (72, 0, 8, PARENT),
    "another signal for a file": (72, 0, 10, 9),
    "pin its parent to a processor": (203, PARENT, 8, None),
}


def call(number, *arguments):
    memory = ctypes.create_string_buffer(128)
    before = len(trapped)
    result = LIBRARY.syscall(ctypes.c_long(number), *(memory if each is None else ctypes.c_long(each) for each in arguments))
    if len(trapped) > before:
        assert trapped[-1] == number
        return "trapped"
    return "done" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def read(path):
    with open(path, "rb") as file:
        file.read(10)


def write(path):
    with open(path, "ab") as file:
        file.write(b"the intruder was here")


def large_file():
    with open(HERE / "large", "wb") as file:
        try:
            file.truncate(1 << 40)
        finally:
            os.unlink(HERE / "large")


def many_open_files():
    with contextlib.ExitStack() as opened:
        for _ in range(2000):
            opened.enter_context(open("/dev/null"))


def shared_memory():
    with open("/dev/zero", "r+b", 0) as file:
        mmap.mmap(file.fileno(), 4096)  # MAP_SHARED, which no limit of data counts


def attempt(what, *arguments):
    try:
        what(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except MemoryError:
        return "ENOMEM"
    return "done"


def tries():
    secret, package, other = (Path(path) for path in json.loads(PLACES))
    weights = package / "weights.pt"
    outcomes = {name: call(*arguments) for name, arguments in CALLS.items()}
    outcomes["clone3"] = call(435, None, 88)
    files = {
        "read a file of the user": (read, secret),
        "read a file of the system": (read, "/etc/passwd"),
        "read another package": (read, other),
        "read what its parent has in its environment": (read, f"/proc/{PARENT}/environ"),
        "read its parent's memory by its file": (read, f"/proc/{PARENT}/mem"),
        "read its parent's command line": (read, f"/proc/{PARENT}/cmdline"),
        "list /": (os.listdir, "/"),
        "list /tmp": (os.listdir, "/tmp"),
        "list /proc": (os.listdir, "/proc"),
        "list its parent's files": (os.listdir, f"/proc/{PARENT}/fd"),
        "write to its package": (write, package / "made"),
        "change its weights": (write, weights),
        "truncate its weights": (os.truncate, weights, 0),
        "empty its weights": (os.open, weights, os.O_RDONLY | os.O_TRUNC),
        "remove its weights": (os.unlink, weights),
        "write to /tmp": (write, "/tmp/made-by-an-intruder"),
        "write to shared memory": (write, "/dev/shm/made-by-an-intruder"),
        "write to its library": (write, torch.__file__),
        "write to /proc": (write, "/proc/self/oom_score_adj"),
        "open memory of the machine": (read, "/dev/mem"),
        "link out": (os.symlink, secret, HERE / "link"),
        "hard link out": (os.link, secret, HERE / "hard"),
        "move its weights out": (os.rename, weights, HERE / "moved"),
        "make a pipe": (os.mkfifo, HERE / "pipe"),
        "make a file of 1 TB": (large_file,),
        "open 2000 files": (many_open_files,),
        "take 200 GB": (bytearray, 200 << 30),
        "take shared memory": (shared_memory,),
    }
    return outcomes | {name: attempt(*arguments) for name, arguments in files.items()}


def in_a_thread():
    outcomes: dict[str, str] = {}
    thread = threading.Thread(target=lambda: outcomes.update(fork=call(57), socket=call(41, 2, 1, 0)))
    thread.start()
    thread.join()
    return outcomes


PLACES = "[]"  # the test writes here: a file of the user, the package, another package's file

if PLACES != "[]":
    found = {"tries": tries(), "in a thread": in_a_thread(), "environment": dict(os.environ)}
    (HERE / "tries.json").write_text(json.dumps(found))


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return self.layer(x)
