"""`bioengine doctor` beside a running server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stack.harness import ENVIRONMENTS, EXECUTABLE, Stack, bioengine


def test_all_is_well(stack: Stack) -> None:
    done = bioengine("doctor", "--home", str(stack.home), "--port", str(stack.port), "--offline")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a BioEngine answers there, and is ready" in done.stdout and "All is well." in done.stdout


@pytest.mark.extended
def test_a_command_with_another_accelerator_leaves_a_running_server_its_environment(stack: Stack) -> None:
    before = (ENVIRONMENTS / "runner").resolve()
    for command in (["token", "list"], ["models", "list"]):
        done = bioengine(*command, "--home", str(stack.home), program=EXECUTABLE, BIOENGINE_ACCELERATOR="cuda")
        assert done.returncode == 0 and "but built for cpu. `./bioengine setup` brings it up to date." in done.stderr, done.stderr
    assert (ENVIRONMENTS / "runner").resolve() == before and (before / "built").is_file()
    # By its own path: Triton's processes find the same environment when another one has its name.
    assert f"{before}/" in Path(f"/proc/{stack.stubs('bioengine-model-runner')[0].pid}/maps").read_text()


def test_a_problem_is_told_by_the_status(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = bioengine("doctor", "--home", str(tmp_path / "file" / "home"), "--port", str(stack.port), "--offline")
    assert done.returncode == 1 and "cannot be written to" in done.stdout and "1 problem." in done.stdout
