"""What a model's process can reach on the machine, whatever its code tries: only what it needs.

The intruder (`tests/security/intruder`) is a custom Triton model, so that its code is its own; models of packages run in the same
confinement (`test_confinement_packages.py`).
"""

from __future__ import annotations

import os
import re
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from bioengine_server.triton.orphans import processes_of_model

from tests.security.conftest import CANARY, SECRET, Siege
from tests.stack.harness import ENVIRONMENTS

REFUSED = ("EACCES", "EPERM")


@pytest.fixture
def server(siege: Siege) -> int:
    assert siege.stack.process is not None
    return siege.stack.process.pid


def test_it_reads_no_file_of_its_user(siege: Siege, server: int) -> None:
    run_dir = siege.stack.settings.node_folder
    files = [
        siege.home / "secret",
        siege.home / "secrets" / "hypha-jwt",
        siege.home / "tokens.json",
        run_dir / "hypha.sqlite",
        run_dir / "triton.log",
        run_dir / "owner",
        siege.stack.log_file,
        Path(__file__),
        Path("/etc/hostname"),
        Path("/etc/shadow"),
        *(Path(f"/proc/{server}/{name}") for name in ("environ", "mem", "maps", "root/etc/hostname", "cwd/secret", "auxv")),
        Path("/proc/1/environ"),
    ]
    for file, (result, _) in zip(files, siege.tries(*(["read", str(file)] for file in files)), strict=True):
        assert result in REFUSED, file
    outcome = siege.tries(["python", f"print(open({str(siege.home / 'secret')!r}).read())"])[0]
    assert outcome[0] == "failed" and "PermissionError" in outcome[1], "nor does a program that it starts"


def test_it_lists_no_folder_of_others(siege: Siege, server: int) -> None:
    folders = [
        "/",
        "/etc",
        "/home",
        "/root",
        "/tmp",
        "/proc",
        f"/proc/{server}/fd",
        f"/proc/{server}/task",
        "/dev",
        "/run",
        "/var",
    ]
    folders += [
        str(folder) for folder in (siege.home, siege.home / "secrets", siege.stack.settings.node_folder, Path(__file__).parent)
    ]
    assert {folder: siege.tries(["list", folder])[0][0] for folder in folders} == dict.fromkeys(folders, "EACCES")


def test_it_changes_nothing(siege: Siege) -> None:
    description = next((siege.home / "models" / "old-otter").glob("*/rdf.yaml"))
    store = description.parent
    library = next((ENVIRONMENTS / "runner" / "lib").glob("python3*/site-packages")) / "numpy" / "__init__.py"
    before = {path: path.read_bytes() for path in (description, siege.home / "secret", siege.home / "tokens.json", library)}
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in before}
    own = siege.home / "triton-models" / "intruder"
    tries = [
        *(["write", str(path)] for path in before),
        *(["write", str(folder / "made")] for folder in (siege.home, store, own / "1", siege.stack.settings.node_folder)),
        ["write", "/tmp/made-by-the-intruder"],
        ["write", "/var/tmp/made-by-the-intruder"],
        ["write", "/proc/self/oom_score_adj"],
        ["write", "/proc/sys/kernel/core_pattern"],
        *([how, str(path)] for path in before for how in ("truncate", "open to truncate", "remove")),
        # In /tmp it may make folders, and Triton's Python backend does; the home of these tests is there.
        *(["make folder", str(folder / "made")] for folder in (Path("/var/tmp"), Path.home(), ENVIRONMENTS)),
    ]
    for each, (result, _) in zip(tries, siege.tries(*tries), strict=True):
        assert result in (*REFUSED, "EXDEV"), each
    moves = [[how, str(siege.home / "secret"), "/dev/shm/moved-by-the-intruder"] for how in ("move", "link")]
    assert all(result in (*REFUSED, "EXDEV") for result, _ in siege.tries(*moves))
    siege.tries(*(["change mode", str(path), 0o777] for path in before))
    assert {path: path.read_bytes() for path in before} == before
    assert {path: stat.S_IMODE(path.stat().st_mode) for path in before} == modes


def test_it_touches_no_process_outside(siege: Siege, server: int) -> None:
    numbers = {"ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_getfd": 438}
    descriptor = siege.tries(["system call", 434, server, 0])[0]  # pidfd_open: a process may be waited for
    tries = [
        *(["kill", server, number] for number in (0, 18)),
        ["kill", 1, 0],
        ["limit", server],
        ["system call", numbers["ptrace"], 16, server, 0, 0],
        ["system call", numbers["process_vm_readv"], server, None, 1, None, 1, 0],
        ["system call", numbers["process_vm_writev"], server, None, 1, None, 1, 0],
        ["system call", numbers["pidfd_getfd"], descriptor[1] if descriptor[0] == "done" else 0, 0, 0],
    ]
    assert [result for result, _ in siege.tries(*tries)] == ["EPERM"] * len(tries)
    limits = psutil.Process(server).rlimit(psutil.RLIMIT_CORE)
    assert limits == psutil.Process().rlimit(psutil.RLIMIT_CORE)


@pytest.fixture
def listeners(tmp_path: Path) -> Iterator[dict[str, object]]:
    """Sockets of all kinds that are there to be found."""
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        udp.bind(("127.0.0.1", 0))
        unix.bind(f"{folder}/socket")
        unix.listen()
        datagrams.bind(f"{folder}/datagrams")
        abstract.bind(f"\0intruder-{os.getpid()}")
        abstract.listen()
        for one in (udp, datagrams):
            one.setblocking(False)
        yield {
            "tcp": list(tcp.getsockname()),
            "udp": list(udp.getsockname()),
            "unix": unix.getsockname(),
            "datagrams": datagrams.getsockname(),
            "abstract": abstract.getsockname().decode(),
            "sockets": (udp, datagrams),
        }


def test_it_connects_to_nothing(siege: Siege, listeners: dict[str, object]) -> None:
    tries = [
        ["connect", "AF_INET", "SOCK_STREAM", listeners["tcp"]],
        ["connect", "AF_INET", "SOCK_STREAM", ["127.0.0.1", siege.stack.port]],
        ["connect", "AF_INET", "SOCK_DGRAM", listeners["udp"]],
        ["send", "AF_INET", "SOCK_DGRAM", listeners["udp"]],
        ["send", "AF_INET", "SOCK_STREAM", listeners["tcp"]],
        ["connect", "AF_UNIX", "SOCK_STREAM", listeners["unix"]],
        ["connect", "AF_UNIX", "SOCK_STREAM", listeners["abstract"]],
        ["connect", "AF_UNIX", "SOCK_STREAM", str(siege.stack.settings.triton_sockets / "http")],
        ["send", "AF_UNIX", "SOCK_DGRAM", listeners["datagrams"]],
        ["send by pair", listeners["datagrams"]],
        *(["socket", family, "SOCK_RAW"] for family in ("AF_INET", "AF_INET6", "AF_PACKET", "AF_NETLINK")),
        ["socket", "AF_VSOCK", "SOCK_STREAM"],
        ["socket", "AF_ALG", "SOCK_SEQPACKET"],
    ]
    assert [result for result, _ in siege.tries(*tries)] == ["EACCES"] * len(tries)
    for one in listeners["sockets"]:  # type: ignore[attr-defined]
        with pytest.raises(BlockingIOError):
            one.recv(100)


def test_the_kernel_is_closed_to_it(siege: Siege) -> None:
    numbers = {
        "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "keyctl": 250, "add_key": 248, "mount": 165, "unshare": 272,
        "setns": 308, "open_by_handle_at": 304, "shmget": 29, "msgget": 68, "semget": 64, "mq_open": 240, "chroot": 161,
        "init_module": 175, "kexec_load": 246, "reboot": 169, "setxattr": 188, "chown": 92, "syslog": 103,
    }  # fmt: skip
    outcomes = siege.tries(*(["system call", number, 0, 0, 0, 0, 0] for number in numbers.values()))
    assert {name: result for name, (result, _) in zip(numbers, outcomes)} == dict.fromkeys(numbers, "EPERM")
    newer = {"io_uring_setup": 425, "clone3": 435, "openat2": 437}
    outcomes = siege.tries(*(["system call", number, 0, 0, 0, 0] for number in newer.values()))
    assert {name: result for name, (result, _) in zip(newer, outcomes)} == dict.fromkeys(newer, "ENOSYS")
    watching = {"inotify_init": 253, "inotify_init1": 294, "inotify_add_watch": 254, "fanotify_init": 300, "fanotify_mark": 301}
    groups = {"setsid": 112, "setpgid": 109, "ioprio_set": 251}
    outcomes = siege.tries(*(["system call", number, 0, 0, 0, 0, 0] for number in (*watching.values(), *groups.values())))
    assert [result for result, _ in outcomes] == ["EPERM"] * len(outcomes)
    clone_into_namespaces = siege.tries(["system call", 56, 0x10000000, 0, 0, 0, 0])[0][0]
    assert clone_into_namespaces == "EPERM"
    other_numbers = siege.tries(["system call", 0x40000000 + 39])[0][0]
    assert other_numbers == "ENOSYS"


def test_it_types_into_no_terminal(siege: Siege) -> None:
    upper_half = 1 << 32  # the kernel looks at the lower one alone
    tries = [["system call", 16, 0, request + more, None] for request in (0x5412, 0x541C) for more in (0, upper_half)]
    assert [result for result, _ in siege.tries(*tries)] == ["EPERM"] * 4
    assert siege.tries(["system call", 16, 0, 0x5401, None])[0][0] == "ENOTTY", "other requests reach the kernel"


def test_it_takes_no_processor_from_others(siege: Siege, server: int) -> None:
    """Nor does it change how those get on that it may not signal. What it does to itself is its own affair."""
    others = [
        ["system call", 141, 0, server, 5],  # setpriority of a process, a group, a user
        ["system call", 141, 1, 0, 5],
        ["system call", 141, 2, 0, 5],
        ["system call", 142, server, None],  # sched_setparam
        ["system call", 144, server, 5, None],  # sched_setscheduler
        ["system call", 314, server, None, 0],  # sched_setattr
        ["system call", 251, 1, server, 3 << 13],  # ioprio_set
    ]
    assert [result for result, _ in siege.tries(*others)] == ["EPERM"] * len(others)
    assert psutil.Process(server).nice() == psutil.Process().nice()
    assert siege.tries(["system call", 141, 0, 0, 0])[0][0] == "done"


def test_it_speaks_no_other_protocol_over_streams(siege: Siege) -> None:
    """MPTCP's ports are not those that Landlock knows."""
    for protocol in (262, 132):
        assert siege.tries(["system call", 41, socket.AF_INET, socket.SOCK_STREAM, protocol])[0][0] == "EACCES"
        assert siege.tries(["system call", 41, socket.AF_UNIX, socket.SOCK_STREAM, protocol])[0][0] == "EACCES"


def test_all_that_it_starts_stays_in_tritons_group(siege: Siege) -> None:
    triton = siege.stack.triton().pid
    code = "import os, subprocess, sys\ntry: os.setsid()\nexcept OSError as error: print(error.errno, os.getpgid(0))"
    assert siege.tries(["python", code])[0] == ["done", f"1 {triton}\n"]


def test_it_has_neither_rights_nor_the_environment_of_its_user(siege: Siege) -> None:
    status, environment = siege.tries(["python", "print(open('/proc/self/status').read())"], ["environment"])
    fields = dict(line.split(":\t", 1) for line in status[1].splitlines() if ":\t" in line)
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    only_files = 1 << 1  # CAP_DAC_OVERRIDE, for a server that root has started with the home of a user
    for kind in ("CapEff", "CapPrm", "CapBnd"):
        assert int(fields[kind], 16) & ~only_files == 0, kind
    assert CANARY not in str(environment), "nothing of the user's environment but what is known to be needed"
    assert "SECRET" not in str(list(environment[1]))
    assert environment[1]["PYTHONUTF8"] == "1" and "LC_ALL" in environment[1]
    assert environment[1]["HOME"].startswith(str(siege.stack.settings.node_folder))


def test_its_working_directory_is_empty_and_of_this_start(siege: Siege) -> None:
    """What a model's file names without a folder is looked for in it."""
    (result, (folder, content)) = siege.tries(["working directory"])[0]
    assert (result, content) == ("done", [])
    assert Path(folder).parent.parent == siege.stack.settings.node_folder


def test_what_it_makes_it_cannot_start(siege: Siege) -> None:
    assert siege.tries(["execute made"])[0][0] == "EACCES"


def test_what_models_need_goes_on_working(siege: Siege) -> None:
    """Temporary files, caches in the home, shared memory, programs of the system, the store, their own files."""
    environment = siege.tries(["environment"])[0][1]
    own = siege.home / "triton-models" / "intruder" / "config.pbtxt"
    description = next((siege.home / "models" / "old-otter").glob("*/rdf.yaml"))
    tries = [
        *(
            ["write", file]
            for file in (f"{environment['TMPDIR']}/file", f"{environment['HOME']}/file", "/dev/shm/bioengine-intruder")
        ),
        ["make folder", f"{environment['HOME']}/.own"],
        ["move", f"{environment['TMPDIR']}/file", f"{environment['HOME']}/.own/file"],
        ["read", str(own)],
        ["read", str(description)],
        ["read", "/proc/meminfo"],
        ["read", "/proc/self/status"],
        ["execute", "/bin/echo", "hello"],
        ["python", "import tempfile; tempfile.TemporaryDirectory().cleanup(); import torch, onnxruntime"],
        ["kill", siege.stack.triton().pid, 0],
    ]
    outcomes = siege.tries(*tries)
    Path("/dev/shm/bioengine-intruder").unlink(missing_ok=True)
    assert [result for result, _ in outcomes] == ["done"] * len(tries), outcomes


def test_the_secret_is_still_one(siege: Siege) -> None:
    """At the end of all tries; and the stack goes on working."""
    assert (siege.home / "secret").read_bytes() == SECRET
    assert siege.stack.is_ready()


def test_the_process_of_a_model_is_confined_further(siege: Siege) -> None:
    """The intruder is a Triton model of the admin, whose process is confined as Triton is."""
    with siege.stack.client() as client:
        assert client.run("old-otter", [np.zeros((1, 1, 4, 4), np.float32)]).keys() >= {"success"}
    (model,) = processes_of_model(siege.stack.settings.shm_prefix, "old-otter")
    (own, *_) = processes_of_model(siege.stack.settings.shm_prefix, "intruder")
    assert filters(model.pid) == filters(own.pid) + 1
    assert {filters(model.pid, thread) for thread in os.listdir(f"/proc/{model.pid}/task")} == {filters(model.pid)}


def filters(pid: int, thread: str = "") -> int:
    """How many seccomp filters a process has, or a thread of it."""
    status = Path(f"/proc/{pid}/task/{thread or pid}/status").read_text()
    return int(re.search(r"^Seccomp_filters:\s+(\d+)", status, re.MULTILINE)[1])  # type: ignore[index]
