"""Ids: what is one, and which package it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bioengine_contract.ids import BadModelId, parse_model_id
from bioengine_contract.manifest import Weights
from bioengine_contract.package_errors import ModelNotFound, PackageUnreadable
from bioengine_contract.store import resolve
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("model_id", "id"),
    [
        ("affable-shark", "affable-shark"),
        ("affable-shark/1.1", "affable-shark/1.1"),
        ("10.5281/zenodo.5869899", "10.5281/zenodo.5869899"),
        ("10.5281/zenodo.5869899/6647688", "10.5281/zenodo.5869899/6647688"),
        ("/models/affable-shark/rdf.yaml", "affable-shark"),
    ],
)
def test_ids(model_id: str, id: str) -> None:
    assert parse_model_id(model_id) == id


@pytest.mark.parametrize(
    "model_id",
    ["", ".", "..", "../x", "a/../b", "/etc/passwd", "http://x/y", "huggingface/a/b", "x/draft", "x/staged/1", "a" * 129,
     "a\0", "a\n", "a b", "ä", "/models/../rdf.yaml", "/models/a/b/rdf.yaml", "~", "C:\\x",
     3, 3.5, None, {}, [], b"affable-shark", True],
)  # fmt: skip
def test_what_is_no_id(model_id: object) -> None:
    with pytest.raises(BadModelId):
        parse_model_id(model_id)


@given(st.text())
def test_an_id_never_leaves_the_store(model_id: str) -> None:
    try:
        id = parse_model_id(model_id)
    except BadModelId:
        return
    assert ".." not in id.split("/") and not id.startswith("/") and "\\" not in id and ":" not in id


def test_resolution_goes_through_the_aliases_only(tmp_path: Path) -> None:
    (tmp_path / "hidden" / "1").mkdir(parents=True)
    (tmp_path / "hidden" / "1" / "model.json").write_text("{}")
    with pytest.raises(ModelNotFound, match="Its store is empty"):
        resolve(tmp_path, "hidden")
    (tmp_path / "aliases.json").write_text(json.dumps({"hidden": "../outside", "broken": "hidden/1"}))
    with pytest.raises(PackageUnreadable):
        resolve(tmp_path, "hidden")
    with pytest.raises(PackageUnreadable):
        resolve(tmp_path, "broken")


def test_all_files_that_weights_are_read_from_are_verified() -> None:
    """An ONNX file may keep its tensors in several files; an old `model.json` names one at most."""
    assert Weights("a.onnx", "0" * 64).files == ("a.onnx",)
    assert Weights("a.onnx", "0" * 64, "b.data").files == ("a.onnx", "b.data")
    assert Weights("a.onnx", "0" * 64, "b.data", ("c.data",)).files == ("a.onnx", "b.data", "c.data")
