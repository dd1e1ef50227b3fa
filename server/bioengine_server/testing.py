"""`bioengine test`: linter, type checker and tests, from a bare checkout.

Core tier: everything but what is marked `extended`. All tiers: everything. Two rows of them run side by side, since most tests
wait for a stack and not for a processor; what a step printed is shown when it has ended.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bioengine_server.environments import build_environments
from bioengine_server.settings import Settings

ROOT = Path(__file__).resolve().parents[2]

_RUNNER_TESTS = "tests/unit/runner"  # in the environment of the models
_CONTRACT_TESTS = "tests/unit/contract"  # in both environments, each with a NumPy of its own
_OF_RUNNER = ("contract/bioengine_contract", "model_runner/bioengine_runner", "model_runner/training")

Step = tuple[str, list[str]]
"""Its name, and its command."""

_printing = threading.Lock()


def run_tests(settings: Settings, all_tiers: bool, pytest_arguments: list[str]) -> int:
    """Run it all; returns the exit status, 0 where everything passed.

    Args:
        settings: for the folder of environments.
        all_tiers: also what is marked `extended`.
        pytest_arguments: handed on to pytest; with any, the linter and the type checker are left out.
    """
    if not build_environments("clients", renew=True):
        return 1
    server, runner = (str(settings.environments / name / "bin" / "python") for name in ("server", "runner"))
    tier = [] if all_tiers else ["-m", "not extended"]
    if pytest_arguments:
        of_the_runner = any(argument.startswith(_RUNNER_TESTS) for argument in pytest_arguments)
        python = [runner, "-m", "pytest", "-p", "no:asyncio"] if of_the_runner else [server, "-m", "pytest"]
        return _run("pytest", [*python, *tier, *pytest_arguments])
    rows: list[list[Step]] = [
        [
            ("ruff", [server, "-m", "ruff", "check", "."]),
            ("ruff format", [server, "-m", "ruff", "format", "--check", "."]),
            ("mypy, server", [server, "-m", "mypy", "contract/bioengine_contract", "server/bioengine_server", "deploy"]),
            ("mypy, tests", [server, "-m", "mypy", "--exclude", _RUNNER_TESTS, "tests"]),
            ("mypy, runner", [server, "-m", "mypy", "--python-executable", runner, *_OF_RUNNER, _RUNNER_TESTS]),
            ("tests of the model runner", [runner, "-m", "pytest", "-p", "no:asyncio", *tier, _CONTRACT_TESTS, _RUNNER_TESTS]),
            ("tests of the server", [server, "-m", "pytest", *tier, _CONTRACT_TESTS, "tests/unit/server"]),
            ("tests of attacks", [server, "-m", "pytest", *tier, "tests/security"]),
            ("tests of clients", [server, "-m", "pytest", *tier, "tests/clients"]),
        ],
        [("tests of the stack", [server, "-m", "pytest", *tier, "tests/stack"])],
    ]
    with ThreadPoolExecutor(len(rows)) as pool:
        failed = [name for names in pool.map(_row, rows) for name in names]
    if all_tiers:
        # By itself: it goes into a network of its own, and its containers take what processors there are.
        failed += _row([("tests of the containers", [server, "-m", "pytest", "tests/compose"])])
    print(f"\nFailed: {', '.join(failed)}" if failed else "\nAll checks and tests passed.", flush=True)
    return 1 if failed else 0


def _row(steps: list[Step]) -> list[str]:
    """Run steps one after the other; returns the names of those that failed."""
    failed = []
    for name, command in steps:
        started = time.monotonic()
        print(f"== {name}: begun", flush=True)
        done = subprocess.run(command, cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            failed.append(name)
        with _printing:
            outcome = "FAILED" if done.returncode else "passed"
            print(f"\n== {name}\n{done.stdout}== {name}: {outcome} in {time.monotonic() - started:.0f} s", flush=True)
    return failed


def _run(name: str, command: list[str]) -> int:
    print(f"\n== {name}", flush=True)
    return subprocess.run(command, cwd=ROOT, env=_environment()).returncode


def _environment() -> dict[str, str]:
    """The environment of a user who runs a BioEngine must not reach the tests' own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("BIOENGINE_") or key in _KEPT}
    return {**kept, "BIOENGINE_SETTINGS": ""}  # nor may the machine's settings file


_KEPT = {"BIOENGINE_ENVIRONMENTS", "BIOENGINE_PYTHON", "BIOENGINE_ACCELERATOR"}
