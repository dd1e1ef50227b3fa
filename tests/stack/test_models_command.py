"""`./bioengine models`: import, list, remove."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from tests.stack.harness import Stack, bioengine, copy_package, example_input


def zipped(folder: Path, target: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"{inside}{file.name}")
    return target


def test_import_list_remove(packages: Path, tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    assert "No models yet" in bioengine("models", "list", "--home", home).stdout
    imported = bioengine("models", "import", str(packages / "conscientious-seashell"), "--home", home)
    assert imported.returncode == 0 and "Imported conscientious-seashell 1.0.0" in imported.stdout
    archive = zipped(packages / "two-inputs", tmp_path / "two.zip", inside="two-inputs/")
    assert bioengine("models", "import", str(archive), "--id", "pair", "--home", home).returncode == 0
    document = json.loads((tmp_path / "home" / "models" / "conscientious-seashell" / "1.0.0" / "model.json").read_text())
    assert set(document["weights"]) == {"onnx", "torchscript"} and document["triton_config"]["max_batch_size"] == 0
    listing = bioengine("models", "list", "--home", home).stdout
    assert "conscientious-seashell" in listing and "pair" in listing and "onnx, torchscript" in listing
    removed = bioengine("models", "remove", "pair", "--home", home)
    assert "Removed pair/1.0.0" in removed.stdout
    assert "pair" not in bioengine("models", "list", "--home", home).stdout
    assert not (tmp_path / "home" / "models" / "pair").exists()
    again = bioengine("models", "remove", "pair", "--home", home)
    assert again.returncode == 1 and "There is no model 'pair'" in again.stderr and "conscientious-seashell" in again.stderr


def test_what_is_no_package_is_not_imported(packages: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    damaged = copy_package(packages, "conscientious-seashell", tmp_path)
    (damaged / "weights.onnx").write_bytes(b"x")
    invalid = copy_package(packages, "old-otter", tmp_path)
    (invalid / "rdf.yaml").write_text((invalid / "rdf.yaml").read_text().replace("axes: bcyx", "axes: 7"))
    linked = copy_package(packages, "two-inputs", tmp_path)
    (linked / "passwords").symlink_to("/etc/passwd")
    empty = tmp_path / "empty"
    empty.mkdir()
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    slipping = zipped(packages / "label-doubler", tmp_path / "slipping.zip")
    with zipfile.ZipFile(slipping, "a") as archive:
        archive.writestr("../../outside", "x")
    cut = tmp_path / "cut.zip"
    whole = zipped(packages / "slow-snail", tmp_path / "whole.zip").read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    for source, expected in [
        (damaged, "weights.onnx is damaged"),
        (invalid, "is not valid"),
        (linked, "passwords is not a regular file"),
        (empty, "has no rdf.yaml"),
        (text, "not a zip"),
        (slipping, "not a plain file inside it"),
        (cut, "not a zip"),
        (tmp_path / "nowhere", "there is no such folder or file"),
    ]:
        attempt = bioengine("models", "import", str(source), "--home", str(home))
        assert attempt.returncode == 1 and expected in attempt.stderr, (source, attempt.stderr)
        assert "Traceback" not in attempt.stderr
    assert [file.name for file in (home / "models").iterdir()] == [".lock"], "nothing is left half-done"
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("id", ["../x", "a/b", "", ".hidden", "x" * 200])
def test_ids_that_cannot_be(packages: Path, tmp_path: Path, id: str) -> None:
    attempt = bioengine("models", "import", str(packages / "old-otter"), f"--id={id}", "--home", str(tmp_path / "home"))
    if id == "":
        assert attempt.returncode == 0
    else:
        assert attempt.returncode == 1 and "cannot be a model's id" in attempt.stderr


def test_versions(packages: Path, tmp_path: Path) -> None:
    """The plain id names the version that was imported last; removing it gives the name back to the one before."""
    home = str(tmp_path / "home")
    first = packages / "old-otter"
    second = Path(shutil.copytree(first, tmp_path / "second"))
    (second / "rdf.yaml").write_text((second / "rdf.yaml").read_text().replace("version: 1.0.0", "version: 2.0.0"))
    for package in (first, second):
        assert bioengine("models", "import", str(package), "--home", home).returncode == 0
    aliases = tmp_path / "home" / "models" / "aliases.json"
    assert json.loads(aliases.read_text())["old-otter"] == "old-otter/2.0.0"
    assert "1.0.0 (older)" in bioengine("models", "list", "--home", home).stdout
    assert bioengine("models", "remove", "old-otter/2.0.0", "--home", home).returncode == 0
    assert json.loads(aliases.read_text())["old-otter"] == "old-otter/1.0.0"


def test_a_model_is_there_as_soon_as_it_is_imported(packages: Path, tmp_path: Path) -> None:
    """And gone as soon as it is removed, while the server runs."""
    with Stack(tmp_path / "home") as stack, stack.client() as client:
        inputs = example_input(packages, "old-otter")
        assert "No model 'old-otter'" in client.run("old-otter", inputs)["error"]
        bioengine("models", "import", str(packages / "old-otter"), "--home", str(stack.home))
        assert client.run("old-otter", inputs)["success"]
        bioengine("models", "remove", "old-otter", "--home", str(stack.home))
        assert "No model 'old-otter'" in client.run("old-otter", inputs)["error"]
