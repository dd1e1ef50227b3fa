"""Links with plain names for folders whose own Triton cannot take."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bioengine_server.settings import Settings
from bioengine_server.triton.plain_names import PlainNames, is_plain
from bioengine_server.triton.process import TritonProcess

from tests.stack.harness import ENVIRONMENTS


@pytest.mark.parametrize("name", ["a b", "ü", "a,b", "it's", 'a"b', "a$b", "a;b", "a:b", "a\nb"])
def test_a_name_that_a_shell_or_ascii_does_not_take_is_not_plain(name: str) -> None:
    assert not is_plain(Path("/tmp") / name) and is_plain(Path("/tmp/bio-engine_1.0+x@y"))


def test_plain_folders_are_used_as_they_are(tmp_path: Path) -> None:
    names = PlainNames(tmp_path / "names")
    assert names.of(tmp_path, "run") == tmp_path and names.folder is None
    assert names.of_environment(ENVIRONMENTS / "runner", "runner") == ENVIRONMENTS / "runner"


def test_others_are_linked_anew_each_time(tmp_path: Path) -> None:
    names = PlainNames(tmp_path / "names")
    for content in ("first", "second"):
        names.clear()
        folder = tmp_path / f"hö me, {content}"
        folder.mkdir()
        (folder / "file").write_text(content)
        link = names.of(folder, "store")
        assert link.parent == names.folder and (link / "file").read_text() == content
        assert is_plain(link.relative_to(tmp_path)) and link.parent.stat().st_mode & 0o077 == 0
    names.clear()
    assert names.folder is None and not list(tmp_path.glob("names*"))


def test_what_strangers_have_made_is_neither_used_nor_removed(tmp_path: Path) -> None:
    """The begin of the name is known to them. What makes a folder a stranger's is its owner, a mode, or that it is a link."""
    folder, home = tmp_path / "a b", tmp_path / "home"
    for made in (folder, home, tmp_path / "names", tmp_path / "names-open"):
        made.mkdir()
    home.chmod(0o700)
    (tmp_path / "names" / "dangling").symlink_to("/not there")
    (tmp_path / "names-link").symlink_to(home)
    if os.getuid() == 0:
        (tmp_path / "names-other").mkdir(mode=0o700)
        os.chown(tmp_path / "names-other", 4321, 4321)
    theirs = set(tmp_path.iterdir())
    names = PlainNames(tmp_path / "names")
    names.clear()
    link = names.of(folder, "store")
    assert link.parent not in theirs and names.are_whole()
    names.clear()
    assert set(tmp_path.iterdir()) == theirs and home.exists()


def test_a_folder_that_was_exchanged_is_not_used(tmp_path: Path) -> None:
    names, folder, home = PlainNames(tmp_path / "names"), tmp_path / "a b", tmp_path / "home"
    folder.mkdir()
    home.mkdir(mode=0o700)
    made = names.of(folder, "store").parent
    made.rename(tmp_path / "aside")
    made.symlink_to(home)
    (home / "store").mkdir()
    assert names.folder is None and not names.are_whole()


def test_what_a_killed_server_has_left_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    PlainNames(tmp_path / "names").of(folder, "store")
    (tmp_path / "names").mkdir(mode=0o700)
    PlainNames(tmp_path / "names").clear()
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["home", 'jörg\'s "home"'])
def test_triton_is_told_of_the_folder_only_where_this_start_has_made_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = tmp_path / "names"
    prefix.mkdir()
    monkeypatch.setattr(Settings, "plain_names", prefix)
    settings = Settings(home=tmp_path / name, run_dir=tmp_path / "run", environments=ENVIRONMENTS)
    names = PlainNames(settings.plain_names)
    variables = TritonProcess(settings, "x" * 32, names, on_end=print)._environment()
    assert variables.get("BIOENGINE_PLAIN_NAMES") == (str(names.folder) if names.folder else None)
    assert (names.folder is None) == (name == "home")
    assert is_plain(Path(variables["BIOENGINE_STORE"]).relative_to(tmp_path))


def test_triton_is_told_where_and_how_models_compute(tmp_path: Path) -> None:
    settings: Any = {"accelerator": "CPU", "precision": "Fast", "home": tmp_path, "run_dir": tmp_path / "run"}
    triton = TritonProcess(
        Settings(**settings, environments=ENVIRONMENTS), "x" * 32, PlainNames(tmp_path / "names"), on_end=print
    )
    variables = triton._environment()
    assert (variables["BIOENGINE_ACCELERATOR"], variables["BIOENGINE_PRECISION"]) == ("cpu", "fast")


def test_an_environment_works_under_plain_names_alone(tmp_path: Path) -> None:
    """Its own path, and that of a package that it names, have letters that the Python in Triton does not take."""
    real, package = tmp_path / "ümgebung", tmp_path / "chäck out"
    packages = next((ENVIRONMENTS / "runner").glob("lib/python*/site-packages")).relative_to(ENVIRONMENTS / "runner")
    (real / packages).mkdir(parents=True)
    package.mkdir()
    (package / "of_the_checkout.py").write_text("answer = 42\n")
    (real / packages / "of_the_environment.py").touch()
    (real / packages / "bioengine.pth").write_text(f"{package}\nimport sys\n", encoding="utf-8")
    (real / "bin").mkdir()
    (real / "bin" / "python").symlink_to((ENVIRONMENTS / "runner" / "bin" / "python").resolve())
    shutil.copyfile(ENVIRONMENTS / "runner" / "pyvenv.cfg", real / "pyvenv.cfg")
    names = PlainNames(tmp_path / "names")
    plain = names.of_environment(real, "runner")
    program = "import of_the_checkout, of_the_environment, sys; print(sys.prefix); assert all(map(str.isascii, sys.path))"
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run([plain / "bin" / "python3", "-I", "-c", program], env=ascii_only, capture_output=True, text=True)
    assert done.stdout == f"{names.folder}/runner\n", done.stderr
