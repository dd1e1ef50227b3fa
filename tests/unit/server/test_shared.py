"""Tensors by reference, on the server's side."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from bioengine_server.triton import message, shared
from bioengine_server.triton.shared import SharedTensors

from tests.unit.server.test_removal import deepen


def test_a_folder_lasts_as_long_as_its_request(tmp_path: Path) -> None:
    with SharedTensors(tmp_path).folder() as one, SharedTensors(tmp_path).folder() as other:
        assert one is not None and other is not None and one.name != other.name
        assert (tmp_path / one.name).stat().st_mode & 0o777 == 0o700
        name = one.write(np.arange(100_000.0))
        read = one.read(name, [100, 1000])
        assert one.write(np.arange(10.0)) is None
    assert list(tmp_path.iterdir()) == []
    assert read[99, 999] == 99_999  # outlives its file


@pytest.mark.parametrize("is_own", [True, False])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "float32", ">i4"])
def test_arrays_come_back(tmp_path: Path, is_own: bool, dtype: str) -> None:
    array = (np.arange(600_000).reshape(3, 200, 1000) % 2).astype(dtype)
    with SharedTensors(tmp_path, is_own).folder() as folder:
        for given in (array, np.asfortranarray(array)):
            back = folder.read(folder.write(given), array.shape)
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
                folder.read(f"output-{number}", [1])
        assert len(os.listdir("/proc/self/fd")) == open_before
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_cut_off_ends_nobody(tmp_path: Path) -> None:
    """Of what is mapped, a read after it was cut off would end this process."""
    with SharedTensors(tmp_path).folder() as folder:
        array = np.arange(100_000.0)
        file = tmp_path / folder.name / folder.write(array)
        back = folder.read(file.name, array.shape)
        os.truncate(file, 0)
        np.testing.assert_array_equal(back, array)
        with pytest.raises(ValueError, match=r"magic|EOF"):
            folder.read(file.name, array.shape)


def test_files_of_a_request_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_MOST_BYTES", 2_000_000)
    with SharedTensors(tmp_path).folder() as folder:
        array = np.arange(100_000.0)
        name = folder.write(array)
        folder.read(name, array.shape)
        folder.read(name, array.shape)
        with pytest.raises(ValueError, match="too large"):
            folder.read(name, array.shape)


def test_a_link_in_place_of_a_folder_leads_nowhere(tmp_path: Path) -> None:
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "root"
    for each in (elsewhere, root):
        each.mkdir()
    with SharedTensors(root).folder() as folder:
        (root / folder.name).rename(tmp_path / "moved")
        (root / folder.name).symlink_to(elsewhere)
        assert folder.write(np.arange(100_000.0)) == "sent-1"
        assert (tmp_path / "moved" / "sent-1").exists()
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
        (tmp_path / name / "sent-1").write_bytes(b"1")
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
            np.testing.assert_array_equal(message.decode(message.encode([array], folder), folder)[0], array)


def test_large_arrays_are_not_in_the_message(tmp_path: Path) -> None:
    array = np.arange(200_000, dtype=np.int32).reshape(1, 1, 200, 1000)
    with SharedTensors(tmp_path).folder() as folder:
        data = message.encode({"inputs": [array, [array[0], 3]]}, folder)
        assert len(data) < 1000
        inputs = message.decode(data, folder)["inputs"]
    np.testing.assert_array_equal(inputs[0], array)
    np.testing.assert_array_equal(inputs[1][0], array[0])


@pytest.mark.parametrize("name", ["/etc/passwd", "../sent-1", None, 3, "sent-1\n"])
def test_names_of_other_files_are_refused(tmp_path: Path, name: object) -> None:
    with SharedTensors(tmp_path).folder() as folder, pytest.raises(ValueError, match="is not the name"):
        message.decode(message.encode({"_rtype": "ndarray", "_rfile": name, "_rshape": [1]}), folder)
