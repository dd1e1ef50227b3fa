"""`./bioengine test` as a whole: its steps side by side, what is told of them, and how much of the code the unit tests run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bioengine_server.settings import Settings
from bioengine_server.testing import run
from bioengine_server.testing import steps as project_steps
from bioengine_server.testing.covered import File, recorded, table
from bioengine_server.testing.run import run_checks, run_tests
from bioengine_server.testing.steps import ROOT, Pythons, Step, unit_tests


def program(name: str, code: str, **more: object) -> Step:
    return Step(name, (sys.executable, "-c", code), **more)  # type: ignore[arg-type]


PASSES = program("passes", "print('well')")
FAILS = program("fails", "import sys; print('not well'); sys.exit(1)")
FINDS_NONE = program("finds none", "import sys; sys.exit(5)", is_pytest=True)
TELLS = program(
    "tells", "import os, sys; print(sys.argv[1:], sorted(key for key in os.environ if 'BIOENGINE' in key))", is_pytest=True
)


# All functions that make steps of the project's own.
KINDS = [name for name, made in vars(project_steps).items() if getattr(made, "__annotations__", {}).get("return") == "list[Step]"]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what is run in place of the project's own steps, by their kind."""
    monkeypatch.setattr(run, "build_environments", lambda *names, renew: True)

    def replace(**kinds: list[Step]) -> None:
        for kind in KINDS:
            monkeypatch.setattr(run, kind, lambda pythons, kind=kind: kinds.get(kind, []))

    return replace


def whole(all_tiers: bool = False, only_changed: bool = False, arguments: tuple[str, ...] = ()) -> int:
    return run_tests(Settings(), all_tiers, only_changed, list(arguments))


def test_everything_that_passes_is_said_to(steps: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    steps(checks=[PASSES], stack_tests=[FINDS_NONE])
    assert whole() == 0
    out = capsys.readouterr().out
    assert "== passes\nwell\n== passes: passed in 0 s" in out and "== finds none: passed" in out
    assert out.endswith("\nAll checks and tests passed.\n")
    assert run_checks(Settings()) == 0


def test_what_failed_is_named_at_the_end(steps: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    steps(
        checks=[PASSES, FAILS],
        cluster_tests=[program("lags", "import sys; sys.exit(2)")],
        fault_tests=[program("recovers late", "import sys; sys.exit(1)")],
        container_tests=[program("leaks", "import sys; sys.exit(5)")],
        slurm_tests=[program("hangs", "raise SystemExit(1)")],
    )
    assert whole(all_tiers=True) == 1
    out = capsys.readouterr().out
    assert "not well\n== fails: FAILED" in out and out.endswith("\nFailed: fails, leaks, hangs, lags, recovers late\n")
    assert whole() == 1 and capsys.readouterr().out.endswith("\nFailed: fails, recovers late\n"), (
        "containers, Slurm and clusters are in no core tier"
    )


def test_two_are_run_at_once(steps: Callable[..., None], tmp_path: Path) -> None:
    """Each waits for the other's file."""
    wait = "import pathlib, time\npathlib.Path({own!r}).touch()\nwhile not pathlib.Path({other!r}).exists(): time.sleep(0.01)"
    one, other = (str(tmp_path / name) for name in ("one", "other"))
    steps(stack_tests=[program("one", wait.format(own=one, other=other)), program("other", wait.format(own=other, other=one))])
    started = time.monotonic()
    assert whole() == 0 and time.monotonic() - started < 30


def test_arguments_and_a_clean_environment_reach_pytest_alone(
    steps: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BIOENGINE_PORT", "1")
    monkeypatch.setenv("BIOENGINE_ACCELERATOR", "cpu")
    monkeypatch.delenv("BIOENGINE_ENVIRONMENTS", raising=False)
    monkeypatch.delenv("BIOENGINE_PYTHON", raising=False)
    check = Step("check", TELLS.command)
    steps(unit_tests=[TELLS], checks=[check])
    environment = "['BIOENGINE_ACCELERATOR', 'BIOENGINE_SETTINGS']"
    assert whole() == 0 and whole(all_tiers=True) == 0
    out = capsys.readouterr().out
    assert out.count(f"['-m', 'not extended'] {environment}") == 1 and out.count(f"[] {environment}") == 3
    assert whole(arguments=("--lf", "-x")) == 0
    assert (
        f"['-m', 'not extended', '--last-failed', '--last-failed-no-failures=none', '-x'] {environment}"
        in capsys.readouterr().out
    )


def test_nothing_is_run_without_its_environments(steps: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    steps(checks=[FAILS])
    monkeypatch.setattr(run, "build_environments", lambda *names, renew: False)
    assert whole() == 1


@pytest.mark.parametrize(
    ("arguments", "python", "tier"),
    [
        (("tests/unit/server/test_queue.py", "-k", "turn"), "server", ["-m", "not extended"]),
        (("tests/unit/runner/test_told.py",), "runner", ["-m", "not extended"]),
    ],
)
def test_tests_that_are_chosen_are_run_by_the_environment_that_has_them(
    steps: Callable[..., None], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], python: str, tier: list[str]
) -> None:
    commands: list[tuple[str, ...]] = []

    def run_command(command: tuple[str, ...], **options: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 3)

    steps()
    monkeypatch.setattr(subprocess, "run", run_command)
    assert whole(arguments=arguments) == 3
    (command,) = commands
    assert f"/{python}/bin/python" in command[0] and command[-len(tier) - len(arguments) :] == (*tier, *arguments)


def test_changed_tests_are_run_in_both_environments(
    steps: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = ["tests/unit/contract/test_fit.py", "tests/unit/contract/packages.py", "tests/unit/runner/test_told.py"]
    monkeypatch.setattr(run, "changed_tests", lambda root: changed)
    monkeypatch.setattr(run, "pytest", lambda name, pythons, files, python: program(name, f"print({files!r})"))
    steps(checks=[PASSES])
    assert whole(only_changed=True) == 0
    out = capsys.readouterr().out
    assert "== changed, runner\n['tests/unit/contract/test_fit.py', 'tests/unit/runner/test_told.py']" in out
    assert "== changed, server\n['tests/unit/contract/test_fit.py']" in out


def test_rooms_are_told_with_what_little_of_a_file_ran() -> None:
    files = [
        File("contract/bioengine_contract/tensors/wire.py", 100, 96),
        File("model_runner/bioengine_runner/loading/records.py", 10, 10),
        File("server/bioengine_server/aside.py", 40, 20),
        File("server/bioengine_server/http/route.py", 90, 90),
        File("server/bioengine_server/http/body.py", 10, 4),
    ]
    assert table(files).splitlines() == [
        "Run by the unit tests:",
        "contract        96 % of    100 lines",
        "model runner   100 % of     10 lines",
        "server          50 % of     40 lines",
        "http            94 % of    100 lines",
        "all             88 % of    250 lines",
        "Less than 50 %:",
        "  server/bioengine_server/http/body.py: 40 %",
    ]
    assert "Less" not in table(files[:4])


def test_what_either_environment_ran_has_run(tmp_path: Path) -> None:
    """Two runs of a small project, each of another branch; a file that neither imports counts as not run."""
    (tmp_path / "pyproject.toml").write_text('[tool.slipcover]\nsource = ["contract"]\n')
    (tmp_path / "contract").mkdir()
    (tmp_path / "contract" / "branches.py").write_text(
        "import sys\nif sys.argv[1] == 'a':\n    print('a')\nelif sys.argv[1] == 'b':\n    print('b')\nelse:\n    print('c')\n"
    )
    (tmp_path / "contract" / "unused.py").write_text("x = 1\ny = 2\n")
    for argument in "ab":
        command = [sys.executable, "-m", "slipcover", "--json", "--out", argument, "contract/branches.py", argument]
        subprocess.run(command, cwd=tmp_path, check=True)
    records = [tmp_path / name for name in ("a", "b", "of-a-run-that-ended-early")]
    assert recorded(records[:1]) == [File("contract/branches.py", 6, 3), File("contract/unused.py", 2, 0)]
    assert recorded(records) == [File("contract/branches.py", 6, 5), File("contract/unused.py", 2, 0)]


def test_unit_tests_alone_are_recorded_each_in_a_file_of_its_own() -> None:
    steps = unit_tests(Pythons("server-python", "runner-python", "labels-python"))
    records = {step.record for step in steps}
    assert len(records) == 3 and None not in records
    for step in steps:
        assert step.command[1:5] == ("-m", "slipcover", "--json", "--out")
        assert step.command[5:8] == (step.record, "-m", "pytest") and not Path(str(step.record)).is_absolute()
    assert (ROOT / "pyproject.toml").read_text().count("[tool.slipcover]") == 1
