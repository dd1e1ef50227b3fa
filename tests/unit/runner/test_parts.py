"""Smaller parts: records of processes, the loader's lock, processes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bioengine_contract.processes import Process
from bioengine_runner.loading.loader import Loader
from bioengine_runner.loading.records import INSTANCES, MODELS, Records
from bioengine_runner.package_test import difference
from bioengine_runner.rundir import Boot

NO_TRITON: Any = None


@pytest.fixture
def boot(tmp_path: Path) -> Boot:
    boot = Boot(folder=tmp_path, store=tmp_path, run_timeout=1, debug=False)
    for kind in (MODELS, INSTANCES):
        (boot.processes / kind).mkdir(parents=True)
    return boot


def test_records_tell_the_living_and_the_dead(boot: Boot) -> None:
    records, other = Records(boot, MODELS), Records(boot, MODELS)
    assert records.get("a") is None and records.all() == {}
    record = records.begin("a", "fingerprint")
    assert other.get("a") == record and record.is_usable
    records.opened("a", record, "onnx", "cpu")
    known = other.get("a")
    assert known is not None and (known.fingerprint, known.weight_format, known.device) == ("fingerprint", "onnx", "cpu")
    records.failed("a", record, "it is broken", "broken")
    assert not other.all()["a"].is_usable
    assert Records(boot, INSTANCES).all() == {}
    records.forget("a")
    records.forget("a")
    assert other.get("a") is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', '{"pid": 1, "started": 2, "more": 3}', "null"])
def test_what_is_no_record_is_none(boot: Boot, content: str) -> None:
    """A model's process may write there."""
    records = Records(boot, MODELS)
    records.begin("a")
    (boot.processes / MODELS / "b.json").write_text(content)
    assert records.get("b") is None and list(records.all()) == ["a"]


def test_a_record_that_cannot_be_written_leaves_the_one_before(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(boot, MODELS)
    record = records.begin("a")

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        records.opened("a", record, "onnx", "cpu")
    assert records.get("a") == record and len(list((boot.processes / MODELS).iterdir())) == 1


def test_a_models_lock_lets_one_in(boot: Boot) -> None:
    order: list[str] = []

    def second() -> None:
        with Loader(boot, NO_TRITON)._lock("a"):
            order.append("second")

    with Loader(boot, NO_TRITON)._lock("a"):
        thread = threading.Thread(target=second)
        thread.start()
        with Loader(boot, NO_TRITON)._lock("b"):
            order.append("other model")
        time.sleep(0.2)
        order.append("first")
    thread.join()
    assert order == ["other model", "first", "second"]


def test_a_zombie_is_dead_and_a_reused_pid_is_somebody_else() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    process = Process(child.pid, int(stat[19]))
    assert process.is_alive() and not Process(child.pid, int(stat[19]) + 1).is_alive()
    process.end(timeout=0)
    assert not process.is_alive(), "killed, though its parent has not collected it"
    child.wait()


def test_the_runner_imports_nothing_heavy() -> None:
    code = (
        "import sys, types; sys.modules['triton_python_backend_utils'] = types.ModuleType('x');"
        "import bioengine_runner.runner_model;"
        "print([name for name in ('torch', 'bioimageio', 'onnxruntime', 'xarray') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_largest_difference() -> None:
    """Of numbers and masks; what is not a number in both is the same."""
    one = np.array([1.0, np.nan, np.inf, -3.0], np.float32)
    assert difference(one, one) == 0
    assert difference(one, one + np.array([0, 0, 0, 0.5], np.float32)) == 0.5
    assert np.isnan(difference(one, np.zeros(4, np.float32)))
    assert difference(np.array([True, False]), np.array([True, True])) == 1
    assert difference(np.array([0, 255], np.uint8), np.array([1, 0], np.uint8)) == 255
