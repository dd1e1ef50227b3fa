"""Which weights are opened, on which device, and what is run of a package with Python code; with the real frameworks."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from bioengine_contract.manifest import Weights
from bioengine_contract.package import Package
from bioengine_contract.package_errors import NoWeightsWork, PackageRunsCode, PackageUnreadable, WeightsNotAvailable
from bioengine_contract.triton_model import triton_model
from bioengine_contract.trust import parse_trusted, trust_entry
from bioengine_runner.errors import NoGpu, WeightsDamaged, WeightsError, WeightsNotOpened
from bioengine_runner.gpu import gpus
from bioengine_runner.inference import Pipeline
from bioengine_runner.rundir import Boot
from bioengine_runner.verify import verify_package
from bioengine_runner.weights import by_device

from tests.packages import usual
from tests.packages.sizes import normalized
from tests.unit.runner.stored import stored

BOTH = ["onnx", "torchscript"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    usual.conscientious_seashell(tmp_path / "packages")
    usual.state_dict_stork(tmp_path / "packages")
    usual.custom_crab(tmp_path / "packages")
    return tmp_path / "packages"


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def seashell(folder: Path, **changes: Any) -> Package:
    return stored(folder / "conscientious-seashell", "conscientious-seashell", **changes)


def stork(folder: Path) -> Package:
    return stored(folder / "state-dict-stork", "state-dict-stork")


def changed(package: Package, **changes: Any) -> Package:
    return replace(package, manifest=package.manifest.model_copy(update=changes))


def boot(tmp_path: Path, accelerator: str = "cpu", *trusted: str) -> Boot:
    return Boot(tmp_path, tmp_path, run_timeout=1, debug=False, trusted=frozenset(trusted), accelerator=accelerator)


def test_a_gpu_that_is_there_comes_first_and_onnx_on_each_device() -> None:
    formats = ["onnx", "torchscript", "pytorch_state_dict"]
    assert by_device(formats[::-1], "cpu") == [("cpu", formats)]
    assert by_device(formats[::-1], "cuda") == [("cuda", formats)], "and never the CPU"
    assert by_device(formats[::-1], "auto") == [("cuda", formats)] * bool(gpus()) + [("cpu", formats)]


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
@pytest.mark.parametrize("weight_format", BOTH)
def test_what_is_opened_and_where_is_told(folder: Path, tmp_path: Path, accelerator: str, weight_format: str) -> None:
    if accelerator == "auto" and gpus():
        pytest.skip("this machine has a GPU")
    opened = Pipeline(seashell(folder), [weight_format], boot(tmp_path, accelerator)).opened
    assert (opened.weight_format, opened.device) == (weight_format, "cpu")


def test_threads_of_onnx_runtime_sleep_when_they_have_nothing_to_do(folder: Path, tmp_path: Path) -> None:
    session = Pipeline(seashell(folder), ["onnx"], boot(tmp_path)).opened.framework_model
    assert session.get_session_options().get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize("formats", [["onnx"], ["torchscript"], BOTH])
def test_a_gpu_that_was_asked_for_is_not_replaced_by_the_cpu(folder: Path, tmp_path: Path, formats: list[str]) -> None:
    if gpus():
        pytest.skip("this machine has a GPU")
    with pytest.raises(NoGpu, match=r"would compute on the device cpu, .*nvidia-smi.*BIOENGINE_ACCELERATOR=cpu"):
        Pipeline(seashell(folder), formats, boot(tmp_path, "cuda"))


def test_formats_fall_through_and_a_chosen_one_does_not(folder: Path, tmp_path: Path) -> None:
    package = seashell(folder)
    weights = package.folder / "weights.onnx"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert Pipeline(package, BOTH, boot(tmp_path)).opened.weight_format == "torchscript"
    with pytest.raises(WeightsDamaged, match="SHA-256"):
        Pipeline(package, ["onnx"], boot(tmp_path))
    # The same bytes at import: the hash is right, and they are no weights.
    package = seashell(folder)
    assert Pipeline(package, BOTH, boot(tmp_path)).opened.weight_format == "torchscript"
    with pytest.raises(WeightsNotOpened, match="cannot be opened"):
        Pipeline(package, ["onnx"], boot(tmp_path))


def test_tensors_in_several_files_that_are_declared_as_attachments(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As format 0.4 has them. The process works in a folder where none of them is."""
    place = folder / "conscientious-seashell"
    image = [np.load(place / "test_input.npy")]
    model = onnx.load(place / "weights.onnx")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "one"))
    model.graph.node[0].output[0] = "sum"
    model.graph.node.append(onnx.helper.make_node("Mul", ["sum", "one"], ["mask"]))
    onnx.save(model, place / "weights.onnx", save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0)
    rdf = yaml.safe_load((place / "rdf.yaml").read_text())
    rdf["weights"]["onnx"]["sha256"] = sha256(place / "weights.onnx")
    rdf["attachments"] = [{"source": "kernel"}, {"source": "one"}]
    (place / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    package = changed(
        seashell(folder), weights={"onnx": Weights("weights.onnx", sha256(place / "weights.onnx"), "kernel", ("one",))}
    )
    monkeypatch.chdir(tmp_path)
    (mask,) = Pipeline(package, ["onnx"], boot(tmp_path)).predict(image)
    np.testing.assert_allclose(mask, np.load(place / "test_output.npy"), atol=1e-3)
    (place / "one").write_bytes(b"\0" * 4)
    with pytest.raises(WeightsDamaged):
        Pipeline(package, ["onnx"], boot(tmp_path))


def test_tensors_beside_an_onnx_file_are_read_and_verified(folder: Path, tmp_path: Path) -> None:
    place = folder / "conscientious-seashell"
    model = onnx.load(place / "weights.onnx")
    onnx.save(model, place / "weights.onnx", save_as_external_data=True, location="tensors.data", size_threshold=0)
    rdf = yaml.safe_load((place / "rdf.yaml").read_text())
    rdf["weights"]["onnx"] |= {"sha256": sha256(place / "weights.onnx"), "external_data": {"source": "tensors.data"}}
    (place / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    package = changed(seashell(folder), weights={"onnx": Weights("weights.onnx", "", "tensors.data")})
    assert Pipeline(package, ["onnx"], boot(tmp_path)).opened.weight_format == "onnx"
    (place / "tensors.data").write_bytes(b"\0" * (place / "tensors.data").stat().st_size)
    with pytest.raises(WeightsDamaged, match=r"tensors\.data"):
        Pipeline(package, ["onnx"], boot(tmp_path))


def test_when_none_can_be_opened_each_has_its_reason(folder: Path, tmp_path: Path) -> None:
    (folder / "conscientious-seashell" / "weights.pt").write_bytes(b"no weights")
    package = seashell(folder, unsupported_weights=("keras_hdf5", "tensorflow_js", "pytorch_state_dict"))
    (package.folder / "weights.onnx").unlink()
    with pytest.raises(NoWeightsWork) as error:
        Pipeline(package, BOTH, boot(tmp_path))
    text = str(error.value)
    assert "onnx: damaged (weights.onnx: the file cannot be read (No such file or directory))" in text
    assert "torchscript: failed to open (" in text and "pytorch_state_dict: not stored" in text
    assert "keras_hdf5: not supported by this server yet; tensorflow_js: not supported by this server yet" in text
    assert str(folder) not in text


def test_weights_that_have_to_be_converted_first(folder: Path) -> None:
    keras = {"keras_hdf5": Weights("weights.h5", "0")}
    with pytest.raises(NoWeightsWork, match=r"keras_hdf5: has to be converted to onnx first .*models convert conscientious"):
        triton_model(seashell(folder, weights=keras))


def test_state_dicts_and_code_need_trust(folder: Path) -> None:
    package = stork(folder)
    trusted = frozenset({trust_entry(package.manifest)})
    with pytest.raises(NoWeightsWork, match="pytorch_state_dict: runs code of the package; the admin has to trust it"):
        triton_model(package)
    with pytest.raises(PackageRunsCode, match=r"not trusted it\. .*models show state-dict-stork.*BIOENGINE_TRUSTED_MODELS"):
        triton_model(package, "pytorch_state_dict")
    assert triton_model(package, None, trusted).weight_formats == ("pytorch_state_dict",)
    both = seashell(folder, code=("custom postprocessing of 'mask'",))
    for weight_format in (None, "onnx", "torchscript"):
        with pytest.raises(PackageRunsCode, match="custom postprocessing"):
            triton_model(both, weight_format, trusted)
    assert triton_model(both, None, frozenset({trust_entry(both.manifest)})).weight_formats == ("onnx", "torchscript")
    with pytest.raises(WeightsNotAvailable, match="'keras_hdf5'"):
        triton_model(both, "keras_hdf5")


def test_other_content_is_not_trusted(folder: Path) -> None:
    package = stork(folder)
    trusted = frozenset({trust_entry(package.manifest)})
    for name in ("network.py", "weights.pt", "rdf.yaml"):
        file = package.folder / name
        content = file.read_bytes()
        file.write_bytes(content + b"\n#")
        with pytest.raises(PackageRunsCode, match="trusted it only with its earlier content, before it was imported again"):
            triton_model(stork(folder), "pytorch_state_dict", trusted)
        file.write_bytes(content)
    (package.folder / "more.py").touch()
    assert trust_entry(stork(folder).manifest) not in trusted


def test_trusted_state_dicts_run_and_files_changed_after_the_import_do_not(folder: Path, tmp_path: Path) -> None:
    package = stork(folder)
    here = boot(tmp_path, "cpu", trust_entry(package.manifest))
    assert Pipeline(package, ["pytorch_state_dict"], here).opened.device == "cpu"
    verify_package(package, ["pytorch_state_dict"])
    (package.folder / "network.py").write_text("raise SystemExit('changed')")
    with pytest.raises(PackageUnreadable, match=r"network\.py: the SHA-256 is"):
        verify_package(package, ["pytorch_state_dict"])


def test_code_of_a_package_gets_whole_images_though_the_weights_get_tiles(folder: Path, tmp_path: Path) -> None:
    package = stored(folder / "custom-crab", "custom-crab", code=("custom postprocessing of 'out'",))
    pipeline = Pipeline(package, ["onnx"], boot(tmp_path, "cpu", trust_entry(package.manifest)))
    image, expected = (np.load(package.folder / f"test_{kind}put.npy") for kind in ("in", "out"))
    for tile in (None, {"y": 8, "x": 8}):
        np.testing.assert_allclose(pipeline.predict([image], tile)[0], expected, rtol=1e-6)


def test_memory_is_measured_of_models_that_take_integers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their weights take floats: what the preprocessing makes of the integers."""
    normalized(tmp_path, "shorts", "uint16")
    package = stored(tmp_path / "shorts", "shorts")
    pipeline = Pipeline(package, ["onnx"], boot(tmp_path, "cpu"))
    image = np.random.default_rng(1).integers(0, 2**16, (1, 1, 1056, 1056), np.uint16)
    assert pipeline.predict([image])[0].shape == image.shape
    assert "could not be measured" not in caplog.text


class Evil:
    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self._mark,)


@pytest.mark.parametrize("id", ["state-dict-stork", "conscientious-seashell"])
@pytest.mark.parametrize("how", ["torch.save", "pickle"])
def test_no_code_comes_out_of_weight_files(folder: Path, tmp_path: Path, id: str, how: str) -> None:
    """Not even of those of a package whose code is trusted."""
    mark = tmp_path / "mark"
    with open(folder / id / "weights.pt", "wb") as file:
        torch.save({"weight": Evil(mark)}, file) if how == "torch.save" else pickle.dump(Evil(mark), file)
    package, name = (stork(folder), "pytorch_state_dict") if id == "state-dict-stork" else (seashell(folder), "torchscript")
    with pytest.raises(WeightsError):
        Pipeline(package, [name], boot(tmp_path, "cpu", trust_entry(package.manifest)))
    assert not mark.exists()


@pytest.mark.parametrize(
    "text", ["a", "a@", "a@123", f"a@{'g' * 64}", f"../a@{'0' * 64}", f"a@{'0' * 64} b@{'0' * 64}", f"@{'0' * 64}"]
)
def test_entries_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not id@hash; `\./bioengine models show ID` prints the entry"):
        parse_trusted(text)


def test_entries_are_separated_by_commas(tmp_path: Path) -> None:
    a, b = f"a@{'0' * 64}", f"b.c-d@{'f' * 64}"
    assert parse_trusted(f" {a} ,\n{b},") == {a, b} and parse_trusted("") == frozenset()
    assert boot(tmp_path, "cpu", a, b).to_environment()["BIOENGINE_TRUSTED_MODELS"] == f"{a},{b}"


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_a_start_of_triton_hands_its_settings_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any) -> None:
    start = replace(boot(tmp_path, "cuda"), precision=precision)
    for name, value in start.to_environment().items():
        monkeypatch.setenv(name, value)
    assert Boot.from_environment() == start
