"""A package is copied as it is counted, also while somebody exchanges its files, and exported to new files alone."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import zipfile
from pathlib import Path

import pytest
from bioengine_server.store.errors import NotAPackage
from bioengine_server.store.model_store import ModelStore
from bioengine_server.store.package import copy_package

SECRET = b"root's own"


def toggle(path: Path, secret: Path, stop: threading.Event) -> None:
    """Have `path` be a file and a link to `secret`, in turn."""
    plain, link = path.with_name("plain"), path.with_name("link")
    while not stop.is_set():
        plain.write_bytes(b"harmless!!")
        os.replace(plain, path)
        link.symlink_to(secret)
        os.replace(link, path)


def test_a_link_that_comes_and_goes_is_never_followed(tmp_path: Path) -> None:
    secret, source = tmp_path / "secret", tmp_path / "package"
    secret.write_bytes(SECRET)
    (source / "inner").mkdir(parents=True)
    (source / "rdf.yaml").write_text("name: x")
    (source / "inner" / "weights").write_bytes(b"harmless!!")
    stop = threading.Event()
    thread = threading.Thread(target=toggle, args=(source / "inner" / "weights", secret, stop))
    thread.start()
    refused = 0
    try:
        for number in range(300):
            target = tmp_path / str(number)
            target.mkdir()
            try:
                copy_package(source, target, 10_000)
            except (NotAPackage, FileNotFoundError):
                refused += 1
            assert all(path.read_bytes() != SECRET for path in target.rglob("*") if path.is_file())
            shutil.rmtree(target)
    finally:
        stop.set()
        thread.join()
    assert refused


@pytest.mark.parametrize("kind", ["link", "pipe", "socket"])
def test_what_is_no_regular_file_is_named(tmp_path: Path, kind: str) -> None:
    """And a pipe without a writer is not waited for."""
    source, target = tmp_path / "package", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "rdf.yaml").write_text("name: x")
    odd = source / "odd"
    if kind == "link":
        odd.symlink_to("/etc/passwd")
    elif kind == "pipe":
        os.mkfifo(odd)
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(odd))
    with pytest.raises(NotAPackage, match="odd is not a regular file"):
        copy_package(source, target, 10_000)


def test_the_folder_itself_may_be_named_by_a_link(packages: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(packages / "old-otter")
    (tmp_path / "target").mkdir()
    copy_package(tmp_path / "link", tmp_path / "target", 1_000_000)
    assert (tmp_path / "target" / "rdf.yaml").is_file()


def test_a_zip_with_damaged_lzma_is_refused(tmp_path: Path) -> None:
    source, target = tmp_path / "package.zip", tmp_path / "target"
    target.mkdir()
    with zipfile.ZipFile(source, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("rdf.yaml", os.urandom(5000))
    content = bytearray(source.read_bytes())
    content[45:90] = b"\xff" * 45
    source.write_bytes(content)
    with pytest.raises(NotAPackage, match="the zip cannot be read"):
        copy_package(source, target, 10_000)


def test_an_export_writes_through_no_link(packages: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    model = store.import_package(packages / "old-otter")
    (tmp_path / "shared").mkdir()
    target, victim = tmp_path / "shared" / "old-otter.zip", tmp_path / "victim"
    victim.write_text("mine")
    target.with_name(f".{target.name}.{os.getpid()}").symlink_to(victim)  # what it was named before
    store.export(model, target)
    assert victim.read_text() == "mine"
    assert zipfile.is_zipfile(target)
    assert sorted(path.name for path in target.parent.iterdir()) == [f".{target.name}.{os.getpid()}", target.name]
