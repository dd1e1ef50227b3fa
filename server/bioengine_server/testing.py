"""`bioengine test`: linter, type checker and tests, from a bare checkout.

Core tier: everything but what is marked `extended`. All tiers: everything.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from bioengine_server.environments import build_environments
from bioengine_server.settings import Settings

ROOT = Path(__file__).resolve().parents[2]

_RUNNER_TESTS = "tests/unit/runner"  # in the environment of the models


def run_tests(settings: Settings, all_tiers: bool, pytest_arguments: list[str]) -> int:
    """Run it all; returns the exit status, 0 where everything passed.

    Args:
        settings: for the folder of environments.
        all_tiers: also what is marked `extended`.
        pytest_arguments: handed on to pytest; with any, the linter and the type checker are left out.
    """
    if not build_environments("clients"):
        return 1
    server, runner = (str(settings.environments / name / "bin" / "python") for name in ("server", "runner"))
    tier = [] if all_tiers else ["-m", "not extended"]
    tests = [
        ("tests of the model runner", [runner, "-m", "pytest", "-p", "no:asyncio", *tier, _RUNNER_TESTS]),
        (
            "tests of the server and the stack",
            [server, "-m", "pytest", *tier, "tests/unit/server", "tests/clients", "tests/stack"],
        ),
    ]
    if all_tiers:
        # A process of its own: it goes into a network of its own, too.
        tests.append(("tests of the containers", [server, "-m", "pytest", "tests/compose"]))
    if pytest_arguments:
        of_the_runner = any(argument.startswith(_RUNNER_TESTS) for argument in pytest_arguments)
        python = [runner, "-m", "pytest", "-p", "no:asyncio"] if of_the_runner else [server, "-m", "pytest"]
        return _run("pytest", [*python, *tier, *pytest_arguments])
    checks = [
        ("ruff", [server, "-m", "ruff", "check", "."]),
        ("ruff format", [server, "-m", "ruff", "format", "--check", "."]),
        ("mypy, server", [server, "-m", "mypy", "server/bioengine_server", "deploy"]),
        (
            "mypy, runner",
            [server, "-m", "mypy", "--python-executable", runner, "model_runner/bioengine_runner", "model_runner/training"],
        ),
    ]
    failed = [name for name, command in [*checks, *tests] if _run(name, command)]
    print(f"\nFailed: {', '.join(failed)}" if failed else "\nAll checks and tests passed.", flush=True)
    return 1 if failed else 0


def _run(name: str, command: list[str]) -> int:
    print(f"\n== {name}", flush=True)
    # The environment of a user who runs a BioEngine must not reach the tests' own.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BIOENGINE_") or key in _KEPT}
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


_KEPT = {"BIOENGINE_ENVIRONMENTS", "BIOENGINE_PYTHON", "BIOENGINE_ACCELERATOR"}
