"""`./bioengine test`: which steps there are, and which tests a change touches."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from bioengine_server.testing.changed import changed_tests
from bioengine_server.testing.steps import (
    ROOT,
    Pythons,
    attack_tests,
    checks,
    client_tests,
    cluster_tests,
    container_tests,
    fault_tests,
    long_tests,
    slurm_tests,
    stack_tests,
    unit_tests,
)

PYTHONS = Pythons("server-python", "runner-python", "labels-python")

FILES = {
    "contract/bioengine_contract/ids.py": "",
    "server/bioengine_server/low.py": "from bioengine_contract.ids import NAME",
    "server/bioengine_server/room/high.py": "def later():\n    from bioengine_server import low",
    "server/bioengine_server/other.py": "import json",
    "tests/unit/server/test_high.py": "from bioengine_server.room import high",
    "tests/unit/server/test_other.py": "from bioengine_server.other import x",
    "tests/stack/test_ids.py": "from bioengine_contract import ids",
    "tests/stack/test_more.py": "",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    for arguments in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    return tmp_path


def test_nothing_is_touched_where_nothing_changed(checkout: Path) -> None:
    assert changed_tests(checkout) == []


def test_a_change_touches_the_unit_tests_that_import_it_through_others(checkout: Path) -> None:
    (checkout / "contract/bioengine_contract/ids.py").write_text("NAME = 1")
    assert changed_tests(checkout) == ["tests/unit/server/test_high.py"]


def test_tests_of_the_stack_are_touched_when_they_change_themselves(checkout: Path) -> None:
    (checkout / "tests/stack/test_more.py").write_text("x = 1")
    (checkout / "tests/unit/server/test_new.py").write_text("x = 1")
    (checkout / "server/bioengine_server/other.py").unlink()
    assert changed_tests(checkout) == ["tests/stack/test_more.py", "tests/unit/server/test_new.py"]


def test_every_file_of_tests_is_in_one_step() -> None:
    tests_with_stacks = (stack_tests, attack_tests, client_tests, cluster_tests, fault_tests, long_tests)
    steps = [step for kind in (unit_tests, *tests_with_stacks, container_tests, slurm_tests) for step in kind(PYTHONS)]
    assert len({step.name for step in [*steps, *checks(PYTHONS)]}) == len([*steps, *checks(PYTHONS)])
    for file in (ROOT / "tests").rglob("test_*.py"):
        path = file.relative_to(ROOT).as_posix()
        homes = [step.name for step in steps if any(path == item or path.startswith(f"{item}/") for item in step.command)]
        assert len(homes) == (2 if "/contract/" in path else 1), (path, homes)
