"""Names of files in packages: whatever letters they have, nothing outside of the package is written, nor a file of ours."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import yaml
from bioengine_server.store import layout
from bioengine_server.store.adapt import adapt
from bioengine_server.store.description import MAX_SIZE
from bioengine_server.store.errors import NotAPackage
from bioengine_server.store.model_store import ModelStore
from bioengine_server.store.package import MAX_DEPTH, OURS
from bioengine_server.store.pull import _local_name
from bioengine_server.store.settle import settle
from bioengine_server.store.shown_files import shown_files

from tests.packages.foreign import onnx_outside

# Letters that are no dots and slashes, until they are decomposed; and such of which nothing is left.
TWO_DOTS, ONE_DOT, SLASH, ACCENT = "\u2025", "\u2024", "\u2100", "\u0301"
URL = "https://example.org/rdf.yaml"


def a_package(folder: Path, *covers: str, **more: Any) -> dict[str, Any]:
    """A folder with these covers and the description that names them."""
    for cover in covers:
        (folder / cover).parent.mkdir(parents=True, exist_ok=True)
        (folder / cover).write_text("evil")
    raw = {"format_version": "0.5.5", "covers": list(covers), "weights": {}, **more}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rdf.yaml").write_text(yaml.safe_dump(raw))
    return raw


def files_of(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "cover",
    [
        f"{TWO_DOTS}/{TWO_DOTS}/victim",
        f"{TWO_DOTS}/{TWO_DOTS}/victim{ACCENT}",
        f"a/{TWO_DOTS}",
        f"{ONE_DOT}{ONE_DOT}",
        f"{ONE_DOT}hidden",
        f"a{SLASH}b",
        ACCENT,
    ],
    ids=ascii,
)
def test_no_letters_lead_out_of_a_package(tmp_path: Path, cover: str) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "store" / "incoming"
    victim.write_text("mine")
    settle("x", folder, a_package(folder, cover), must_be_whole=True)
    assert victim.read_text() == "mine"
    assert files_of(tmp_path) - {"victim"} == {f"store/incoming/{name}" for name in files_of(folder)}
    (stored,) = files_of(folder) - {"rdf.yaml"}
    assert (folder / stored).read_text() == "evil" and not Path(stored).name.startswith(".")
    assert yaml.safe_load((folder / "rdf.yaml").read_text())["covers"] == [stored]


@pytest.mark.parametrize(
    "location",
    [
        "../../{0}",
        "/{0}",
        "w/../../../{0}",
        f"{TWO_DOTS}/{TWO_DOTS}/{{0}}",
        "..\\..\\{0}",
        "../incoming/{0}",
        "weights.onnx/{0}",
        "rdf.yaml",
        "",
    ],
    ids=ascii,
)
def test_no_spelling_in_an_onnx_file_leads_out_of_a_package(tmp_path: Path, location: str) -> None:
    composed, decomposed = (unicodedata.normalize(form, "dätä") for form in ("NFC", "NFD"))
    folder = tmp_path / "store" / "incoming"
    for victim in (tmp_path / composed, folder / "other"):
        victim.parent.mkdir(parents=True, exist_ok=True)
        victim.write_text("mine")
    raw = a_package(folder, attachments=[composed], weights={"onnx": {"source": "weights.onnx"}})
    (folder / composed).write_text("data")
    (folder / "weights.onnx").write_bytes(onnx_outside(location.format(decomposed)))
    before = files_of(tmp_path)
    settle("x", folder, raw, must_be_whole=True)
    assert files_of(tmp_path) == before and raw["attachments"] == [composed]
    assert (tmp_path / composed).read_text() == (folder / "other").read_text() == "mine"


def test_a_spelling_in_an_onnx_file_takes_no_other_file_s_place(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "dätä") for form in ("NFC", "NFD"))
    raw = a_package(tmp_path, attachments=[composed], weights={"onnx": {"source": "weights.onnx"}})
    (tmp_path / composed).write_text("data")
    (tmp_path / decomposed).write_text("another")
    (tmp_path / "weights.onnx").write_bytes(onnx_outside(decomposed))
    settle("x", tmp_path, raw, must_be_whole=True)
    assert ((tmp_path / composed).read_text(), (tmp_path / decomposed).read_text()) == ("data", "another")


@pytest.mark.parametrize("name", OURS)
def test_no_letters_become_a_file_of_ours(tmp_path: Path, name: str) -> None:
    wide = chr(ord(name[0]) - ord("a") + ord("\uff41")) + name[1:]
    settle("x", tmp_path, a_package(tmp_path, wide), must_be_whole=True)
    stored = files_of(tmp_path) - {"rdf.yaml"}
    assert stored == {f"{Path(name).stem}-2{Path(name).suffix}"}


def test_what_a_download_names_is_never_a_file_of_ours() -> None:
    assert _local_name(URL, "model.json", set()) == "model-2.json"
    assert _local_name(URL, "Model.json", set()) == "Model-2.json"
    for source in ("reports/test.json", "Reports/test.json", "model.json/x", "/".join("a" * (MAX_DEPTH + 1))):
        with pytest.raises(NotAPackage, match="outside of the package"):
            _local_name(URL, source, set())


def test_folders_are_not_nested_without_end(packages: Path, tmp_path: Path) -> None:
    """Neither are they imported, nor does what is left of them keep the store from being changed."""
    store = ModelStore(tmp_path / "home" / "models")
    package = Path(shutil.copytree(packages / "old-otter", tmp_path / "deep"))
    deep = package.joinpath(*"a" * (MAX_DEPTH + 1))
    deep.mkdir(parents=True)
    (deep / "x").write_text("x")
    with pytest.raises(NotAPackage, match=f"more than {MAX_DEPTH} folders"):
        store.import_package(package)
    left = store.folder / f"{layout.INCOMING}left"
    left.mkdir()
    inner = os.open(left, os.O_RDONLY)
    for _ in range(2000):  # deeper than Python recurses, and than a path can say
        os.mkdir("a", dir_fd=inner)
        outer, inner = inner, os.open("a", os.O_RDONLY, dir_fd=inner)
        os.close(outer)
    os.close(inner)
    assert store.import_package(packages / "old-otter")
    assert not left.exists()


def test_a_description_of_any_size_is_not_read(packages: Path, tmp_path: Path) -> None:
    package = Path(shutil.copytree(packages / "old-otter", tmp_path / "large"))
    with open(package / "more.rdf.yaml", "wb") as file:
        file.truncate(MAX_SIZE + 1)
    with pytest.raises(NotAPackage, match="larger than"):
        ModelStore(tmp_path / "home" / "models").import_package(package)


def test_names_of_tensors_are_shortened_in_one_pass() -> None:
    """Six thousand of one beginning, as many as a description can have: none is compared with all others."""
    names = [f"{'n' * 40}{number}" for number in range(6000)]
    raw: dict[str, Any] = {"format_version": "0.4.9", "inputs": [{"name": name} for name in names]}
    assert adapt(raw)
    short = [tensor["name"] for tensor in raw["inputs"]]
    assert len(set(short)) == len(names) and max(map(len, short)) <= 32


def test_code_has_no_address(packages: Path, tmp_path: Path) -> None:
    """Not even where the description names it as documentation, too."""
    model = ModelStore(tmp_path / "home" / "models").import_package(packages / "custom-crab")
    rdf = model.manifest.rdf
    assert "test_input.npy" in shown_files(model.manifest)
    both = model.manifest.model_copy(update={"rdf": {**rdf, "documentation": "steps.py", "covers": ["steps.py"]}})
    assert any(step["name"] == "custom" for step in rdf["outputs"][0]["postprocessing"])
    assert "steps.py" not in shown_files(both)
