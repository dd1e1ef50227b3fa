"""ONNX Runtime reports nothing to its maker: neither a thread for it nor a file in the user's home is made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bioengine_runner.confinement.start import inherited_variables

PROGRAM = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
from onnx import TensorProto, helper
import onnxruntime
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "graph", [value("x")], [value("y")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
"""


@pytest.mark.parametrize("module", ["bioengine_runner", "bioengine_runner.conversion.onnx_outputs"])
def test_onnx_runtime_keeps_no_record_of_its_use(tmp_path: Path, module: str) -> None:
    """Its record, which it sends later, would be a database in the folder of the user's caches."""
    variables = {key: value for key, value in os.environ.items() if key not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    home = tmp_path / "home"
    home.mkdir()
    program = [sys.executable, "-c", PROGRAM, module]
    subprocess.run(program, env={**variables, "HOME": str(home), "TMPDIR": str(home)}, check=True)
    assert [file for file in home.rglob("*") if file.is_file()] == []


def test_models_of_the_admin_do_not_either() -> None:
    """They run in Triton, which has these variables, and import ONNX Runtime by themselves."""
    assert inherited_variables("auto")["ORT_DISABLE_TELEMETRY"] == "1"
