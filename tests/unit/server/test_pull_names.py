"""What the files of a download are called: each is stored as itself, and the description names it so."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bioengine_server.store.model_store import ModelStore
from bioengine_server.store.named_files import beside
from bioengine_server.store.service import StoreService

from tests.mirror import Mirror
from tests.unit.server.test_pull import ANONYMOUS, ID, edit_rdf


@pytest.fixture
def mirror(packages: Path, tmp_path: Path) -> Iterator[Mirror]:
    with Mirror(Path(shutil.copytree(packages, tmp_path / "mirror"))) as running:
        yield running


async def test_names_of_windows_and_umlauts_are_downloaded(mirror: Mirror, tmp_path: Path) -> None:
    folder = mirror.packages / "old-otter"
    (folder / "w").mkdir()
    (folder / "weights.onnx").rename(folder / "w" / "für.onnx")
    edit_rdf(mirror, lambda rdf: rdf["weights"]["onnx"].update(source="w\\für.onnx"), "old-otter")
    config = mirror.settings(tmp_path / "home")
    await StoreService(config).fetch("old-otter", ANONYMOUS)
    assert ModelStore(config.store).find("old-otter").manifest.weights["onnx"].source == "w/fur.onnx"


async def test_files_at_absolute_urls_come_into_the_package(mirror: Mirror, tmp_path: Path) -> None:
    """At the collection's own host, which is trusted whatever its address."""
    url = f"{mirror.url}/artifacts/two-inputs/files/weights.onnx"
    edit_rdf(
        mirror,
        lambda rdf: rdf["weights"]["onnx"].update(
            source=url,
            sha256=yaml.safe_load((mirror.packages / "two-inputs" / "rdf.yaml").read_text())["weights"]["onnx"]["sha256"],
        ),
    )
    config = mirror.settings(tmp_path / "home")
    await StoreService(config).fetch(ID, ANONYMOUS)
    model = ModelStore(config.store).find(ID)
    assert model.manifest.weights["onnx"].source == "weights.onnx"
    assert yaml.safe_load((model.folder / "rdf.yaml").read_text())["weights"]["onnx"]["source"] == "weights.onnx"


async def test_files_of_one_name_at_several_urls(mirror: Mirror, tmp_path: Path) -> None:
    """Each is stored as itself: what was fetched, and what was not, is never taken for another."""
    (mirror.packages / ID / "README.md").write_text("# Seashell\n")
    original = {file.name: file.read_bytes() for file in (mirror.packages / ID).iterdir()}
    zenodo, files = mirror.packages / ID / "records", f"{mirror.url}/artifacts/{ID}/files"
    for name in ("weights.onnx", "weights.pt", "README.md"):
        (zenodo / name).mkdir(parents=True)
        (mirror.packages / ID / name).rename(zenodo / name / "content")
    (mirror.packages / ID / "weights.pt").write_bytes(b"another")

    def change(rdf: dict[str, Any]) -> None:
        weights = rdf["weights"]
        for entry in (weights["onnx"], weights["torchscript"]):
            entry["source"] = f"{files}/records/{entry['source']}/content"
        weights["keras_hdf5"] = {"source": f"{files}/k/weights.onnx/content", "sha256": "0" * 64, "tensorflow_version": "2.1"}
        code = {"callable": "Net", "source": f"{files}/network.py", "sha256": "0" * 64}
        weights["pytorch_state_dict"] = {
            "source": "weights.pt", "sha256": "1" * 64, "pytorch_version": "2.0", "architecture": code
        }  # fmt: skip
        rdf["documentation"] = f"{files}/records/README.md/content"
        rdf["covers"] = [f"{files}/a/cover.png", "cover.png"]
        rdf["inputs"][0]["sample_tensor"] = {"source": f"{files}/sample/test_input.npy"}

    edit_rdf(mirror, change)
    config = mirror.settings(tmp_path / "home")
    await StoreService(config).fetch(ID, ANONYMOUS)
    model = ModelStore(config.store).find(ID)
    rdf, weights = yaml.safe_load((model.folder / "rdf.yaml").read_text()), model.manifest.weights
    assert {name: (model.folder / entry.source).read_bytes() for name, entry in weights.items()} == {
        "onnx": original["weights.onnx"], "torchscript": original["weights.pt"]
    }  # fmt: skip
    assert model.manifest.unsupported_weights == ("keras_hdf5", "pytorch_state_dict")
    assert (weights["onnx"].source, weights["torchscript"].source) == ("weights.onnx", "weights-2.pt")
    assert rdf["documentation"] == "README.md" and (model.folder / "README.md").read_bytes() == original["README.md"]
    assert rdf["covers"] == [f"{files}/a/cover.png", f"{files}/cover.png"]
    assert rdf["inputs"][0]["sample_tensor"]["source"] == f"{files}/sample/test_input.npy"


def test_what_lies_beside_a_description_at_zenodo() -> None:
    files = "https://zenodo.org/api/records/1/files"
    assert beside(f"{files}/rdf.yaml/content?token=1", "weights.onnx") == f"{files}/weights.onnx/content?token=1"
    assert beside("https://example.com/content/rdf.yaml?v=1", "a b") == "https://example.com/content/a%20b?v=1"


async def test_attachments_of_weights_are_downloaded_with_them(mirror: Mirror, tmp_path: Path) -> None:
    """Those of weights that are not fetched are not, and are named by URLs."""
    (mirror.packages / "old-otter" / "labels.txt").write_text("cells")

    def change(rdf: dict[str, Any]) -> None:
        rdf["weights"]["onnx"]["attachments"] = {"files": ["labels.txt"]}
        rdf["weights"]["keras_hdf5"] = {
            "source": "https://example.com/k.h5", "sha256": "0" * 64, "attachments": {"files": ["keras.json"]}
        }  # fmt: skip

    edit_rdf(mirror, change, "old-otter")
    config = mirror.settings(tmp_path / "home")
    await StoreService(config).fetch("old-otter", ANONYMOUS)
    store = ModelStore(config.store)
    model = store.find("old-otter")
    assert (model.folder / "labels.txt").read_text() == "cells" and mirror.count("keras.json") == 0
    rdf = yaml.safe_load((model.folder / "rdf.yaml").read_text())
    assert rdf["weights"]["keras_hdf5"]["attachments"]["files"] == [f"{mirror.url}/artifacts/old-otter/files/keras.json"]
    store.export(model, tmp_path / "out.zip")
    assert "labels.txt" in ModelStore(tmp_path / "other").import_package(tmp_path / "out.zip").manifest.files
