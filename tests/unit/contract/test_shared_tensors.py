"""Tensors by reference, on both sides."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bioengine_contract import shared_tensors
from bioengine_contract.shared_tensors import SharedArray, SharedFolder, SharedInputs, SharedTensors, opened_folder, placeholder

from tests.unit.contract.test_removal import deepen


def test_a_folder_lasts_as_long_as_its_request(tmp_path: Path) -> None:
    with SharedTensors(tmp_path).folder() as one, SharedTensors(tmp_path).folder() as other:
        assert one is not None and other is not None and one.name != other.name
        assert (tmp_path / one.name).stat().st_mode & 0o777 == 0o700
        assert one.write(np.arange(100_000.0).reshape(100, 1000), "input-0")
        read = one.read("input-0")
    assert list(tmp_path.iterdir()) == []
    assert read[99, 999] == 99_999  # outlives its file


@pytest.mark.parametrize("is_own", [True, False])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "float32", ">i4"])
def test_arrays_come_back(tmp_path: Path, is_own: bool, dtype: str) -> None:
    array = (np.arange(600_000).reshape(3, 200, 1000) % 2).astype(dtype)
    with SharedTensors(tmp_path, is_own).folder() as folder:
        for given in (array, np.asfortranarray(array)):
            assert folder.write(given, "input-0")
            back = folder.read("input-0")
            assert back.dtype == array.dtype
            np.testing.assert_array_equal(back, array)


def test_what_a_model_puts_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with SharedTensors(tmp_path, is_own=False).folder() as folder:
        place = tmp_path / folder.name
        os.mkfifo(place / "output-0")
        (place / "output-1").symlink_to("/etc/passwd")
        (place / "output-2").write_bytes(b"no array")
        np.save((place / "output-3").open("wb"), np.array([object()]), allow_pickle=True)
        header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999,), }".ljust(127) + b"\n"
        (place / "output-4").write_bytes(header)
        (place / "output-5").mkdir()
        hole = b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,), }".ljust(127) + b"\n"
        (place / "output-6").write_bytes(hole)
        os.truncate(place / "output-6", (1 << 40) + 128)
        open_before = len(os.listdir("/proc/self/fd"))
        for number in range(7):
            with pytest.raises((ValueError, OSError)):
                folder.read(f"output-{number}")
        assert len(os.listdir("/proc/self/fd")) == open_before
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_cut_off_ends_nobody(tmp_path: Path) -> None:
    """Of what is mapped, a read after it was cut off would end this process."""
    with SharedTensors(tmp_path).folder() as folder:
        array = np.arange(100_000.0)
        assert folder.write(array, "output-0")
        file = tmp_path / folder.name / "output-0"
        back = folder.read(file.name)
        os.truncate(file, 0)
        np.testing.assert_array_equal(back, array)
        with pytest.raises(ValueError, match=r"magic|EOF"):
            folder.read(file.name)


def test_files_of_a_request_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_tensors, "_MAX_BYTES", 2_000_000)
    with SharedTensors(tmp_path).folder() as folder:
        array = np.arange(100_000.0)
        assert folder.write(array, "output-0")
        folder.read("output-0")
        folder.read("output-0")
        with pytest.raises(ValueError, match="too large"):
            folder.read("output-0")


def test_a_link_in_place_of_a_folder_leads_nowhere(tmp_path: Path) -> None:
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "root"
    for each in (elsewhere, root):
        each.mkdir()
    with SharedTensors(root).folder() as folder:
        (root / folder.name).rename(tmp_path / "moved")
        (root / folder.name).symlink_to(elsewhere)
        assert folder.write(np.arange(100_000.0), "input-0")
        assert (tmp_path / "moved" / "input-0").exists()
    root.rmdir()
    root.symlink_to(elsewhere)
    with SharedTensors(root).folder() as folder:
        assert folder is None
    assert list(elsewhere.iterdir()) == []


def test_a_deep_folder_of_a_request_goes(tmp_path: Path) -> None:
    with SharedTensors(tmp_path).folder() as folder:
        deepen(tmp_path / folder.name, 1500)
    end = time.monotonic() + 30
    while list(tmp_path.iterdir()) and time.monotonic() < end:
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []


def test_what_an_earlier_server_left_is_removed(tmp_path: Path) -> None:
    for name in ("0123456789abcdef" * 2, "of-somebody-else"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "input-0").write_bytes(b"1")
    (tmp_path / ("f" * 32)).symlink_to(tmp_path / "of-somebody-else")
    SharedTensors(tmp_path).clear()
    assert [folder.name for folder in tmp_path.iterdir()] == ["of-somebody-else"]
    SharedTensors(None).clear()
    SharedTensors(tmp_path / "missing").clear()


def test_where_nothing_can_be_shared_tensors_go_as_bytes(tmp_path: Path) -> None:
    for root in (None, tmp_path / "missing"):
        with SharedTensors(root).folder() as folder:
            assert folder is None
            array = np.arange(100_000.0)
            inputs = SharedInputs(folder, [array, None])
            assert inputs.arrays[0] is array and inputs.parameters == {}


def test_large_arrays_are_not_in_the_request(tmp_path: Path) -> None:
    large, small = np.arange(200_000, dtype=np.int32).reshape(1, 1, 200, 1000), np.zeros((1, 1, 8, 8))
    with SharedTensors(tmp_path).folder() as folder:
        inputs = SharedInputs(folder, [large, None, small])
        sent, nothing, given = inputs.arrays
        assert sent is not None and sent.nbytes < 10_000 and nothing is None and given is not None
        assert len(sent) == len(given) == 1, "batches are alike"
        named = json.loads(inputs.parameters["shared"])
        assert named == {"folder": folder.name, "inputs": ["input-0", None, "input-2"]}
        with opened_folder(tmp_path, named["folder"]) as other:
            np.testing.assert_array_equal(other.map("input-0"), large)
            np.testing.assert_array_equal(other.map("input-2"), small)
    with SharedTensors(tmp_path).folder() as folder:
        inputs = SharedInputs(folder, [small, small])
        assert inputs.arrays[0] is small and json.loads(inputs.parameters["shared"])["inputs"] == [None, None]


def test_an_array_that_is_there_already_is_not_written_again(tmp_path: Path) -> None:
    large, small = np.random.default_rng(0).random((1, 400, 300)), np.zeros((1, 8, 8), np.uint8)
    with SharedTensors(tmp_path).folder() as folder:
        assert folder is not None
        file = folder.space("input-0", large.dtype, large.shape)
        assert file is not None and folder.space("input-0", large.dtype, large.shape) is None, "no file is replaced"
        with file:
            file.write(large.tobytes())
        before = (tmp_path / folder.name / "input-0").stat()
        array = SharedArray(folder, "input-0", large.dtype, large.shape)
        inputs = SharedInputs(folder, [array, small])
        assert json.loads(inputs.parameters["shared"])["inputs"] == ["input-0", "input-1"]
        sent = inputs.arrays[0]
        assert sent is not None and sent.shape == placeholder(large).shape and sent.dtype == large.dtype
        with opened_folder(tmp_path, folder.name) as other:
            np.testing.assert_array_equal(other.map("input-0"), large)
            np.testing.assert_array_equal(other.map("input-1"), small)
        after = (tmp_path / folder.name / "input-0").stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

        os.mkdir("input-2", dir_fd=folder._descriptor)  # so that a third one finds no room
        inputs = SharedInputs(folder, [array, small, large])
        assert json.loads(inputs.parameters["shared"])["inputs"] == [None] * 3, "all go as bytes then"
        np.testing.assert_array_equal(inputs.arrays[0], large)


def test_without_room_there_is_no_file(tmp_path: Path) -> None:
    with SharedTensors(tmp_path).folder() as folder:
        assert folder is not None
        assert folder.space("input-0", np.dtype(np.float32), (1 << 60,)) is None and not folder.has("input-0")


NAME = "0123456789abcdef" * 2


@pytest.fixture
def of_model(tmp_path: Path) -> Iterator[SharedFolder]:
    """A folder as a model's process has it."""
    (tmp_path / NAME).mkdir()
    with opened_folder(tmp_path, NAME) as folder:
        assert folder is not None
        yield folder


@pytest.mark.parametrize("name", [None, 3, "", "x", "..", f"../{NAME}", NAME.upper(), NAME + "\n", "f" * 32, f"{NAME}/.."])
def test_what_is_no_folder_of_a_request_is_none(of_model: SharedFolder, tmp_path: Path, name: object) -> None:
    with opened_folder(tmp_path, name) as folder:
        assert folder is None


@pytest.mark.parametrize("name", [None, 3, "", "/etc/passwd", "../input-1", "input-1/../../x", "input-", "Input-1", "input-1\n"])
def test_what_is_no_file_of_a_request_is_refused(of_model: SharedFolder, name: Any) -> None:
    for use in (of_model.read, of_model.map, of_model.has):
        with pytest.raises(ValueError, match="is not the name"):
            use(name)
    with pytest.raises(ValueError, match="is not the name"):
        of_model.write(np.zeros(100_000), name)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float32", ">f4"])
def test_arrays_are_mapped_as_they_were(of_model: SharedFolder, dtype: str) -> None:
    array = (np.arange(600_000).reshape(1, 3, 1000, 200) % 2).astype(dtype)
    for given in (array, np.asfortranarray(array)):
        assert of_model.write(given, "input-0")
        mapped = of_model.map("input-0")
        assert mapped.dtype == array.dtype
        np.testing.assert_array_equal(mapped, array)
        mapped[:] = 0  # stays with its reader
        np.testing.assert_array_equal(of_model.map("input-0"), array)


def test_what_is_written_takes_the_place_of_an_earlier_attempt(of_model: SharedFolder) -> None:
    assert of_model.write(np.zeros(100_000), "output-0") and of_model.has("output-0")
    assert of_model.write(np.ones(10), "output-0")
    np.testing.assert_array_equal(of_model.map("output-0"), np.ones(10))


def test_placeholders_are_alike_where_images_are() -> None:
    small, large = np.zeros((1, 1, 256, 256)), np.zeros((1, 1, 512, 512))
    assert placeholder(small).shape != placeholder(large).shape
    assert placeholder(small).shape == placeholder(np.ones((7, 1, 256, 256))).shape
    assert placeholder(large).nbytes <= 8000 and placeholder(large).ndim == 4
