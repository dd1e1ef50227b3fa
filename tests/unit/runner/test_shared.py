"""Tensors by reference, on the runner's side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bioengine_runner.errors import BadRequest
from bioengine_runner.request import message
from bioengine_runner.request.shared import SharedFolder, stand_in

NAME = "0123456789abcdef" * 2


@pytest.fixture
def shared(tmp_path: Path) -> SharedFolder:
    (tmp_path / NAME).mkdir()
    folder = SharedFolder.named(tmp_path, NAME)
    assert folder is not None
    return folder


@pytest.mark.parametrize("name", [None, 3, "", "x", "..", f"../{NAME}", NAME.upper(), NAME + "\n", "f" * 32, f"{NAME}/.."])
def test_what_is_no_folder_of_a_request_is_none(shared: SharedFolder, tmp_path: Path, name: object) -> None:
    assert SharedFolder.named(tmp_path, name) is None


@pytest.mark.parametrize("name", [None, 3, "", "/etc/passwd", "../sent-1", "sent-1/../../x", "sent-", "Sent-1", "sent-1\n"])
def test_what_is_no_file_of_a_request_is_refused(shared: SharedFolder, name: object) -> None:
    with pytest.raises(ValueError, match="is not the name"):
        shared.read(name)
    request = {"shared": NAME, "inputs": [{"_rtype": "ndarray", "_rfile": name, "_rshape": [1]}]}
    with pytest.raises(BadRequest):
        message.decode(message.encode(request), shared._folder.parent)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float32", ">f4"])
def test_arrays_are_mapped_as_they_were(shared: SharedFolder, dtype: str) -> None:
    array = (np.arange(600_000).reshape(1, 3, 1000, 200) % 2).astype(dtype)
    assert shared.write(array, "input-0") == "input-0"
    mapped = shared.read("input-0", [3, 1000, 200])
    assert mapped.dtype == array.dtype
    np.testing.assert_array_equal(mapped, array[0])
    mapped[:] = 0  # stays with its reader
    np.testing.assert_array_equal(shared.read("input-0"), array)


def test_small_arrays_go_as_bytes_and_leave_nothing_of_an_earlier_attempt(shared: SharedFolder) -> None:
    assert shared.write(np.zeros(100_000), "output-0") and shared.has("output-0")
    assert shared.write(np.zeros(10), "output-0") is None and not shared.has("output-0")


def test_an_array_is_written_once_only(shared: SharedFolder) -> None:
    array = np.arange(90_000.0).reshape(300, 300)
    shared.write(array, "output-0")
    mapped = shared.read("output-0")
    assert shared.holder(mapped) == shared.holder(mapped[None, None]) == "output-0"
    for other in (array, mapped.T, mapped[1:], mapped[:, ::2], mapped + 1, mapped.astype(np.float32)):
        assert shared.holder(other) is None
    data = message.encode({"outputs": [mapped, mapped + 1]}, shared)
    assert len(data) < 1000
    np.testing.assert_array_equal(shared.read("answer-0"), array + 1)


def test_stand_ins_are_alike_where_images_are() -> None:
    small, large = np.zeros((1, 1, 256, 256)), np.zeros((1, 1, 512, 512))
    assert stand_in(small).shape != stand_in(large).shape
    assert stand_in(small).shape == stand_in(np.ones((7, 1, 256, 256))).shape
    assert stand_in(large).nbytes <= 8000 and stand_in(large).ndim == 4
