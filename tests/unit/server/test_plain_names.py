"""Links with plain names for folders whose own Triton cannot take."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from bioengine_server.triton.plain_names import PlainNames, is_plain

from tests.stack.harness import ENVIRONMENTS


@pytest.mark.parametrize("name", ["a b", "ü", "a,b", "it's", 'a"b', "a$b", "a;b", "a:b", "a\nb"])
def test_a_name_that_a_shell_or_ascii_does_not_take_is_not_plain(name: str) -> None:
    assert not is_plain(Path("/tmp") / name) and is_plain(Path("/tmp/bio-engine_1.0+x@y"))


def test_plain_folders_are_used_as_they_are(tmp_path: Path) -> None:
    names = PlainNames(tmp_path / "names")
    assert names.of(tmp_path, "run") == tmp_path and not names.folder.exists()
    assert names.of_environment(ENVIRONMENTS / "runner", "runner") == ENVIRONMENTS / "runner"


def test_others_are_linked_anew_each_time(tmp_path: Path) -> None:
    for content in ("first", "second"):
        folder = tmp_path / f"hö me, {content}"
        folder.mkdir()
        (folder / "file").write_text(content)
        link = PlainNames(tmp_path / "names").of(folder, "store")
        assert link == tmp_path / "names" / "store" and (link / "file").read_text() == content
    assert (tmp_path / "names").stat().st_mode & 0o077 == 0


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
    plain = PlainNames(tmp_path / "names").of_environment(real, "runner")
    program = "import of_the_checkout, of_the_environment, sys; print(sys.prefix); assert all(map(str.isascii, sys.path))"
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run([plain / "bin" / "python3", "-I", "-c", program], env=ascii_only, capture_output=True, text=True)
    assert done.stdout == f"{tmp_path / 'names' / 'runner'}\n", done.stderr
