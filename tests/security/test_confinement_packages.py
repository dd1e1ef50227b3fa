"""Weights that reach for files outside of their package: TorchScript's own operators, and ONNX with external data."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bioengine_server.store.model_store import ModelStore

from tests.security.conftest import SECRET, Siege
from tests.stack.harness import ROOT, bioengine, python

IMAGE = np.zeros((1, 1, 4, 4), np.float32)


@pytest.fixture(scope="module")
def hostile(siege: Siege, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packages that reach for the file `secret` of the home, in its store. Each is run when it is made, where nothing confines
    it, and succeeds there, but for paths that ONNX Runtime itself refuses.
    """
    folder = tmp_path_factory.mktemp("hostile")
    command = [
        python("runner"),
        "-m",
        "tests.security.hostile_packages",
        str(folder),
        str(siege.home / "secret"),
        str(siege.home / "made"),
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    for id in ("reading-raven", "writing-weasel", "borrowing-bat"):
        import_package(siege, folder, id)
    return folder


def import_package(siege: Siege, folder: Path, id: str) -> None:
    """As `models import` does it."""
    umask = os.umask(0o077)
    try:
        ModelStore(siege.home / "models").import_package(folder / id, id, replace=True)
    finally:
        os.umask(umask)


def run(siege: Siege, id: str) -> dict[str, Any]:
    with siege.stack.client() as client:
        return client.run(id, [IMAGE])


def got(result: dict[str, Any]) -> str:
    """What came out: the text of an error, and pixels as characters."""
    pixels = [np.asarray(output).astype(np.uint8).tobytes().decode("latin1") for output in result.get("outputs", [])]
    return "".join([str(result.get("error")), *pixels])


def test_torchscript_reads_and_writes_no_file(siege: Siege, hostile: Path) -> None:
    for id in ("reading-raven", "writing-weasel"):
        result = run(siege, id)
        assert not result["success"] and "could not process" in result["error"], result
        assert SECRET.decode()[:12] not in got(result)
    assert not (siege.home / "made").exists()
    assert (siege.home / "secret").read_bytes() == SECRET


@pytest.mark.extended
def test_nor_does_it_in_the_test_of_a_package(siege: Siege, hostile: Path) -> None:
    for id in ("reading-raven", "writing-weasel"):
        tested = bioengine("models", "test", id, "--home", str(siege.home))
        assert tested.returncode == 1 and "failed" in tested.stdout, tested
    report = (siege.home / "models" / "reading-raven" / "1.0.0" / "reports" / "test.json").read_text()
    assert SECRET.decode() not in report
    assert not (siege.home / "made").exists()


def borrow(siege: Siege, hostile: Path, kind: str) -> dict[str, Any]:
    """The result of weights whose data is elsewhere. An import refuses such weights: they are put into the store by hand."""
    import_package(siege, hostile, "borrowing-bat")
    replace_weights(siege.home / "models" / "borrowing-bat" / "1.0.0", (hostile / "borrowed" / f"{kind}.onnx").read_bytes())
    return run(siege, "borrowing-bat")


@pytest.mark.parametrize("kind", ["absolute", "parent", "working-directory"])
def test_onnx_borrows_no_data_from_outside(siege: Siege, hostile: Path, kind: str) -> None:
    """Neither from a path, nor from the folder that the server was started in."""
    result = borrow(siege, hostile, kind)
    assert not result["success"] and "(weights.onnx) cannot be opened" in result["error"], result
    assert SECRET.decode()[:12] not in got(result)


def replace_weights(package: Path, content: bytes) -> None:
    """Put other weights into a stored package, as if they had been imported: all that knows their hash gets the new one."""
    weights, description, manifest = (package / name for name in ("weights.onnx", "rdf.yaml", "model.json"))
    old_weights, old_description = sha256(weights), sha256(description)
    weights.write_bytes(content)
    description.write_text(description.read_text().replace(old_weights, sha256(weights)))
    text = manifest.read_text().replace(old_weights, sha256(weights))
    manifest.write_text(text.replace(old_description, sha256(description)))


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
