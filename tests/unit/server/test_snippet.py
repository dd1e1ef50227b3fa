"""The first call to paste: of a model that is stored and runs, with an image that it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from bioengine_contract.manifest import Axis, Manifest, Tensor, Weights
from bioengine_server import snippet
from bioengine_server.settings import Settings
from bioengine_server.snippet import first_call
from bioengine_server.store.model_store import StoredModel

from tests.unit.contract.packages import manifest

BATCH = Axis("batch", "batch", 1, 1)
CHANNELS = Axis("channel", "channel", 3, 0)
ONNX = {"onnx": Weights(source="weights.onnx", sha256="0" * 64)}


def image(*sizes: tuple[int, int]) -> Tensor:
    """An input whose y and x have these smallest sizes and steps."""
    space = (Axis(id, "space", smallest, step) for id, (smallest, step) in zip("yx", sizes))
    return Tensor(id="image", dtype="float32", axes=(BATCH, CHANNELS, *space))


FREE = image((16, 16), (16, 16))


def call(monkeypatch: pytest.MonkeyPatch, *stored: Manifest, **settings: str) -> str:
    class Store:
        """In place of the folder: these models."""

        def __init__(self, folder: Path) -> None:
            pass

        def models(self) -> list[StoredModel]:
            return [StoredModel(each, Path("/nowhere"), True) for each in stored]

    monkeypatch.setattr(snippet, "ModelStore", Store)
    text = first_call(Settings(host="127.0.0.1", port=9520, **settings))  # type: ignore[arg-type]
    compile(text, "snippet", "exec")
    return text


PROBE = manifest(FREE, id="bioengine-probe", weights=ONNX)
OTHER = manifest(FREE, id="affable-shark", weights=ONNX)
SHIPPED = manifest(FREE, id="drawn-nuclei", weights=ONNX)


@pytest.mark.parametrize(
    ("stored", "chosen"),
    [
        ((PROBE, OTHER, SHIPPED), "drawn-nuclei"),
        ((PROBE, OTHER), "affable-shark"),
        ((PROBE,), "bioengine-probe"),
        ((PROBE, manifest(FREE, FREE, id="two-inputs", weights=ONNX)), "bioengine-probe"),
        ((PROBE, manifest(FREE, id="not-trusted", weights=ONNX, code=("custom preprocessing",))), "bioengine-probe"),
        ((PROBE, manifest(FREE, id="keras-only", unsupported_weights=("keras_hdf5",))), "bioengine-probe"),
    ],
)
def test_it_runs_the_shipped_model_or_another_that_runs_here(
    monkeypatch: pytest.MonkeyPatch, stored: tuple[Manifest, ...], chosen: str
) -> None:
    assert f'"model_id": "{chosen}"' in call(monkeypatch, *stored)


@pytest.mark.parametrize(
    ("tensor", "shape"),
    [
        (FREE, (1, 3, 256, 256)),
        (image((100, 50), (1, 1)), (1, 3, 300, 256)),
        (image((32, 0), (512, 64)), (1, 3, 32, 512)),
    ],
)
def test_its_image_is_about_the_usual_size_and_one_that_the_model_takes(
    monkeypatch: pytest.MonkeyPatch, tensor: Tensor, shape: tuple[int, ...]
) -> None:
    assert f"randint(0, 255, {shape})" in call(monkeypatch, manifest(tensor, id="affable-shark", weights=ONNX))


def test_it_has_a_place_for_a_token_where_all_need_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert '"server_url": "http://127.0.0.1:9520", "method_timeout": 3000})' in call(monkeypatch, SHIPPED)
    assert '"token": "..."' in call(monkeypatch, SHIPPED, access="token")
