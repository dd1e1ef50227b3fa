"""`bioengine doctor` beside a running server."""

from __future__ import annotations

from pathlib import Path

from tests.stack.harness import Stack, bioengine


def test_all_is_well(stack: Stack) -> None:
    done = bioengine("doctor", "--home", str(stack.home), "--port", str(stack.port), "--offline")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a BioEngine answers there, and is ready" in done.stdout and "All is well." in done.stdout


def test_a_problem_is_told_by_the_status(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = bioengine("doctor", "--home", str(tmp_path / "file" / "home"), "--port", str(stack.port), "--offline")
    assert done.returncode == 1 and "cannot be written to" in done.stdout and "1 problem." in done.stdout
