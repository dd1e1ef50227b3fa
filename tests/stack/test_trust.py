"""Packages with Python code of their own: run where the admin has named their content, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bioengine_server.store.model_store import ModelStore

from tests.stack.harness import Stack, bioengine, command, copy_package, example_input

MARK = Path("/dev/shm/custom-crab-was-here")
CODED = {"custom-crab": "onnx", "state-dict-stork": "pytorch_state_dict"}


def shown_entry(home: Path, id: str) -> str:
    """What `models show` prints to be pasted."""
    shown = command("models", "show", id, "--home", str(home), COLUMNS="60").stdout
    assert "contains Python code of its own" in shown and "BIOENGINE_TRUSTED_MODELS" in shown
    return next(line.strip() for line in shown.splitlines() if line.strip().startswith(f"{id}@"))


@pytest.mark.extended
def test_trusted_code_runs_until_the_package_changes(own_home: Path, packages: Path, tmp_path: Path) -> None:
    entries = ", ".join(shown_entry(own_home, id) for id in CODED)
    MARK.unlink(missing_ok=True)
    with Stack(own_home, BIOENGINE_TRUSTED_MODELS=entries) as stack, stack.client() as client:
        for id, weight_format in CODED.items():
            expected = np.load(packages / id / "test_output.npy")
            for wanted in ({}, {"weight_format": weight_format}):
                result = client.run(id, example_input(packages, id), **wanted)
                assert result["success"], result
                np.testing.assert_allclose(result["outputs"][0], expected, atol=1e-5)
                assert (result["weight_format"], result["device"]) == (weight_format, "cpu")
        assert MARK.exists()
        MARK.unlink()
        changed = copy_package(packages, "custom-crab", tmp_path)
        (changed / "README.md").write_text("Other content; the code is the same.")
        ModelStore(own_home / "models").import_package(changed, replace=True)
        error = client.run("custom-crab", example_input(packages, "custom-crab"))["error"]
        assert "trusted it only with its earlier content, before it was imported again" in error
        assert "`./bioengine models show custom-crab`" in error and not MARK.exists()
        # The content that was trusted is trusted again; a file that is changed in the store is not what was imported.
        ModelStore(own_home / "models").import_package(packages / "custom-crab", replace=True)
        assert client.run("custom-crab", example_input(packages, "custom-crab"))["success"] and MARK.exists()
        MARK.unlink()
        ModelStore(own_home / "models").import_package(packages / "custom-crab", replace=True)
        steps = own_home / "models" / "custom-crab" / "1.0.0" / "steps.py"
        steps.write_text(steps.read_text().replace("+ add", "- add"))
        error = client.run("custom-crab", example_input(packages, "custom-crab"))["error"]
        assert "cannot be read: steps.py: the SHA-256 is" in error and not MARK.exists()


@pytest.mark.extended
def test_the_command_line_tells_what_is_trusted(own_home: Path) -> None:
    home = str(own_home)
    entries = ",".join(shown_entry(own_home, id) for id in CODED)
    assert command("models", "list", "--home", home).stdout.count("not run (contains code, not trusted)") == 2
    assert "not run (contains code" not in command("models", "list", "--home", home, BIOENGINE_TRUSTED_MODELS=entries).stdout
    assert "trusted by you" in command("models", "show", "custom-crab", "--home", home, BIOENGINE_TRUSTED_MODELS=entries).stdout
    for id, weight_format in CODED.items():
        MARK.unlink(missing_ok=True)
        refused = command("models", "test", id, "--home", home)
        assert refused.exit_code == 0 and "not run" in refused.stdout and "not trusted" in refused.stdout, refused
        assert not MARK.exists()
        tested = command("models", "test", id, "--home", home, BIOENGINE_TRUSTED_MODELS=entries)
        assert tested.exit_code == 0 and "passed" in tested.stdout and weight_format in tested.stdout, tested
        assert MARK.exists() == (id == "custom-crab")


def test_an_entry_that_is_none_keeps_the_server_from_starting(tmp_path: Path) -> None:
    start = bioengine("up", "--home", str(tmp_path / "home"), BIOENGINE_TRUSTED_MODELS="custom-crab")
    assert start.returncode == 1 and "trusted_models" in start.stderr and "'custom-crab' is not id@hash" in start.stderr
    assert "./bioengine models show ID" in start.stderr and "Traceback" not in start.stderr
