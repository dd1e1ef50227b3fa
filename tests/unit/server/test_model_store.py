"""The model store: what it refuses, and that it is unchanged then; names; several processes at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from bioengine_server.store.errors import BadId, InvalidPackage, NotAPackage, StoreError, StoreNotWritable
from bioengine_server.store.model_store import ModelStore

from tests.unit.server.vanishing import goes_when_looked_into

ID = "conscientious-seashell"


def zipped(folder: Path, target: Path) -> Path:
    return Path(shutil.make_archive(str(target.with_suffix("")), "zip", folder))


def copied(package: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(package, tmp_path / "copy"))


def damaged(package: Path, tmp_path: Path) -> Path:
    folder = copied(package, tmp_path)
    (folder / "weights.onnx").write_bytes(b"x")
    return folder


def invalid(package: Path, tmp_path: Path) -> Path:
    folder = copied(package, tmp_path)
    (folder / "rdf.yaml").write_text("x: [\n" + (folder / "rdf.yaml").read_text())
    return folder


def not_valid(package: Path, tmp_path: Path) -> Path:
    folder = copied(package, tmp_path)
    (folder / "rdf.yaml").write_text((folder / "rdf.yaml").read_text().replace("type: channel", "type: chanel"))
    return folder


def with_link(package: Path, tmp_path: Path) -> Path:
    folder = copied(package, tmp_path)
    (folder / "passwords").symlink_to("/etc/passwd")
    return folder


def two_descriptions(package: Path, tmp_path: Path) -> Path:
    folder = copied(package, tmp_path)
    (folder / "my.rdf.yaml").write_text((folder / "rdf.yaml").read_text() + "\n# another\n")
    return folder


def empty(package: Path, tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def text(package: Path, tmp_path: Path) -> Path:
    (tmp_path / "notes.txt").write_text("hello")
    return tmp_path / "notes.txt"


def nowhere(package: Path, tmp_path: Path) -> Path:
    return tmp_path / "nowhere"


def no_folder_of_packages(package: Path, tmp_path: Path) -> Path:
    return package.parent


def cut_zip(package: Path, tmp_path: Path) -> Path:
    whole = zipped(package, tmp_path / "whole.zip")
    (tmp_path / "cut.zip").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return tmp_path / "cut.zip"


def changed_zip(package: Path, tmp_path: Path) -> Path:
    archive = zipped(package, tmp_path / "changed.zip")
    content = bytearray(archive.read_bytes())
    content[200:260] = bytes(60)
    archive.write_bytes(bytes(content))
    return archive


def zip_with(name: str, mode: int = 0o100644) -> Callable[[Path, Path], Path]:
    def make(package: Path, tmp_path: Path) -> Path:
        archive = zipped(package, tmp_path / "with.zip")
        with zipfile.ZipFile(archive, "a") as file:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            file.writestr(entry, "/etc/passwd")
        return archive

    make.__name__ = f"zip_with_{name}"
    return make


def bomb(package: Path, tmp_path: Path) -> Path:
    archive = zipped(package, tmp_path / "bomb.zip")
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file, file.open("zeros", "w", force_zip64=True) as zeros:
        for _ in range(300):
            zeros.write(bytes(1_000_000))
    return archive


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (damaged, "weights.onnx is damaged: its SHA-256 is"),
        (invalid, "rdf.yaml is not YAML"),
        (not_valid, "is not valid, so nothing was imported"),
        (with_link, "passwords is not a regular file"),
        (two_descriptions, "it has 2 descriptions that differ (my.rdf.yaml, rdf.yaml)"),
        (empty, "the folder has no rdf.yaml"),
        (text, "it is a file, but not a zip"),
        (nowhere, "there is no such folder or file"),
        (no_folder_of_packages, "the folder has no rdf.yaml"),
        (cut_zip, "it is a file, but not a zip"),
        (changed_zip, "the zip cannot be read"),
        (zip_with("../../outside"), "not a plain file inside it ('../../outside')"),
        (zip_with("/etc/outside"), "not a plain file inside it ('/etc/outside')"),
        (zip_with("..\\outside"), "not a plain file inside it"),
        (zip_with("link", 0o120777), "not a plain file inside it ('link')"),
        (zip_with("RDF.yaml"), "the zip has two entries of the same name"),
        (bomb, "its content is far too large for a zip of its size"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_no_package(packages: Path, tmp_path: Path, make: Callable[[Path, Path], Path], expected: str) -> None:
    store = ModelStore(tmp_path / "models")
    store.import_package(packages / "old-otter")
    before = sorted(file.relative_to(store.folder) for file in store.folder.rglob("*"))
    with pytest.raises((NotAPackage, InvalidPackage)) as caught:
        store.import_package(make(packages / ID, tmp_path))
    assert expected in str(caught.value)
    assert sorted(file.relative_to(store.folder) for file in store.folder.rglob("*")) == before
    assert not list(tmp_path.rglob("outside"))


def test_packages_are_bounded(packages: Path, tmp_path: Path) -> None:
    for source in (packages / ID, zipped(packages / ID, tmp_path / "x.zip")):
        with pytest.raises(NotAPackage, match="the limit of BIOENGINE_MAX_PACKAGE_SIZE"):
            ModelStore(tmp_path / "models", max_size=1000).import_package(source)


@pytest.mark.parametrize("id", ["../x", "a/b", "", ".hidden", "x" * 200, "a--onnx", "bioengine-model-runner"])
def test_ids_that_cannot_be(packages: Path, tmp_path: Path, id: str) -> None:
    with pytest.raises(BadId):
        ModelStore(tmp_path / "models").import_package(packages / "old-otter", id)


def test_a_full_disk(packages: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("a file system of its own cannot be mounted here")
    try:
        store = ModelStore(folder / "models")
        with pytest.raises(StoreNotWritable, match="No space left on device"):
            store.import_package(packages / ID)
        assert store.models() == [] and not list(store.folder.glob(".incoming*"))
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_store_that_is_mounted_read_only_is_taken_if_it_has_the_bundled_models(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()

    def mount(*options: str) -> bool:
        return subprocess.run(["mount", *options, str(folder)], capture_output=True).returncode == 0

    if not mount("--bind", str(folder)):
        pytest.skip("a file system of its own cannot be mounted here")
    store = ModelStore(folder)
    try:
        assert mount("-o", "remount,ro,bind")
        with pytest.raises(StoreNotWritable, match="Read-only file system"):
            store.prepare()
        assert mount("-o", "remount,rw,bind")
        store.prepare()
        assert mount("-o", "remount,ro,bind")
        store.prepare()
        assert "drawn-nuclei" in {model.manifest.id for model in store.models()}
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_folder_that_cannot_be_read(packages: Path, tmp_path: Path) -> None:
    """As somebody without rights to it; root may read anything."""
    source = copied(packages / ID, tmp_path)
    (source / "weights.onnx").chmod(0)
    code = (
        "import os, sys, pathlib\n"
        "from bioengine_server.store.model_store import ModelStore\n"
        "os.getuid() or os.setuid(65534)\n"
        "ModelStore(pathlib.Path(sys.argv[1])).import_package(pathlib.Path(sys.argv[2]))\n"
    )
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    for store, expected in [
        (open_folder / "models", "weights.onnx cannot be read (Permission denied)"),
        (tmp_path / "models", "could not be written: Permission denied"),
    ]:
        run = subprocess.run([sys.executable, "-c", code, str(store), str(source)], capture_output=True, text=True)
        assert expected in run.stderr, run.stderr


def test_processes_side_by_side(packages: Path, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from bioengine_server.store.model_store import ModelStore\n"
        "store = ModelStore(pathlib.Path(sys.argv[1]))\n"
        "for number in range(5):\n"
        "    store.import_package(pathlib.Path(sys.argv[2]), sys.argv[3] + str(number % 3))\n"
        "    store.models()\n"
    )
    store = ModelStore(tmp_path / "models")
    command = [sys.executable, "-c", code, str(store.folder), str(packages / "old-otter")]
    running = [subprocess.Popen([*command, id]) for id in ("a", "b", "a")]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    assert [model.manifest.id for model in store.models()] == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert not list(store.folder.glob(".incoming*"))


def test_what_a_cut_off_import_left_is_swept(packages: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    (store.folder / ".incoming-0123").mkdir(parents=True)
    (store.folder / ".incoming-0123" / "weights.onnx").write_bytes(b"half")
    store.import_package(packages / "old-otter")
    assert not list(store.folder.glob(".incoming*"))


def test_a_package_that_goes_while_all_are_listed(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ModelStore(tmp_path / "models")
    for id in (ID, "old-otter"):
        store.import_package(packages / id)
    goes_when_looked_into(monkeypatch, store.folder / "old-otter")
    assert [model.manifest.id for model in store.models()] == [ID]
    assert not (store.folder / "old-otter").exists()


def test_where_a_package_came_from_is_told_whole(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(packages)
    stored = ModelStore(tmp_path / "models").import_package(Path(ID))
    assert stored.manifest.origin == str(packages / ID)


def test_names(packages: Path, tmp_path: Path) -> None:
    """A nickname and a DOI in the description name the package too; not those of another package."""
    package = copied(packages / ID, tmp_path)
    rdf = yaml.safe_load((package / "rdf.yaml").read_text())
    rdf["config"] = {"bioimageio": {"nickname": "calm-seashell", "doi": "10.5281/zenodo.1234/5678"}}
    (package / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    store = ModelStore(tmp_path / "models")
    assert store.import_package(package).manifest.id == "calm-seashell"
    for name in ("calm-seashell", ID, "10.5281/zenodo.1234", "10.5281/zenodo.1234/5678", "calm-seashell/1.0.0"):
        assert store.find(name).manifest.id == "calm-seashell"
    store.import_package(packages / "old-otter", id="other")
    rdf["config"]["bioimageio"]["nickname"] = "thief"
    (package / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    store.import_package(package)
    assert store.find("10.5281/zenodo.1234").manifest.id == "calm-seashell"


def test_export_and_prune(packages: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    for id in (ID, "old-otter", "two-inputs"):
        store.import_package(packages / id)
    archive = tmp_path / "out.zip"
    store.export(store.find(ID), archive)
    again = ModelStore(tmp_path / "other").import_package(archive)
    assert again.manifest.files == store.find(ID).manifest.files
    with pytest.raises(StoreError, match="already exists"):
        store.export(store.find(ID), archive)
    with pytest.raises(StoreError, match="could not be written"):
        store.export(store.find(ID), tmp_path / "no" / "folder.zip")
    uses = {f"{id}/1.0.0": f"2027-01-0{day}T00:00:00+00:00" for day, id in enumerate((ID, "two-inputs", "old-otter"), start=1)}
    (store.folder / "usage.json").write_text(json.dumps(uses))
    assert store.prune(store.find("old-otter").manifest.size) == [f"{ID}/1.0.0", "two-inputs/1.0.0"]
    assert [model.manifest.id for model in store.models()] == ["old-otter"]
    assert os.listdir(store.folder / "old-otter") == ["1.0.0"]


def test_tensors_beside_an_onnx_file_are_recorded(packages: Path, tmp_path: Path) -> None:
    folder = copied(packages / ID, tmp_path)
    (folder / "tensors.data").write_bytes(b"x")
    rdf = yaml.safe_load((folder / "rdf.yaml").read_text())
    rdf["weights"]["onnx"]["external_data"] = {"source": "tensors.data"}
    (folder / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    manifest = ModelStore(tmp_path / "models").import_package(folder).manifest
    assert manifest.weights["onnx"].external_data == "tensors.data" and manifest.weights["torchscript"].external_data is None
