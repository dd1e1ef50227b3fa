"""Tries what a hostile model might, in its process.

Input: a JSON list of [what, argument, ...]. Output: a list of what came of each: "done" and what was got, or the name of the
error, such as EACCES, and its text.
"""

import ctypes
import errno
import json
import os
import resource
import socket
import subprocess
import sys

import numpy as np
import triton_python_backend_utils as pb_utils

LIBRARY = ctypes.CDLL(None, use_errno=True)


def read(path):
    with open(path, "rb") as file:
        return file.read(100).decode(errors="replace")


def write(path):
    with open(path, "a") as file:
        file.write("the intruder was here")


def system_call(number, *arguments):
    """Numbers, or null for a pointer to 128 bytes of zeros."""
    memory = ctypes.create_string_buffer(128)
    result = LIBRARY.syscall(ctypes.c_long(number), *(memory if each is None else ctypes.c_long(each) for each in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def connect(family, kind, address):
    with socket.socket(getattr(socket, family), getattr(socket, kind)) as one:
        one.settimeout(3)
        one.connect(tuple(address) if isinstance(address, list) else address)
        return "connected"


def send(family, kind, address):
    """Without a connection: a datagram, or TCP's fast open."""
    with socket.socket(getattr(socket, family), getattr(socket, kind)) as one:
        flags = 0x20000000 if kind == "SOCK_STREAM" else 0
        one.sendmsg([b"intruder"], [], flags, tuple(address) if isinstance(address, list) else address)
        return "sent"


def send_by_pair(address):
    one, _other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.sendto(b"intruder", address)


def execute(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def execute_made():
    path = os.path.join(os.environ["TMPDIR"], "program")
    with open(path, "w") as file:
        file.write("#!/bin/sh\necho made\n")
    os.chmod(path, 0o755)
    # The mode is not what keeps it: the loader is asked to run it, too.
    return execute(path)


def python(code):
    return execute(sys.executable, "-c", code)


def limit(pid):
    return resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))


TRIES = {
    "read": read,
    "write": write,
    "list": os.listdir,
    "make folder": os.mkdir,
    "remove": os.remove,
    "move": os.rename,
    "link": os.link,
    "truncate": lambda path: os.truncate(path, 0),
    "open to truncate": lambda path: os.open(path, os.O_RDONLY | os.O_TRUNC),
    "change mode": os.chmod,
    "kill": os.kill,
    "limit": limit,
    "connect": connect,
    "send": send,
    "send by pair": send_by_pair,
    "socket": lambda family, kind: socket.socket(getattr(socket, family), getattr(socket, kind)).close(),
    "execute": execute,
    "execute made": execute_made,
    "python": python,
    "system call": system_call,
    "environment": lambda: dict(os.environ),
    "working directory": lambda: [os.getcwd(), os.listdir()],
}


def outcome(what, *arguments):
    try:
        return ["done", TRIES[what](*arguments)]
    except subprocess.CalledProcessError as error:
        return ["failed", error.stderr]
    except OSError as error:
        return [errno.errorcode.get(error.errno, str(error)), str(error)]
    except Exception as error:
        return [type(error).__name__, str(error)]


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        tries = json.loads(pb_utils.get_input_tensor_by_name(request, "tries").as_numpy().item())
        outcomes = json.dumps([outcome(*each) for each in tries])
        return pb_utils.InferenceResponse([pb_utils.Tensor("outcomes", np.array([outcomes.encode()], dtype=np.object_))])
