"""Confinement where there is a card: what NVIDIA's driver does at its start, and what happens if it needs more than it may do.

There is no card here: another device file stands for its own, and CUDA's answers are fakes.
"""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

from tests.security.test_confinement_kernels import TRIES
from tests.stack.harness import free_port, python

# What the driver 580 does: a thread's name is written to a file by another thread, and a socket of packets listens. CARD and
# FOLDER are filled in.
DRIVER = (
    TRIES
    + """
import threading
from pathlib import Path
from bioengine_runner.confinement import confine, reach
from bioengine_runner.confinement.one_model import confine_model
from bioengine_runner.rundir import Boot

def name_a_thread():
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        Path(f"/proc/self/task/{thread.native_id}/comm").write_text("cuda-EvtHandlr")
    finally:
        end.set()

def listen(family=socket.AF_UNIX, kind=socket.SOCK_SEQPACKET):
    with socket.socket(family, kind) as one:
        one.bind(f"\\0cuda-uvmfd-test-{os.getpid()}" if family == socket.AF_UNIX else ("127.0.0.1", 0))
        one.listen()

def write_to(file):
    with open(file, "w") as opened:
        opened.write("500")

reach._CUDA = ("null",) if CARD else ()
folder = Path(FOLDER)
boot = Boot(folder / "boot", folder / "store", 60, False)
package = folder / "store" / "own"
package.mkdir(parents=True, exist_ok=True)
"""
)


def outcomes(folder: Path, code: str, card: bool) -> list[str]:
    filled = DRIVER.replace("CARD", str(card)).replace("FOLDER", repr(str(folder)))
    answer = subprocess.run([python("runner"), "-c", filled + code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.split()


IN_TRITON = f"""
confine(reach.of_triton((), (), (), (), None), {{ports}})
if os.fork() == 0:  # a process that Triton starts later on
    print(tried(name_a_thread), tried(listen), flush=True)
    print(tried(lambda: listen(socket.AF_INET)), tried(lambda: write_to({str(Path(__file__))!r})), flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize("with_tcp", [False, True])
def test_nvidias_driver_starts_in_tritons_confinement(tmp_path: Path, with_tcp: bool) -> None:
    """On the network, a socket of packets would be SCTP's, which no rule for ports is about."""
    ports = (free_port(),) if with_tcp else ()
    assert outcomes(tmp_path, IN_TRITON.format(ports=ports), card=True) == ["done", "done", "EACCES", "EACCES"]
    without_card = outcomes(tmp_path, IN_TRITON.format(ports=ports), card=False)
    assert without_card == ["EACCES", "done", "EACCES", "EACCES"], "where there is none, nothing in /proc is written"


def test_the_process_of_a_model_names_its_own_threads_alone(tmp_path: Path) -> None:
    code = """
confine(reach.of_triton((), (), (), (), None))
if (sibling := os.fork()) == 0:
    import time
    time.sleep(60)
if os.fork() == 0:
    confine_model(boot, package, False)
    others = [f"/proc/{sibling}/{name}" for name in ("oom_score_adj", "comm")]
    files = (*others, "/proc/self/oom_score_adj", "/proc/sys/kernel/core_pattern")
    print(tried(name_a_thread), *(tried(lambda: write_to(file)) for file in files), tried(listen), flush=True)
    os._exit(0)
os.wait()
os.kill(sibling, 9)
"""
    assert outcomes(tmp_path, code, card=True) == ["done", "EACCES", "EACCES", "EACCES", "EACCES", "EPERM"]


CHOICE = """
from bioengine_runner.confinement import on_card, reach, start
start.gpus = lambda: 1
real, asked = on_card._error, []
def error(parts, *others):
    asked.append(str(parts))
    return WITH(parts) if WITH else real(parts, *others)
on_card._error = error
try:
    start.confine_as_set(WISH, reach.of_python(), cuda_with=start.inherited_variables("auto"))
finally:
    print(*asked, sep=", ")
try:
    open("/etc/hostname")
    print("read")
except OSError:
    print("refused")
"""


def test_with_the_cpu_no_card_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton itself would start CUDA, and take its memory."""
    code = "from bioengine_runner.confinement.start import inherited_variables as of; print([of(a) for a in ('cpu', 'auto')])"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    found = subprocess.run([python("runner"), "-c", code], capture_output=True, text=True, check=True)
    of_cpu, of_auto = ast.literal_eval(found.stdout)
    assert of_cpu["CUDA_VISIBLE_DEVICES"] == "" and of_auto["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.parametrize(
    ("cuda_starts", "wish", "said", "tries", "can_read"),
    [
        ("None", "require", "Confined by Landlock", 1, False),  # asked for real: no driver, and so no error
        ("lambda parts: 0 if not parts.landlock else 304", "auto", "does not start with more (CUDA's error 304)", 3, True),
        ("lambda parts: 0 if not parts.seccomp else 304", "auto", "Models can still connect to other programs", 2, False),
        ("lambda parts: 0 if not parts.landlock else 304", "require", "BIOENGINE_ACCELERATOR=cpu", 3, None),
        ("lambda parts: 100", "auto", "Confined by Landlock", 4, False),  # it does not start without confinement either
    ],
)
def test_what_cuda_does_not_start_in_is_left_out_and_told(
    cuda_starts: str, wish: str, said: str, tries: int, can_read: bool | None
) -> None:
    code = CHOICE.replace("WITH", f"({cuda_starts})").replace("WISH", repr(wish))
    answer = subprocess.run([python("runner"), "-c", code], capture_output=True, text=True)
    assert said in answer.stdout + answer.stderr
    lines = answer.stdout.splitlines()
    if can_read is None:
        assert answer.returncode != 0
    else:
        assert lines[-1] == ("read" if can_read else "refused")
    (asked,) = [line for line in lines if line.startswith("Landlock")]
    assert len(asked.split(", ")) == tries
