"""What `bioengine test` runs: each step a command of its own, with the Python environment that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bioengine_server.project import PROJECT

ROOT = PROJECT

CONTRACT_TESTS = "tests/unit/contract"  # in both environments, each with a NumPy of its own
RUNNER_TESTS = "tests/unit/runner"  # in the environment of the models
LABELS_TESTS = "tests/unit/labels"  # in the one with StarDist and Cellpose
SERVER_TESTS = "tests/unit/server"
_OF_RUNNER = ("contract/bioengine_contract", "model_runner/bioengine_runner", "model_runner/training")
_OF_SERVER = ("contract/bioengine_contract", "server/bioengine_server", "deploy")

# The tests of the stack are the longest: in parts, so that no row waits for another at the end. Each part starts
# stacks of its own. Each takes every third file, because files of one subject, with names alike, take alike.
_PARTS_OF_STACK = 3

# How fast a server or a cluster recovers can be told only where little else takes the processors.
_CLUSTER = ("tests/stack/test_cluster.py",)
_POOR_NETWORK = ("tests/stack/test_poor_network.py",)
_FAULTS = ("tests/stack/test_recovery.py", "tests/stack/test_faults.py", "tests/stack/test_hanging_triton.py")

# Minutes of work of a stack of their own.
_LONG_RUNS = ("tests/stack/test_bench.py", "tests/stack/test_soak.py")

_CACHE = ".pytest_cache"


@dataclass(frozen=True)
class Step:
    """A command. `is_pytest`: whether further arguments of pytest can be added. `record`: the file that SlipCover leaves."""

    name: str
    command: tuple[str, ...]
    is_pytest: bool = False
    record: str | None = None


@dataclass(frozen=True)
class Pythons:
    """The interpreters of the environments."""

    server: str
    runner: str
    labels: str


def checks(pythons: Pythons) -> list[Step]:
    """The linter and the type checker."""
    return [
        Step("ruff", (pythons.server, "-m", "ruff", "check", ".")),
        Step("ruff format", (pythons.server, "-m", "ruff", "format", "--check", ".")),
        _mypy("server", pythons, *_OF_SERVER),
        _mypy("tests", pythons, "--exclude", f"{RUNNER_TESTS}|{LABELS_TESTS}", "tests"),
        _mypy("runner", pythons, "--python-executable", pythons.runner, *_OF_RUNNER, RUNNER_TESTS, LABELS_TESTS),
    ]


def _mypy(what: str, pythons: Pythons, *arguments: str) -> Step:
    """With a cache of its own: several run at once, for different environments."""
    return Step(f"mypy, {what}", (pythons.server, "-m", "mypy", "--cache-dir", f".mypy_cache/{what}", *arguments))


def unit_tests(pythons: Pythons) -> list[Step]:
    """Those that start no stack, the longest first."""
    return [
        _recorded(pytest("tests of the server", pythons, [CONTRACT_TESTS, SERVER_TESTS])),
        _recorded(pytest("tests of the model runner", pythons, [CONTRACT_TESTS, RUNNER_TESTS])),
        _recorded(pytest("tests of labels and apps", pythons, [LABELS_TESTS])),
    ]


def _recorded(step: Step) -> Step:
    """A run of pytest under SlipCover (`bioengine_server.testing.covered`), which takes a fifth of coverage.py's time."""
    record = f"{_CACHE}/{_file_name(step.name)}.coverage.json"
    python, *arguments = step.command
    command = (python, "-m", "slipcover", "--json", "--out", record, *arguments)
    return replace(step, command=command, record=record)


def stack_tests(pythons: Pythons) -> list[Step]:
    """Those of stacks, in parts that take alike."""
    files = sorted({str(file.relative_to(ROOT)) for file in (ROOT / "tests" / "stack").glob("test_*.py")})
    files = [file for file in files if file not in (*_CLUSTER, *_POOR_NETWORK, *_FAULTS, *_LONG_RUNS)]
    parts = [files[first::_PARTS_OF_STACK] for first in range(_PARTS_OF_STACK)]
    return [pytest(f"tests of the stack, part {number}", pythons, part) for number, part in enumerate(parts, 1)]


def long_tests(pythons: Pythons) -> list[Step]:
    """Those of the bench and of the soak."""
    return [pytest("tests of bench and soak", pythons, _LONG_RUNS)]


def attack_tests(pythons: Pythons) -> list[Step]:
    """Those of what hostile clients and packages do."""
    return [pytest("tests of attacks", pythons, ["tests/security"])]


def client_tests(pythons: Pythons) -> list[Step]:
    """Those of the clients that there are."""
    return [pytest("tests of clients", pythons, ["tests/clients"])]


def cluster_tests(pythons: Pythons) -> list[Step]:
    """Those of how a cluster recovers. They run at the same time, and nothing else does then."""
    return [pytest("tests of a cluster", pythons, _CLUSTER), pytest("tests of a poor network", pythons, _POOR_NETWORK)]


def fault_tests(pythons: Pythons) -> list[Step]:
    """Those of how a server recovers. Nothing else runs then."""
    return [pytest("tests of faults", pythons, _FAULTS)]


def container_tests(pythons: Pythons) -> list[Step]:
    """Those of images, compose and pods."""
    return [pytest("tests of the containers", pythons, ["tests/compose"])]


def slurm_tests(pythons: Pythons) -> list[Step]:
    """Those of workers as jobs of Slurm."""
    return [pytest("tests of Slurm", pythons, ["tests/slurm"])]


def pytest(name: str, pythons: Pythons, arguments: Sequence[str], python: str = "") -> Step:
    """A run of pytest, which remembers what failed (`--lf`) by the step's name. `python`: by default that of the named files."""
    elsewhere = {RUNNER_TESTS: pythons.runner, LABELS_TESTS: pythons.labels}
    of_files = (elsewhere[folder] for folder in elsewhere if any(each.startswith(folder) for each in arguments))
    chosen = python or next(of_files, pythons.server)
    command = (chosen, "-m", "pytest", *(() if chosen == pythons.server else ("-p", "no:asyncio")))
    cache = f"{_CACHE}/{_file_name(name)}"
    return Step(name, (*command, "-o", f"cache_dir={cache}", *arguments), is_pytest=True)


def _file_name(name: str) -> str:
    return name.replace(" ", "-").replace(",", "")
