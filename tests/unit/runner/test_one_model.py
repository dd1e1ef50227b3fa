"""What the process of a model can still do of what Triton's processes can: in a process of its own, confined as both are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

# Run as `python -c PROGRAM FOLDER RUNS_CODE`; prints what came of each try, "done" or the name of an error.
PROGRAM = """
import errno, fcntl, json, os, shutil, socket, subprocess, sys, threading
from pathlib import Path
from bioengine_runner.confinement import confine
from bioengine_runner.confinement.one_model import confine_model
from bioengine_runner.confinement.reach import of_triton
from bioengine_runner.rundir import Boot

folder, runs_code = Path(sys.argv[1]), sys.argv[2] == "1"
store = folder / "store"
boot = Boot(folder / "boot", store, 60, False, shared_tensors=folder / "shared")
made = (boot.model_repository, boot.processes, boot.home, boot.temporary, boot.working_directory, boot.shared_tensors)
for each in (*made, store / "own", store / "other"):
    each.mkdir(parents=True)
for each in (store / "own" / "weights", store / "other" / "weights", boot.model_repository / "model.py"):
    each.write_text("x")
confine(of_triton((), (store,), (), (boot.folder, boot.shared_tensors), None))
sibling = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)  # ends with this process
begin, ended, of_early_thread = threading.Event(), threading.Event(), []


def attempt(what, *arguments):
    try:
        what(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"


def early():
    begin.wait()
    of_early_thread.append(attempt(subprocess.run, ["/bin/true"]))


def connect():
    socket.socket(socket.AF_UNIX).close()


def in_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(attempt(os.listdir, store / "other")))
    thread.start()
    thread.join()
    if found != ["EACCES"]:
        raise AssertionError(found)


thread = threading.Thread(target=early)
thread.start()
before = attempt((store / "other" / "weights").read_text)
confine_model(boot, store / "own", runs_code)
begin.set()
thread.join()
outcomes = {
    "other package before": before,
    "own package": attempt((store / "own" / "weights").read_text),
    "other package": attempt((store / "other" / "weights").read_text),
    "list the store": attempt(os.listdir, store),
    "change own package": attempt((store / "own" / "weights").write_text, "y"),
    "change a program": attempt((boot.model_repository / "model.py").write_text, "y"),
    "write a record": attempt((boot.processes / "record").write_text, "y"),
    "write a tensor": attempt((boot.shared_tensors / "tensor").write_text, "y"),
    "write to shared memory": attempt((Path("/dev/shm") / f"one-model-{os.getpid()}").write_text, "y"),
    "remove it": attempt(os.unlink, f"/dev/shm/one-model-{os.getpid()}"),
    "temporary file": attempt((boot.temporary / "file").write_text, "y"),
    "does it live": attempt(os.kill, sibling.pid, 0),
    "end it": attempt(os.kill, sibling.pid, 15),
    "have it told of a pipe": attempt(fcntl.fcntl, os.pipe()[0], fcntl.F_SETOWN, sibling.pid),
    "have it killed by a pipe": attempt(fcntl.fcntl, os.pipe()[0], 10, 9),
    "change a time": attempt(os.utime, store / "other" / "weights", (1, 1)),
    "change a time of its own": attempt(os.utime, os.open(boot.temporary / "file", os.O_RDWR), (1, 1)),
    "make a file": attempt((boot.temporary / "made").touch),
    "touch it again": attempt((boot.temporary / "made").touch),
    "copy a file with its time": attempt(shutil.copy2, boot.temporary / "file", boot.temporary / "copy"),
    "made": str([(boot.temporary / name).exists() for name in ("made", "copy")]),
    "times": str((os.stat(store / "other" / "weights").st_mtime == 1, os.stat(boot.temporary / "file").st_mtime == 1)),
    "processors": attempt(os.sched_setaffinity, 0, os.sched_getaffinity(0)),
    "start a thread": attempt(in_thread),
    "start a program": attempt(subprocess.run, ["/bin/true"]),
    "open a socket": attempt(connect),
    "start a program from an earlier thread": of_early_thread[0],
}
print(json.dumps(outcomes), flush=True)
os._exit(0)
"""

ALLOWED = (
    "other package before", "own package", "write a record", "write a tensor", "write to shared memory", "remove it",
    "temporary file", "does it live", "processors", "start a thread", "make a file", "touch it again",
    "copy a file with its time",
)  # fmt: skip
FILES = ("other package", "list the store", "change own package", "change a program")


def outcomes(folder: Path, runs_code: bool) -> dict[str, str]:
    command = [sys.executable, "-c", PROGRAM, str(folder), "1" if runs_code else "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_a_model_reaches_its_own_package_and_starts_nothing(tmp_path: Path) -> None:
    found = outcomes(tmp_path, runs_code=False)
    assert {name: found[name] for name in ALLOWED} == dict.fromkeys(ALLOWED, "done")
    assert {name: found[name] for name in FILES} == dict.fromkeys(FILES, "EACCES")
    assert found["made"] == "[True, True]"
    assert found["times"] == "(False, True)", "of a file that it may not open, the time stays"
    started = (
        "end it", "have it told of a pipe", "have it killed by a pipe", "start a program", "open a socket",
        "start a program from an earlier thread",
    )  # fmt: skip
    assert {name: found[name] for name in started} == dict.fromkeys(started, "EPERM")


def test_trusted_code_may_start_programs_and_reaches_no_other_package_either(tmp_path: Path) -> None:
    found = outcomes(tmp_path, runs_code=True)
    assert {name: found[name] for name in FILES} == dict.fromkeys(FILES, "EACCES")
    assert found["start a program"] == "done" and found["own package"] == "done"
