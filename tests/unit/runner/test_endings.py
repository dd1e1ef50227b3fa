"""How processes end, and what is told of it; file names that are not ASCII; the generated model's file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pydantic
import pytest
from bioengine_contract.errors import RequestError
from bioengine_contract.processes import Process, _state
from bioengine_contract.triton_model import TritonModel
from bioengine_runner.loading.loader import _MODEL_FILE, Loader
from bioengine_runner.loading.records import MODELS
from bioengine_runner.reasons import in_short
from bioengine_runner.rundir import Boot

from tests.unit.contract.packages import package


def ended(program: str) -> tuple[Process, subprocess.Popen[bytes]]:
    """A child that has ended of `program`; nobody has collected it yet."""
    child = subprocess.Popen([sys.executable, "-c", f"import os, sys, signal; input(); {program}"], stdin=subprocess.PIPE)
    state = _state(child.pid)
    assert state is not None and child.stdin is not None
    process = Process(child.pid, state[1])
    child.stdin.write(b"\n")
    child.stdin.close()
    deadline = time.monotonic() + 30
    while process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process, child


@pytest.mark.parametrize(
    "program, told",
    [
        ("sys.exit(3)", "its process ended itself, with status 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "its process crashed (Segmentation fault)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "its process was killed, most likely because the machine's memory was full"),
    ],
)
def test_how_a_process_ended_is_known(program: str, told: str) -> None:
    process, child = ended(program)
    assert process.how_it_ended() == told
    child.wait()
    assert process.how_it_ended() == "its process has ended"


class Names(pydantic.BaseModel):
    first: str = pydantic.Field(max_length=3)


def raised(value: Any) -> Exception:
    with pytest.raises(pydantic.ValidationError) as caught:
        Names(first=value)
    return caught.value


@pytest.mark.parametrize(
    "error, told",
    [
        (ValueError("one\nand more"), "one"),
        (ValueError(""), "ValueError"),
        (MemoryError(), "there was not enough memory"),
        (SystemExit(3), "its code ended the process, with status 3"),
        (raised("abcd"), "first: str 'abcd': String should have at most 3 characters"),
        (raised(1), "first: int 1: Input should be a valid string"),
    ],
)
def test_exceptions_are_told_in_one_line(error: BaseException, told: str) -> None:
    assert in_short(error) == told


def test_file_names_are_utf8_where_python_takes_ascii(tmp_path: Path) -> None:
    """As in Triton 2.51's Python backend: in the C locale, without UTF-8 mode and without its coercion."""
    program = (
        "import os, sys; assert sys.getfilesystemencoding() == 'ascii'\n"
        "from bioengine_runner.utf8 import use_utf8\n"
        "use_utf8()\n"
        "open('gr\\u00fc\\u00dfe.txt', 'w').write('\\u00fc')\n"
        "print(os.path.exists('gr\\u00fc\\u00dfe.txt'), os.path.exists(os.listdir()[0]), ascii(open(os.listdir()[0]).read()))"
    )
    variables = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.stdout == "True True '\\xfc'\n", done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["grüße.txt"]


def test_a_model_whose_module_cannot_be_imported_is_one_for_triton_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bioengine_runner.model", None)  # an import of it fails
    module: dict[str, type] = {}
    exec(_MODEL_FILE, module)
    with pytest.raises(RuntimeError, match="environment cannot be imported"):
        module["TritonPythonModel"]().execute([])


class Triton:
    """Stands in for Triton, which is not in these tests: a process for each model that is loaded, and that opens nothing."""

    def __init__(self, boot: Boot) -> None:
        self._boot = boot
        self.processes: list[subprocess.Popen[bytes]] = []

    def load_model(self, model_name: str) -> None:
        program = (
            "import sys, time; from pathlib import Path\n"
            "from bioengine_runner.loading.records import MODELS, Records; from bioengine_runner.rundir import Boot\n"
            "Records(Boot(Path(sys.argv[1]), Path(), 1, False), MODELS).begin(sys.argv[2]); print(flush=True); time.sleep(3600)"
        )
        command = [sys.executable, "-c", program, str(self._boot.folder), model_name]
        self.processes.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        assert self.processes[-1].stdout is not None
        self.processes[-1].stdout.readline()

    def unload_model(self, model_name: str) -> None:
        pass


def test_a_model_that_never_opens_is_ended(tmp_path: Path) -> None:
    boot = Boot(tmp_path, tmp_path, run_timeout=0.5, debug=False)
    boot.model_repository.mkdir()
    (boot.processes / MODELS).mkdir(parents=True)
    triton = Triton(boot)
    hare = package(id="hanging-hare", triton_config={"input": [], "output": [], "backend": "python"})
    with pytest.raises(RequestError, match=r"'hanging-hare' could not be loaded: it was not open after 0\.5 s"):
        Loader(boot, triton).ensure(TritonModel("hanging-hare", hare, ("onnx",)))
    assert triton.processes[0].wait(10) == -signal.SIGKILL
