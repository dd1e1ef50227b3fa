"""What code of a package can make of the server's memory, time and disk while its weights are converted: nothing."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from bioengine_contract.manifest import Axis, SizeReference, Tensor
from bioengine_server.store import conversion_samples, written
from bioengine_server.store.conversion_run import NotConverted, read_array
from bioengine_server.store.conversion_samples import choose_samples, difference, is_same
from bioengine_server.store.external_data import is_alone
from bioengine_server.store.written import Written, WroteTooMuch

from tests.unit.contract.packages import manifest


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def field(number: int, content: bytes) -> bytes:
    """A field of protobuf, of less than 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


def array_of(descr: str, shape: str) -> bytes:
    return header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n")


@pytest.mark.parametrize(
    "content",
    [
        header("(" * 9000 + "\n"),
        header("{\n"),
        header("-" * 9000 + "1\n"),
        array_of("'|V4'", "(6,)") + bytes(24),
        array_of("'|S4'", "(6,)") + bytes(24),
        array_of("'<U1'", "(6,)") + bytes(24),
        array_of("'<c8'", "(3,)") + bytes(24),
        array_of("'<M8[s]'", "(3,)") + bytes(24),
        array_of("[('a', '<f4')]", "(6,)") + bytes(24),
        array_of("'<f4'", "(-2, -3)") + bytes(24),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "array.npy").write_bytes(content)
    with pytest.raises(NotConverted, match="something else than the output"):
        read_array("old-otter", tmp_path / "array.npy")


def test_arrays_that_are_larger_than_the_memory_are_compared(tmp_path: Path) -> None:
    """A sparse file costs its writer nothing."""
    file, size = tmp_path / "array.npy", 1 << 26
    start = array_of("'|u1'", f"({size},)")
    file.write_bytes(start)
    os.truncate(file, len(start) + size)
    tracemalloc.start()
    array = read_array("old-otter", file)
    assert is_same(array, difference(array, array), 1e-4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6 < size
    assert read_array("old-otter", file).shape == (size,)


def test_parts_are_compared_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion_samples, "_PART", 5)
    one = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    other = one.copy()
    other[1, 2, 3] += 3
    other[0, 0, 0] -= 2
    assert difference(one, other) == 3 and difference(one, one) == 0
    assert not is_same(one, 3, 0.1) and is_same(one, 3, 0.2)


def space(id: str, min: int, step: int = 0, reference: SizeReference | None = None) -> Axis:
    return Axis(id, "space", min, step, reference=reference)


@pytest.mark.parametrize(
    "other",
    [space("x", 16, 1 << 40), space("x", 16, 1 << 26), space("x", 1, reference=SizeReference("image", "y", -1.0, 0))],
)
def test_sizes_of_a_description_take_no_memory(tmp_path: Path, other: Axis) -> None:
    np.save(tmp_path / "test.npy", np.zeros((16, 16), np.float32))
    model = manifest(inputs=(Tensor("image", "float32", (space("y", 16, 1), other)),), test_inputs=("test.npy",))
    assert [sample[0].shape for sample in choose_samples(model, tmp_path)] == [(16, 16)] * 2


def test_a_test_image_may_be_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = manifest(inputs=(Tensor("image", "float32", (space("y", 16, 1),)),), test_inputs=("test.npy",))
    np.savez(tmp_path / "test.npz", image=np.zeros(16))
    for content in ((tmp_path / "test.npz").read_bytes(), header("(" * 9000 + "\n"), b""):
        (tmp_path / "test.npy").write_bytes(content)
        with pytest.raises(NotConverted, match="cannot be read"):
            choose_samples(model, tmp_path)
    np.save(tmp_path / "test.npy", np.zeros(16))
    monkeypatch.setattr(conversion_samples, "_MAX_VALUES", 15)
    with pytest.raises(NotConverted, match="more than 0 million values"):
        choose_samples(model, tmp_path)


def test_files_are_counted_wherever_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Written(tmp_path)
    watched.check()
    folder = tmp_path
    for _ in range(22):
        folder = folder / "f"
        folder.mkdir()
    with pytest.raises(WroteTooMuch, match="nested folders"):
        watched.check()
    monkeypatch.setattr(written, "_MAX_DEPTH", 30)
    watched.check()
    with open(folder / "large", "wb") as file:
        file.truncate(9 << 30)
    with pytest.raises(WroteTooMuch, match=r"or \d+\.\d GB"):
        watched.check()
    os.unlink(folder / "large")
    for number in range(1980):
        (folder / str(number)).mkdir()
    with pytest.raises(WroteTooMuch, match="more than 2000 files"):
        watched.check()


def test_files_without_a_name_are_found_by_the_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "_MAX_BYTES", 64 << 20)
    watched = Written(tmp_path)
    with open(tmp_path / "hidden", "wb") as file:
        os.unlink(tmp_path / "hidden")
        watched.check()
        os.posix_fallocate(file.fileno(), 0, 256 << 20)
        with pytest.raises(WroteTooMuch, match=r"or 0\.1 GB"):
            watched.check()


def test_of_a_full_disk_it_gets_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "_left", lambda folder: (1000, 0))
    watched = Written(tmp_path)
    (tmp_path / "file").write_bytes(bytes(750))
    watched.check()
    (tmp_path / "file").write_bytes(bytes(751))
    with pytest.raises(WroteTooMuch):
        watched.check()


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret", "weights.pt", ""])
def test_converted_weights_refer_to_no_file(tmp_path: Path, location: str) -> None:
    entry = field(1, b"location") + field(2, location.encode())
    for content, expected in ((field(5, field(13, entry)), False), (field(5, field(13, entry * 2)), False), (b"\xff" * 9, False)):
        (tmp_path / "m.onnx").write_bytes(field(7, content))
        assert is_alone(tmp_path / "m.onnx") is expected
    (tmp_path / "m.onnx").write_bytes(field(7, field(5, field(8, b"w"))))
    assert is_alone(tmp_path / "m.onnx")
