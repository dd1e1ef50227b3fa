"""The server's and the runner's code of what they share, held against each other: model.json, messages, names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bioengine_server.store import trust
from bioengine_server.store.manifest import RUNNABLE_WEIGHTS
from bioengine_server.store.model_store import ModelStore
from bioengine_server.triton import api, message, shared
from bioengine_server.triton.restart import ask_for_restart

from tests.stack.harness import ENVIRONMENTS, ROOT, python

KEYS = ("id", "version", "inputs", "outputs", "weights", "unsupported_weights", "code", "files", "triton_config", "rdf")


def in_runner(code: str, data: bytes = b"") -> bytes:
    """What a program in the runner's environment prints."""
    return subprocess.run([python("runner"), "-c", code], input=data, capture_output=True, check=True).stdout


def test_the_runner_s_environment_has_what_the_commands_about_models_import(filled_home: Path) -> None:
    """Triton's image has them, with that environment."""
    home = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "server"),
        "BIOENGINE_HOME": str(filled_home),
        "BIOENGINE_ENVIRONMENTS": str(ENVIRONMENTS),
    }
    for arguments in (["list"], ["show", "old-otter"], ["test", "old-otter"]):
        command = [python("runner"), "-m", "bioengine_server", "models", *arguments]
        done = subprocess.run(command, env=home, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_runner_reads_what_the_store_writes(filled_home: Path) -> None:
    code = f"""
import dataclasses, json
from pathlib import Path
from bioengine_runner.store.resolve import resolve
store = Path({str(filled_home / "models")!r})
names = json.loads((store / "aliases.json").read_text())
print(json.dumps({{name: dataclasses.asdict(resolve(store, name)) for name in names}}, default=str))
"""
    read: dict[str, Any] = json.loads(in_runner(code))
    models = ModelStore(filled_home / "models").models()
    assert models
    for model in models:
        written = model.manifest.model_dump(mode="json")
        for name in (model.manifest.id, f"{model.manifest.id}/{model.manifest.version}"):
            for key in KEYS:
                assert read[name][key] == written[key], (name, key)
    assert read["10.5281/zenodo.1234567"]["id"] == "conscientious-seashell"


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float32", "float64"])
def test_messages_are_read_alike(dtype: str) -> None:
    array = (np.arange(24).reshape(2, 3, 4) % 2).astype(dtype)
    request = {"model_id": "x", "inputs": [array, [array, None, "text"]], "return_rdf": False}
    code = (
        "import sys; from bioengine_runner.request import message;"
        "sys.stdout.buffer.write(message.encode(message.decode(sys.stdin.buffer.read())))"
    )
    answer = message.decode(in_runner(code, message.encode(request)))
    assert answer["model_id"] == "x" and answer["return_rdf"] is False and answer["inputs"][1][1:] == [None, "text"]
    for restored in (answer["inputs"][0], answer["inputs"][1][0]):
        assert restored.dtype == array.dtype
        np.testing.assert_array_equal(restored, array)


def test_names_and_sizes_that_both_use() -> None:
    code = (
        "from bioengine_runner import launch; from bioengine_runner.request import shared;"
        "print(launch.ROUTER, launch.SECRET_HEADER, shared.LEAST_BYTES)"
    )
    assert in_runner(code).decode().split() == [api.ROUTER, api.SECRET_HEADER, str(shared.LEAST_BYTES)]


def test_the_restart_that_the_server_asks_for_is_the_one_that_the_runner_sees(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from bioengine_runner.restart import end_on_request
import time
end_on_request(Path({str(tmp_path / "secret")!r}))
print("watched", flush=True)
time.sleep(60)
"""
    watched = subprocess.Popen([python("runner"), "-c", code], stdout=subprocess.PIPE)
    assert watched.stdout is not None and watched.stdout.readline() == b"watched\n"
    assert watched.poll() is None
    ask_for_restart(tmp_path / "secret")
    assert watched.wait(30) == -signal.SIGKILL


def test_whom_the_admin_trusts(filled_home: Path) -> None:
    """The entry that `models show` prints is the one that the runner takes, and both refuse what is none."""
    code = f"""
from pathlib import Path
from bioengine_runner.store import trust
from bioengine_runner.loading.triton_model import RUNNABLE_WEIGHTS
from bioengine_runner.store.resolve import resolve
print(trust.trust_entry(resolve(Path({str(filled_home / "models")!r}), "custom-crab")), *RUNNABLE_WEIGHTS, *trust.CODE_WEIGHTS)
trust.parse_trusted("a@1")
"""
    process = subprocess.run([python("runner"), "-c", code], capture_output=True, text=True)
    crab = ModelStore(filled_home / "models").find("custom-crab").manifest
    assert process.stdout.split() == [trust.trust_entry(crab), *RUNNABLE_WEIGHTS, *trust.CODE_WEIGHTS]
    with pytest.raises(ValueError) as error:
        trust.parse_trusted("a@1")
    assert process.stderr.strip().endswith(str(error.value))
