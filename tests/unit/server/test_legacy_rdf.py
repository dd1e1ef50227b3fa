"""The description that existing clients read: format 0.4's shape, whatever format the package has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgpack
import pytest
import yaml
from bioengine_contract.manifest import Manifest
from bioengine_server.store.model_store import ModelStore
from bioimageio.spec.model import v0_4

from tests.stack.harness import ZOO

MODELS = [
    "conscientious-seashell",
    "label-doubler",
    "old-otter",
    "two-inputs",
    *(sorted(folder.name for folder in ZOO.iterdir() if folder.is_dir()) if ZOO.is_dir() else []),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return ModelStore(tmp_path_factory.mktemp("store"))


def imported(store: ModelStore, packages: Path, id: str) -> Manifest:
    folder = packages / id if (packages / id).is_dir() else ZOO / id
    return store.import_package(folder, id).manifest


@pytest.mark.parametrize("id", MODELS)
def test_what_clients_read(store: ModelStore, packages: Path, id: str) -> None:
    manifest = imported(store, packages, id)
    rdf = manifest.rdf
    assert json.loads(json.dumps(rdf, allow_nan=False)) == rdf
    assert msgpack.unpackb(msgpack.packb(rdf)) == rdf
    assert rdf["config"]["bioimageio"]["nickname"]
    for spec in rdf["inputs"]:
        check(spec, v0_4.InputTensorDescr)
        assert isinstance(spec["shape"], list) or set(spec["shape"]) == {"min", "step"}
    for spec in rdf["outputs"]:
        check(spec, v0_4.OutputTensorDescr)
    for kind in ("inputs", "outputs"):
        assert len(rdf[f"test_{kind}"]) == len(rdf[kind])
        assert all(isinstance(source, str) for source in (*rdf[f"test_{kind}"], *rdf.get(f"sample_{kind}", [])))


def check(spec: dict[str, Any], kind: Any) -> None:
    """It is a tensor of format 0.4 by the specification's own rules; processing steps keep the names of their format."""
    assert isinstance(spec["axes"], str)
    without_steps = {key: value for key, value in spec.items() if not key.endswith("processing")}
    kind.model_validate(without_steps)
    shape = spec["shape"]
    for sizes in [shape] if isinstance(shape, list) else [value for value in shape.values() if isinstance(value, list)]:
        assert len(sizes) == len(spec["axes"])


def test_scales_offsets_and_halo(store: ModelStore, packages: Path, tmp_path: Path) -> None:
    """An output of twice the input's pixels in y, with a border less in x, in three channels."""

    folder = Path(shutil.copytree(packages / "conscientious-seashell", tmp_path / "conscientious-seashell"))
    raw = yaml.safe_load((folder / "rdf.yaml").read_text())
    (output,) = raw["outputs"]
    (source,) = raw["inputs"]
    batch, channel, y, x = output["axes"]
    reference = {"tensor_id": source["id"], "axis_id": "y"}
    output["axes"] = [
        batch,
        channel,
        {**y, "scale": 0.5, "size": reference, "halo": 8},
        {**x, "size": {**reference, "axis_id": "x", "offset": -4}, "halo": 2},
    ]
    (folder / "rdf.yaml").write_text(yaml.safe_dump(raw))
    manifest = store.import_package(folder, "scaled-seashell").manifest
    (output,) = manifest.rdf["outputs"]
    shape = output["shape"]
    assert output["axes"] == "bcyx" and output["halo"] == [0, 0, 8, 2]
    assert shape["reference_tensor"] == source["id"]
    assert shape["scale"] == [1.0, 0.0, 2.0, 1.0] and shape["offset"] == [0.0, 0.5, 0.0, -2.0]
