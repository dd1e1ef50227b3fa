"""Files of users: written whole or not at all, and never in place of another that was not to be replaced."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest
from bioengine_server.images.errors import UnwritableImage
from bioengine_server.images.files import write_image
from bioengine_server.images.image import Image
from bioengine_server.output_file import OutputExists, OutputNotPossible, check_outputs, output_file


def test_a_new_file(tmp_path: Path) -> None:
    with output_file(tmp_path / "new" / "x.txt") as file:
        file.write(b"hello")
        assert not (tmp_path / "new" / "x.txt").exists()
    assert (tmp_path / "new" / "x.txt").read_bytes() == b"hello"
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["x.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ValueError])
def test_what_is_not_written_to_its_end_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    """As after Ctrl-C: neither half a file, nor one of a temporary name, and the one that was there is as it was."""
    (tmp_path / "old.txt").write_text("old")
    for name in ("new.txt", "old.txt"):
        with pytest.raises(error), output_file(tmp_path / name, overwrite=True) as file:
            file.write(b"half")
            raise error
    assert [file.name for file in tmp_path.iterdir()] == ["old.txt"] and (tmp_path / "old.txt").read_text() == "old"


def test_an_existing_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    target.write_text("old")
    target.chmod(0o600)
    with pytest.raises(OutputExists, match=r"x\.txt already exists.*--overwrite"), output_file(target) as file:
        file.write(b"new")
    assert target.read_text() == "old"
    with output_file(target, overwrite=True) as file:
        file.write(b"new")
    assert target.read_text() == "new" and stat.S_IMODE(target.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_comes_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    with pytest.raises(OutputExists), output_file(target) as file:
        file.write(b"new")
        target.write_text("of somebody else")
    assert target.read_text() == "of somebody else"


def test_links_stay_links(tmp_path: Path) -> None:
    """What a symbolic link leads to is replaced; another name of the same file keeps what it had."""
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    os.link(tmp_path / "real.txt", tmp_path / "other.txt")
    with pytest.raises(OutputExists):
        check_outputs([tmp_path / "link.txt"], overwrite=False)
    with output_file(tmp_path / "link.txt", overwrite=True) as file:
        file.write(b"new")
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "real.txt").read_text() == "new"
    assert (tmp_path / "other.txt").read_text() == "old"


def test_what_can_be_known_before_is_said_before(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling.tif").symlink_to("nowhere.tif")
    (tmp_path / "folder.tif").mkdir()
    for name, reason in [
        ("file/x.tif", "is a file, not a folder"),
        ("dangling.tif", "a link to nowhere.tif, which does not exist"),
        ("folder.tif", "it is a folder"),
        ("x" * 300 + ".tif", "File name too long"),
    ]:
        with pytest.raises(OutputNotPossible, match=reason):
            check_outputs([tmp_path / name], overwrite=True)
    check_outputs([tmp_path / "new" / "folders" / "x.tif", Path("/dev/null")], overwrite=False)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".png", ".csv"])
def test_a_full_disk_leaves_no_file(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("a file system of its own cannot be mounted here")
    try:
        noise = np.random.default_rng(0).integers(0, 255, (512, 512)).astype(np.uint8)
        file = folder / f"x{suffix}"
        write_image(file, Image(noise[:8, :8], "yx"))
        before = file.read_bytes()
        for name in (file, folder / f"y{suffix}"):
            with pytest.raises(UnwritableImage, match=r"No space left on device|its disk may be full"):
                write_image(name, Image(noise, "yx"), overwrite=True)
        assert [path.name for path in folder.iterdir()] == [file.name] and file.read_bytes() == before
    finally:
        subprocess.run(["umount", str(folder)], check=True)
