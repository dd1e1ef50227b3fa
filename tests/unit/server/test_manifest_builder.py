"""From a description, of either format, to what `model.json` says of the package."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from bioengine_contract.manifest import Axis, Manifest, SizeReference
from bioengine_contract.trust import usable_weights
from bioengine_server.store.description import parse
from bioengine_server.store.legacy_rdf import legacy_rdf
from bioengine_server.store.manifest_builder import build_manifest
from bioimageio.spec import InvalidDescr, load_description
from bioimageio.spec.model import v0_4, v0_5

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def built(packages: Path, tmp_path: Path) -> Callable[..., Manifest]:
    """The manifest of one of the small packages, after a change to its rdf.yaml as plain data."""

    def build(id: str, change: Change = lambda raw: None) -> Manifest:
        folder = Path(shutil.copytree(packages / id, tmp_path / id))
        raw = yaml.safe_load((folder / "rdf.yaml").read_text())
        change(raw)
        (folder / "rdf.yaml").write_text(yaml.safe_dump(raw))
        files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}
        description = load_description(folder / "rdf.yaml", perform_io_checks=False)
        assert not isinstance(description, InvalidDescr), description.validation_summary
        assert isinstance(description, (v0_4.ModelDescr, v0_5.ModelDescr))
        return build_manifest(description, parse((folder / "rdf.yaml").read_bytes()), id, "1.0", folder, files, "here")

    return build


def axes(tensor: Any) -> dict[str, Axis]:
    return {axis.id: axis for axis in tensor.axes}


def test_sizes_that_are_free_follow_an_input_or_are_fixed(built: Callable[..., Manifest]) -> None:
    manifest = built("conscientious-seashell")
    (image,), (mask,) = manifest.inputs, manifest.outputs
    assert (image.id, image.dtype, mask.id, mask.dtype) == ("image", "float32", "mask", "float32")
    assert image.axes == (
        Axis("batch", "batch", 1, 1),
        Axis("channel", "channel", 3, 0),
        Axis("y", "space", 16, 16),
        Axis("x", "space", 16, 16),
    )
    assert axes(mask)["y"].reference == SizeReference("image", "y", 1.0, 0)
    (config,) = manifest.triton_config["input"]
    assert config == {"name": "image", "data_type": "TYPE_FP32", "dims": [-1, 3, -1, -1]}
    assert manifest.triton_config["output"][0]["dims"] == [-1, 1, -1, -1]


def test_a_size_follows_by_the_scales_of_both_axes(built: Callable[..., Manifest]) -> None:
    """Of pixels of 0.5 in the input and of 0.25 in the output there are twice as many."""

    def change(raw: dict[str, Any]) -> None:
        raw["inputs"][0]["axes"][2]["scale"] = 0.5
        raw["outputs"][0]["axes"][2] |= {"scale": 0.25, "halo": 4, "size": {"tensor_id": "image", "axis_id": "y", "offset": -8}}

    (mask,) = built("conscientious-seashell", change).outputs
    assert axes(mask)["y"] == Axis("y", "space", 1, 1, SizeReference("image", "y", 2.0, -8), 4)
    assert axes(mask)["x"].halo == 0


def test_a_size_that_the_data_decide_is_any(built: Callable[..., Manifest]) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["outputs"][0]["axes"][2:] = [{"type": "index", "size": {"min": 2, "max": None}}]

    assert axes(built("conscientious-seashell", change).outputs[0])["index"] == Axis("index", "index", 2, 1)


def test_the_weights_that_run_here_are_told_from_those_that_do_not(built: Callable[..., Manifest]) -> None:
    def change(raw: dict[str, Any]) -> None:
        onnx = raw["weights"]["onnx"]
        for name in ("keras_hdf5", "tensorflow_js"):
            raw["weights"][name] = {"source": onnx["source"], "sha256": onnx["sha256"], "tensorflow_version": "2.9.0"}
        raw["weights"]["torchscript"]["source"] = "not-there.pt"

    manifest = built("conscientious-seashell", change)
    assert set(manifest.weights) == {"onnx", "keras_hdf5"}, "the latter can be converted"
    assert set(manifest.unsupported_weights) == {"tensorflow_js", "torchscript"}
    assert usable_weights(manifest, frozenset()) == ["onnx"] and manifest.convertible is None
    assert manifest.weights["onnx"].source == "weights.onnx"
    assert manifest.weights["onnx"].sha256 == manifest.files["weights.onnx"]
    assert manifest.size > 0 and manifest.version == "1.0" and manifest.origin == "here"


def test_python_of_the_package_is_named(built: Callable[..., Manifest]) -> None:
    assert built("custom-crab").code == ("custom postprocessing of 'out'",)


def test_the_processing_decides_what_comes_out(built: Callable[..., Manifest]) -> None:
    """Whatever the description says of the data."""

    def change(raw: dict[str, Any]) -> None:
        raw["outputs"][0]["postprocessing"] = [{"id": "binarize", "kwargs": {"threshold": 0.5}}]

    (mask,) = built("conscientious-seashell", change).outputs
    assert mask.dtype == "bool"


def test_an_optional_input_may_be_left_out(built: Callable[..., Manifest]) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["inputs"][1]["optional"] = True

    manifest = built("two-inputs", change)
    assert [tensor.optional for tensor in manifest.inputs] == [False, True]
    assert [config.get("optional", False) for config in manifest.triton_config["input"]] == [False, True]
    assert manifest.test_inputs == ("test_input_0.npy", "test_input_1.npy")
    assert manifest.test_outputs == ("test_output_0.npy", "test_output_1.npy")
    assert manifest.rdf["inputs"][1]["optional"] is True and "optional" not in manifest.rdf["inputs"][0]


def test_format_0_4_with_fixed_sizes(built: Callable[..., Manifest]) -> None:
    manifest = built("old-otter")
    (raw,) = manifest.inputs
    assert raw.axes == tuple(Axis(id, type, size, 0) for id, type, size in (
        ("batch", "batch", 1), ("channel", "channel", 1), ("y", "space", 32), ("x", "space", 48),
    ))  # fmt: skip
    assert manifest.outputs[0].dtype == "float32"
    assert manifest.triton_config["input"][0]["dims"] == [1, 1, 32, 48]
    assert len(manifest.test_inputs) == len(manifest.test_outputs) == 1


def test_format_0_4_with_sizes_that_follow(built: Callable[..., Manifest]) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["inputs"][0]["shape"] = {"min": [1, 1, 32, 48], "step": [0, 0, 16, 8]}
        raw["outputs"][0]["shape"] = {"reference_tensor": "raw", "scale": [1.0, 0.0, 2.0, 1.0], "offset": [0.0, 0.5, 0.0, -4.0]}
        raw["outputs"][0]["halo"] = [0, 0, 8, 2]

    manifest = built("old-otter", change)
    (raw,), (out,) = manifest.inputs, manifest.outputs
    assert axes(raw)["batch"].step == 1, "more than one sample is always possible"
    assert (axes(raw)["y"].min, axes(raw)["y"].step) == (32, 16)
    assert axes(out)["y"] == Axis("y", "space", 1, 1, SizeReference("raw", "y", 2.0, 0), 8)
    assert axes(out)["x"].reference == SizeReference("raw", "x", 1.0, -8), "an offset of 0.4 counts at both ends"
    assert axes(out)["channel"].reference is None


def test_clients_read_format_0_4_whatever_the_package_has(built: Callable[..., Manifest]) -> None:
    def nameless(raw: dict[str, Any]) -> None:
        del raw["config"]

    rdf = built("conscientious-seashell", nameless).rdf
    (image,), (mask,) = rdf["inputs"], rdf["outputs"]
    assert rdf["config"]["bioimageio"]["nickname"] == "conscientious-seashell"
    assert image["shape"] == {"min": [1, 3, 16, 16], "step": [0, 0, 16, 16]} and image["axes"] == "bcyx"
    assert [step["name"] for step in image["preprocessing"]] == ["zero_mean_unit_variance"]
    assert mask["shape"] == {"reference_tensor": "image", "scale": [1.0, 0.0, 1.0, 1.0], "offset": [0.0, 0.5, 0.0, 0.0]}
    assert rdf["test_inputs"] == ["test_input.npy"] and rdf["sample_inputs"] == []


def test_what_was_read_stays_as_it_was(packages: Path) -> None:
    raw = parse((packages / "old-otter" / "rdf.yaml").read_bytes())
    before = repr(raw)
    description = load_description(packages / "old-otter" / "rdf.yaml", perform_io_checks=False)
    assert isinstance(description, v0_4.ModelDescr)
    rdf = legacy_rdf(description, raw, "old-otter", (), ())
    assert repr(raw) == before and rdf["inputs"] == raw["inputs"] and rdf is not raw
