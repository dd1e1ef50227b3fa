"""The conversion of SavedModels and Keras models, with the real sandbox: what is accepted, what is refused, and why."""

from __future__ import annotations

from pathlib import Path

import pytest
from bioengine_contract.trust import usable_weights
from bioengine_contract.weights import CONVERTED
from bioengine_server.settings import Settings
from bioengine_server.store.conversion import convert, is_wanted
from bioengine_server.store.conversion_run import NotConverted
from bioengine_server.store.converted import read_conversion
from bioengine_server.store.model_store import ModelStore

from tests.conversion import build_tensorflow_packages, needs_tensorflow, settings, store

__all__ = ["settings", "store"]

pytestmark = [pytest.mark.extended, needs_tensorflow]

SAVED_MODEL, KERAS = "tensorflow_saved_model_bundle", "keras_hdf5"


@pytest.fixture(scope="module")
def look_alikes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tensorflow_packages(tmp_path_factory.mktemp("tensorflow"))


@pytest.mark.parametrize(
    ("id", "format", "samples"),
    [
        ("bundled-bee", SAVED_MODEL, 4),
        ("fixed-finch", KERAS, 3),
        ("keras-kiwi", KERAS, 4),
        ("lambda-lynx", KERAS, 3),
        ("older-owl", SAVED_MODEL, 4),
        ("solid-seal", SAVED_MODEL, 3),
        ("starry-stork", KERAS, 4),
    ],
)
def test_a_network_is_converted(
    look_alikes: Path, settings: Settings, store: ModelStore, id: str, format: str, samples: int
) -> None:
    model = store.import_package(look_alikes / id)
    assert is_wanted(model.manifest) and usable_weights(model.manifest, frozenset()) == []
    converted = convert(model, store, settings)
    assert usable_weights(converted.manifest, frozenset()) == ["onnx"] and not is_wanted(converted.manifest)
    assert converted.manifest.named_weights("onnx") == f"onnx (converted from {format})"
    about = read_conversion(converted.folder)
    assert about is not None and about.source_sha256 == converted.manifest.weights[format].sha256
    assert len(about.differences) == samples and max(about.differences) < 5e-6
    assert about.versions.keys() >= {"tensorflow-cpu", "tf2onnx", "onnx", "onnxruntime"}


@pytest.mark.parametrize(
    ("id", "reason"),
    [
        ("prying-pike", "Permission denied"),
        ("reading-raven", "Permission denied"),
        ("busy-badger", "tried to start a program|made the system call v?fork"),
        ("chance-chimp", r"differs by \S+ from the original"),
        ("spectral-skunk", "ONNX has no counterpart of its operations"),
        ("double-dove", "contains 2 SavedModels, where one is expected"),
    ],
)
def test_what_cannot_be_converted_honestly_is_refused(
    look_alikes: Path, settings: Settings, store: ModelStore, id: str, reason: str
) -> None:
    model = store.import_package(look_alikes / id)
    with pytest.raises(NotConverted, match=reason):
        convert(model, store, settings)
    assert store.find(id).manifest == model.manifest and not (model.folder / CONVERTED).exists()
