"""What all client tests share: the stack, clients that offer a service to those under test, and the matrix that they make."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.clients.matrix import PAGE, Matrix
from tests.stack.conftest import filled_home, stack, token_stack  # noqa: F401  # fixtures
from tests.stack.harness import ROOT, Stack, python


@pytest.fixture(scope="session")
def peers(stack: Stack) -> Iterator[dict[str, dict[str, str]]]:  # noqa: F811  # the fixture
    """A connected client of each generation that offers a service; by library.

    Others offer one with the name of the server's own, in their workspaces.
    """
    processes = {
        (library, service): subprocess.Popen(
            [python(f"client-{library}"), str(ROOT / "tests" / "clients" / "peer.py"), library, stack.url, service],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for library in ("imjoy", "hypha")
        for service in ("peer", "triton-client")
    }
    offers = {key: json.loads(process.stdout.readline()) for key, process in processes.items() if process.stdout}
    yield {library: offer for (library, service), offer in offers.items() if service == "peer"}
    for process in processes.values():
        assert process.stdin
        process.stdin.close()
    for process in processes.values():
        process.wait(30)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-matrix", action="store_true", help=f"write the matrix of clients and calls to {PAGE.name}")


def _reporter(config: pytest.Config) -> pytest.TerminalReporter:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    assert isinstance(reporter, pytest.TerminalReporter)
    return reporter


def _matrix(reporter: pytest.TerminalReporter) -> Matrix:
    reports = [report for status in ("passed", "failed", "error") for report in reporter.getreports(status)]
    return Matrix.of_reports(reports)


def _differences(config: pytest.Config, matrix: Matrix) -> list[str]:
    all_ran = not config.option.keyword and not any("::" in argument for argument in config.args)
    return matrix.differences(Matrix.of_docs(), all_ran)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if matrix := _matrix(terminalreporter):
        terminalreporter.section("clients and calls")
        terminalreporter.write(matrix.text())
        for difference in _differences(config, matrix):
            terminalreporter.write_line(f"docs/{PAGE.name} is not up to date (--write-matrix writes it): {difference}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if not (matrix := _matrix(_reporter(session.config))):
        return
    if session.config.option.write_matrix and not matrix.failed:
        matrix.write()
    if _differences(session.config, matrix):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
