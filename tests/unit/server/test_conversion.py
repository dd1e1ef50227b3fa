"""The conversion of state dicts: what is accepted, what is refused and why, and what the store keeps. With the real sandbox."""

from __future__ import annotations

import functools
import io
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from bioengine_contract.manifest import Axis, Manifest, Tensor, Weights
from bioengine_contract.trust import trust_entry, usable_weights
from bioengine_contract.weights import CONVERTED
from bioengine_server.settings import Settings
from bioengine_server.store.conversion import NoConversionHere, convert, has_environment, is_wanted, refusal
from bioengine_server.store.conversion_run import NotConverted, read_array
from bioengine_server.store.conversion_samples import choose_samples, difference, is_same
from bioengine_server.store.converted import read_conversion
from bioengine_server.store.model_store import ModelStore, StoredModel
from bioengine_server.store.package import CONVERSION
from bioengine_server.store.package_test import test_package as run_package_test

from tests.conversion import converting_settings, settings, store
from tests.stack.harness import ROOT, python
from tests.tiers import cases

__all__ = ["settings", "store"]


@pytest.fixture(scope="module")
def look_alikes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with packages of state dicts, one folder for each id."""
    folder = tmp_path_factory.mktemp("state dicts")
    subprocess.run([python("runner"), "-m", "tests.packages.state_dicts", str(folder)], cwd=ROOT, check=True)
    return folder


@dataclass(frozen=True)
class Made:
    """A package that was stored as `model`, and then as `converted`; and what was told meanwhile."""

    settings: Settings
    model: StoredModel
    converted: StoredModel
    told: list[str]


@pytest.fixture(scope="module")
def made(look_alikes: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """Convert a package, once, in a home of its own."""

    @functools.cache
    def make(id: str) -> Made:
        settings, told = converting_settings(tmp_path_factory.mktemp(id)), list[str]()
        store = ModelStore(settings.store)
        model = store.import_package(look_alikes / id)
        return Made(settings, model, convert(model, store, settings, told.append), told)

    return make


@pytest.mark.parametrize(
    ("id", "samples"),
    cases(
        [("residual-rook", 4), ("older-ox", 4), ("spatial-snail", 3), ("patchy-penguin", 3)],
        core=[("residual-rook", 4)],
    ),
)
def test_a_network_is_converted(made: Callable[[str], Made], id: str, samples: int) -> None:
    model, converted, told = made(id).model, made(id).converted, made(id).told
    assert is_wanted(model.manifest) and usable_weights(model.manifest, frozenset()) == []
    manifest = converted.manifest
    assert usable_weights(manifest, frozenset()) == ["onnx"] and not is_wanted(manifest)
    assert manifest.named_weights("onnx") == "onnx (converted from pytorch_state_dict)"
    assert told == ["running and exporting the original model", "running the converted weights", "testing the package with them"]
    # What it was, to whom it is trusted, and what is exported, is as before.
    assert manifest.files == model.manifest.files and trust_entry(manifest) == trust_entry(model.manifest)
    assert manifest.imported == model.manifest.imported
    assert manifest.size == model.manifest.size + (converted.folder / CONVERTED).stat().st_size
    assert set(manifest.stored_files) == {*manifest.files, CONVERTED}
    about = read_conversion(converted.folder)
    assert about is not None and about.source_sha256 == manifest.weights["pytorch_state_dict"].sha256
    assert len(about.differences) == samples and max(about.differences) < 1e-5
    assert about.versions.keys() >= {"torch", "onnx", "onnxruntime"}
    (tested,) = run_package_test(converted, made(id).settings)
    assert (tested.weights, tested.status) == ("onnx", "passed")


@pytest.mark.extended
def test_the_same_package_keeps_its_conversion_and_another_does_not(
    look_alikes: Path, made: Callable[[str], Made], settings: Settings, store: ModelStore, tmp_path: Path
) -> None:
    shutil.copytree(made("spatial-snail").settings.home, settings.home)
    first = store.find("spatial-snail")
    assert first.manifest == made("spatial-snail").converted.manifest
    again = store.import_package(look_alikes / "spatial-snail")
    assert again.manifest.weights == first.manifest.weights and again.manifest.size == first.manifest.size
    assert (again.folder / CONVERTED).is_file() and (again.folder / CONVERSION).is_file()
    # The folder of a store is a package, too: of the original alone.
    copied = store.import_package(again.folder, id="copied-cow")
    assert set(copied.manifest.files) == set(first.manifest.files) and not (copied.folder / CONVERTED).exists()
    store.export(again, tmp_path / "exported.zip")
    assert store.import_package(tmp_path / "exported.zip", id="exported-emu").manifest.files == first.manifest.files
    store.export(again, tmp_path / "converted.zip", with_converted=True)
    whole = store.import_package(tmp_path / "converted.zip", id="whole-whale").manifest
    assert set(whole.weights) == {"pytorch_state_dict", "onnx"} and whole.weights["onnx"].converted_from is None
    assert whole.weights["onnx"].sha256 == first.manifest.weights["onnx"].sha256
    description = (look_alikes / "spatial-snail" / "rdf.yaml").read_text().replace("A small package", "Another package")
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in (look_alikes / "spatial-snail").iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    (changed / "rdf.yaml").write_text(description)
    other = store.import_package(changed, replace=True)
    assert list(other.manifest.weights) == ["pytorch_state_dict"] and not (other.folder / CONVERTED).exists()


TRACE = (
    r"on random sample 1, the output 'out' of its trace differs by \S+ from the original, because its code depends on the values"
)
REASONS = {
    "numpy-newt": TRACE,
    "branching-bee": TRACE,
    "missing-mole": "needs the Python module lightsheet_tools, which the environment for conversions does not contain",
    "careful-carp": "needs the Python module careamics: run `./bioengine environments add careamics`, then "
    "`./bioengine models convert careful-carp`",
}


@pytest.mark.parametrize("id", cases(REASONS, core=["numpy-newt"]))
def test_what_cannot_be_converted_honestly_is_refused(look_alikes: Path, settings: Settings, store: ModelStore, id: str) -> None:
    model = store.import_package(look_alikes / id)
    with pytest.raises(NotConverted, match=REASONS[id]) as raised:
        convert(model, store, settings)
    assert refusal(model) == raised.value.reason
    assert store.find(id).manifest == model.manifest and not (model.folder / CONVERTED).exists()
    assert not [*settings.store.glob(".incoming-*")], "nothing is left"


@pytest.mark.extended
def test_a_library_of_networks_is_looked_for_in_its_own_environment(
    look_alikes: Path, settings: Settings, store: ModelStore
) -> None:
    """The model runner's environment, which lacks it, stands for that one here: so it was asked."""
    (settings.environments / "careamics").symlink_to(settings.environments / "runner")
    model = store.import_package(look_alikes / "careful-carp")
    with pytest.raises(NotConverted, match="needs the Python module careamics, which the environment for conversions does not"):
        convert(model, store, settings)


def test_a_package_with_other_weights_is_left_alone(packages: Path, settings: Settings, store: ModelStore) -> None:
    model = store.import_package(packages / "conscientious-seashell")
    assert model.manifest.convertible is None and not is_wanted(model.manifest)
    with pytest.raises(NotConverted, match="no weights that need it"):
        convert(model, store, settings)


def test_without_the_environment_the_command_is_named(look_alikes: Path, tmp_path: Path, store: ModelStore) -> None:
    model = store.import_package(look_alikes / "spatial-snail")
    elsewhere = Settings(home=tmp_path / "home", environments=tmp_path / "nowhere")
    assert not has_environment(elsewhere, model.manifest)
    with pytest.raises(
        NoConversionHere, match=r"`./bioengine environments add convert`, then `./bioengine models convert spatial"
    ):
        convert(model, store, elsewhere)
    assert refusal(model) is None, "it was not tried"


def test_a_file_of_a_package_gives_way_to_the_stores_own(look_alikes: Path, store: ModelStore, tmp_path: Path) -> None:
    """As with other names of the store."""
    package = tmp_path / "named"
    package.mkdir()
    for file in (look_alikes / "spatial-snail").iterdir():
        (package / file.name).write_bytes(file.read_bytes())
    (package / "weights.pt").rename(package / CONVERTED)
    (package / "rdf.yaml").write_text((package / "rdf.yaml").read_text().replace("weights.pt", CONVERTED))
    manifest = store.import_package(package).manifest
    assert CONVERTED not in manifest.files and manifest.weights["pytorch_state_dict"].source == "converted-2.onnx"


def axis(id: str, type: str, min: int, step: int = 0) -> Axis:
    return Axis(id, type, min, step)


def model_with(axes: tuple[Axis, ...], folder: Path, shape: tuple[int, ...], packages: Path) -> Manifest:
    """A manifest with one input of these axes, and a test image of this shape in a folder."""
    np.save(folder / "test.npy", np.zeros(shape, np.float32))
    stored = ModelStore(folder / "models").import_package(packages / "conscientious-seashell").manifest
    return stored.model_copy(update={"inputs": (Tensor("image", "float32", axes),), "test_inputs": ("test.npy",)})


def test_samples_have_more_images_and_other_sizes_where_these_are_free(packages: Path, tmp_path: Path) -> None:
    channel = axis("channel", "channel", 2)
    free = (axis("batch", "batch", 1, 1), channel, axis("y", "space", 32, 8), axis("x", "space", 16, 1))
    manifest = model_with(free, tmp_path, (1, 2, 64, 16), packages)
    shapes = [sample[0].shape for sample in choose_samples(manifest, tmp_path)]
    assert shapes == [(2, 2, 64, 16), (1, 2, 64, 16), (1, 2, 48, 32)]
    fixed = (axis("batch", "batch", 1), channel, axis("y", "space", 64), axis("x", "space", 16))
    samples = choose_samples(manifest.model_copy(update={"inputs": (Tensor("image", "float32", fixed),)}), tmp_path)
    assert [sample[0].shape for sample in samples] == [(1, 2, 64, 16)] * 2
    others = choose_samples(manifest, tmp_path)
    assert not np.array_equal(samples[1][0], others[1][0]), "nobody knows them in advance"


def test_agreement_is_relative_to_what_comes_out() -> None:
    original = np.array([0.0, 1000.0, np.nan], np.float32)
    assert is_same(original, difference(original, original + 0.01), 1e-4)
    assert not is_same(original, difference(original, original + 1), 1e-4)
    small = np.array([0.0, 0.01], np.float32)
    assert is_same(small, 5e-7, 1e-4) and not is_same(small, 5e-6, 1e-4)
    assert is_same(np.zeros(2, np.float32), 5e-8, 1e-4)
    assert difference(original, np.array([0.0, 1000.0, 0.0], np.float32)) == np.inf
    assert difference(original, np.array([0.0, np.inf, np.nan], np.float32)) == np.inf


@pytest.mark.parametrize("kind", ["objects", "too short", "too large", "no array", "Fortran"])
def test_arrays_of_a_hostile_process_are_checked(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "array.npy"
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 3), np.float32))
    header = buffer.getvalue()
    match kind:
        case "objects":
            np.save(file, np.array([{}]), allow_pickle=True)
        case "too short":
            file.write_bytes(header[:-1])
        case "too large":
            file.write_bytes(header.replace(b"(2, 3)", b"(9" + b"9" * 3 + b")"))
        case "no array":
            file.write_bytes(b"[" * 1000)
        case "Fortran":
            np.save(file, np.asfortranarray(np.zeros((2, 3), np.float32)))
    with pytest.raises(NotConverted, match="something else than the output"):
        read_array("old-otter", file)
    file.write_bytes(header)
    assert read_array("old-otter", file).shape == (2, 3)


def test_manifests_of_before_have_no_converted_weights() -> None:
    assert Weights(**json.loads('{"source": "a.onnx", "sha256": "0"}')).converted_from is None
