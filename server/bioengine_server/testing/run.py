"""Run the steps of `bioengine test`, three at a time, and Slurm's beside: many tests wait for a stack.

Those that measure how fast a server or a cluster recovers come afterwards.

What a step printed is shown when it has ended.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from bioengine_server.environments import OPTIONAL, build_environments
from bioengine_server.settings import Settings
from bioengine_server.testing.changed import changed_tests
from bioengine_server.testing.covered import recorded, table
from bioengine_server.testing.steps import (
    CONTRACT_TESTS,
    LABELS_TESTS,
    ROOT,
    RUNNER_TESTS,
    Pythons,
    Step,
    attack_tests,
    checks,
    client_tests,
    cluster_tests,
    container_tests,
    fault_tests,
    long_tests,
    pytest,
    slurm_tests,
    stack_tests,
    unit_tests,
)

_AT_ONCE = 3
_NOTHING_COLLECTED = 5  # pytest's exit status
_LAST_FAILED = ("--lf", "--last-failed")

_KEPT = {"BIOENGINE_ENVIRONMENTS", "BIOENGINE_PYTHON", "BIOENGINE_ACCELERATOR"}

_printing = threading.Lock()


def run_checks(settings: Settings) -> int:
    """Run the linter and the type checker alone; returns the exit status."""
    return _conclude(_run_all(checks(_pythons(settings)), []))


def run_tests(settings: Settings, all_tiers: bool, only_changed: bool, pytest_arguments: list[str]) -> int:
    """Run it all; returns the exit status, 0 where everything passed.

    Args:
        settings: for the folder of environments.
        all_tiers: also what is marked `extended`, and the containers.
        only_changed: the checks, and the tests that the changes since the last commit touch.
        pytest_arguments: handed on to pytest. With any but `--lf`, pytest alone is run, on what they name.
    """
    # Of the core tier, tests need `labels` alone.
    if not build_environments("clients", *(OPTIONAL if all_tiers else ["labels"]), renew=True):
        return 1
    pythons = _pythons(settings)
    tier = [] if all_tiers else ["-m", "not extended"]
    if only_changed:
        return _conclude(_run_all([*checks(pythons), *_changed_steps(pythons)], [*tier, *pytest_arguments]))
    rows = _rows(pythons, all_tiers)
    slurm, cluster = (slurm_tests(pythons), cluster_tests(pythons)) if all_tiers else ([], [])
    faults = fault_tests(pythons)
    if pytest_arguments and pytest_arguments[0] in _LAST_FAILED:
        steps = [step for row in (*rows, slurm, cluster, faults) for step in row if step.is_pytest]
        return _conclude(_run_all(steps, [*tier, "--last-failed", "--last-failed-no-failures=none", *pytest_arguments[1:]]))
    if pytest_arguments:
        return _show(pytest("chosen tests", pythons, [*tier, *pytest_arguments]))
    with ThreadPoolExecutor(1) as beside:
        # Slurm's wait for its own clocks, and take a tenth of a processor.
        waiting = beside.submit(_run_all, slurm, tier)
        failed = _run_rows(rows, tier)
        failed += waiting.result()
    for steps in (cluster, faults):
        failed += _run_all(steps, tier)
    print(f"\n{table(recorded(ROOT / step.record for row in rows for step in row if step.record))}", flush=True)
    return _conclude(failed)


def _rows(pythons: Pythons, all_tiers: bool) -> list[list[Step]]:
    """What runs side by side, but for Slurm's: rows of steps that run one after the other."""
    # What starts no stack is first, in one row: left to the end, it would be alone with processors that it does not fill. Of the
    # others, the longest of each tier are first, so that the short ones fill the end.
    without_stack = [*unit_tests(pythons), *checks(pythons)]
    of_both_tiers = [[step] for step in (*attack_tests(pythons), *stack_tests(pythons), *client_tests(pythons))]
    if not all_tiers:
        return [without_stack, *of_both_tiers]
    return [without_stack, container_tests(pythons), *of_both_tiers, long_tests(pythons)]


def _pythons(settings: Settings) -> Pythons:
    return Pythons(*(str(settings.environments / name / "bin" / "python") for name in ("server", "runner", "labels")))


def _changed_steps(pythons: Pythons) -> list[Step]:
    tests = changed_tests(ROOT)
    of_runner = [test for test in tests if test.startswith((RUNNER_TESTS, CONTRACT_TESTS)) and test.endswith(".py")]
    of_labels = [test for test in tests if test.startswith(LABELS_TESTS)]
    others = [test for test in tests if not test.startswith((RUNNER_TESTS, LABELS_TESTS))]
    chosen = ((of_runner, "runner", pythons.runner), (of_labels, "labels", pythons.labels), (others, "server", pythons.server))
    return [pytest(f"changed, {name}", pythons, files, python) for all, name, python in chosen if (files := _test_files(all))]


def _test_files(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if path.rpartition("/")[2].startswith("test_")]


def _run_all(steps: Sequence[Step], pytest_arguments: Sequence[str]) -> list[str]:
    """Run steps side by side; the names of those that failed."""
    return _run_rows([[step] for step in steps], pytest_arguments)


def _run_rows(rows: Sequence[Sequence[Step]], pytest_arguments: Sequence[str]) -> list[str]:
    """Run rows of steps side by side, and the steps of a row one after the other; the names of those that failed."""

    def failed_in(row: Sequence[Step]) -> list[str]:
        return [step.name for step in row if not _run(step, pytest_arguments)]

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [name for names in pool.map(failed_in, rows) for name in names]


def _conclude(failed: Sequence[str]) -> int:
    """Print which steps failed; the exit status."""
    print(f"\nFailed: {', '.join(failed)}" if failed else "\nAll checks and tests passed.", flush=True)
    return 1 if failed else 0


def _run(step: Step, pytest_arguments: Sequence[str]) -> bool:
    """Whether it passed."""
    started = time.monotonic()
    with _printing:
        print(f"== {step.name}: begun", flush=True)
    command = [*step.command, *(pytest_arguments if step.is_pytest else ())]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    passed = done.returncode in (0, _NOTHING_COLLECTED if step.is_pytest else 0)
    with _printing:
        outcome = "passed" if passed else "FAILED"
        print(f"\n== {step.name}\n{done.stdout}== {step.name}: {outcome} in {time.monotonic() - started:.0f} s", flush=True)
    return passed


def _show(step: Step) -> int:
    """Run a step whose output is seen as it comes."""
    return subprocess.run(step.command, cwd=ROOT, env=_environment()).returncode


def _environment() -> dict[str, str]:
    """The environment of a user who runs a BioEngine must not reach the tests' own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("BIOENGINE_") or key in _KEPT}
    return {**kept, "BIOENGINE_SETTINGS": ""}  # nor may the machine's settings file
