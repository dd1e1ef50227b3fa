"""The small packages, and skips: each is printed with its reason; one that the repository's list lacks fails the run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes depends on what else runs on the machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

os.environ["BIOENGINE_SETTINGS"] = ""  # the settings of this machine's own BioEngine are not the tests'
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # nor does ONNX Runtime report from them to its maker

_ALLOWED = {
    line for line in (Path(__file__).parent / "allowed-skips.txt").read_text().splitlines() if line and not line.startswith("#")
}


def _reason(report: pytest.TestReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("skipped"):
        allowed = "" if _reason(report) in _ALLOWED else "   <- not in tests/allowed-skips.txt"
        terminalreporter.write_line(f"SKIPPED {report.nodeid}: {_reason(report)}{allowed}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter and any(_reason(report) not in _ALLOWED for report in reporter.getreports("skipped")):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the small packages, one folder for each id."""
    from tests.stack.harness import build_packages  # of the server's environment alone

    folder = tmp_path_factory.mktemp("packages") / "all"
    build_packages(folder)
    return folder


@pytest.fixture(scope="session")
def all_kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with many more small packages, one for each kind of model that there is."""
    from tests.stack.harness import build_packages  # of the server's environment alone

    folder = tmp_path_factory.mktemp("packages") / "kinds"
    build_packages(folder, "--all-kinds")
    return folder
