"""Private names of other libraries: in one module for each library, and known to be what they were."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from bioengine_contract.library import changes
from bioengine_runner.foreign import bioimageio_core, bioimageio_core_onnx
from bioengine_runner.inference import Pipeline
from bioengine_runner.library import LibraryChanged
from bioengine_runner.rundir import Boot

from tests.packages import usual
from tests.private_names import inherited, modules
from tests.unit.runner.stored import stored


def test_no_private_name_of_a_base_class_of_a_library_is_used_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", types.ModuleType("triton_python_backend_utils"))
    assert [name for module in modules("bioengine_runner") for name in inherited(module)] == []


def test_nothing_differs_from_what_was_looked_at() -> None:
    assert list(changes("bioengine_runner.foreign")) == []
    bioimageio_core.check()
    bioimageio_core_onnx.check()


def test_a_library_that_is_another_opens_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual.conscientious_seashell(tmp_path)
    package = stored(tmp_path / "conscientious-seashell", "conscientious-seashell")
    boot = Boot(tmp_path, tmp_path, run_timeout=1, debug=False, trusted=frozenset(), accelerator="cpu")
    monkeypatch.setattr(bioimageio_core, "VERSION", "0.0")
    bioimageio_core.check.cache_clear()
    with pytest.raises(LibraryChanged, match=r"needs bioimageio\.core 0\.0, .* is installed\. .*`\./bioengine setup --again`"):
        Pipeline(package, ["onnx"], boot)
