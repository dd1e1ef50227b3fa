"""Folders that somebody hostile has filled are removed, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from bioengine_contract.removal import remove


def deepen(folder: Path, depth: int) -> None:
    """Folders in folders, with a file in each."""
    inner = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.close(os.open("file", os.O_CREAT, dir_fd=inner))
        os.mkdir("inner", dir_fd=inner)
        outer, inner = inner, os.open("inner", os.O_RDONLY, dir_fd=inner)
        os.close(outer)
    os.close(inner)


def test_however_deep_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    deepen(folder, 2000)
    assert remove(folder)
    assert list(tmp_path.iterdir()) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    kept, folder = tmp_path / "kept", tmp_path / "folder"
    for each in (kept, folder, folder / "inner"):
        each.mkdir()
    (kept / "file").touch()
    (folder / "link").symlink_to(kept)
    (folder / "inner" / "link").symlink_to(kept)
    (tmp_path / "link").symlink_to(kept)
    assert remove(folder) and remove(tmp_path / "link")
    assert [path.name for path in tmp_path.rglob("*")] == ["kept", "file"]


def test_modes_that_keep_us_out(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "inner" / "innermost").mkdir(parents=True)
    (folder / "inner").chmod(0)
    folder.chmod(0)
    assert remove(folder)


def test_what_is_not_there_is_gone_and_what_cannot_be_removed_is_told(tmp_path: Path) -> None:
    assert remove(tmp_path / "missing")
    assert not remove(Path("/proc/self"))
    (tmp_path / "file").touch()
    assert not remove(tmp_path, patience=0)
