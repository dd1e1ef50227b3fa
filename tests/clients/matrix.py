"""The matrix of clients and calls: printed after the tests, and kept in docs/clients.md.

A test is a cell of it when it says so: `record_property("client", "<library and version>")`, `record_property("call", "<call>")`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from tests.stack.harness import ROOT

PAGE = ROOT / "docs" / "clients.md"
_BLOCK = re.compile(r"(?<=<!-- matrix: written by the tests -->\n).*?(?=<!-- end of the matrix -->)", re.DOTALL)


@dataclass
class Matrix:
    """Calls that passed, by client; both in order of their tests."""

    passed: dict[str, set[str]] = field(default_factory=dict)
    failed: dict[str, set[str]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    @classmethod
    def of_reports(cls, reports: Iterable[pytest.TestReport]) -> Matrix:
        matrix = cls()
        for report in reports:
            said = dict(report.user_properties)
            if "client" in said and "call" in said and (report.when == "call" or report.failed):
                cells = matrix.passed if report.passed else matrix.failed
                cells.setdefault(str(said["client"]), set()).add(str(said["call"]))
                if said["call"] not in matrix.calls:
                    matrix.calls.append(str(said["call"]))
        return matrix

    @classmethod
    def of_docs(cls) -> Matrix:
        block = _BLOCK.search(PAGE.read_text())
        assert block is not None, f"{PAGE} has no place for the matrix"
        header, _, *rows = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in block[0].strip().splitlines()]
        calls = header[1:]
        return cls({name: {call for call, cell in zip(calls, cells) if cell == "yes"} for name, *cells in rows}, calls=calls)

    def __bool__(self) -> bool:
        return bool(self.passed or self.failed)

    def text(self) -> str:
        """As a table in Markdown."""
        clients = sorted({*self.passed, *self.failed})
        rows = [["client", *self.calls], ["---"] * (len(self.calls) + 1)]
        rows += [[client, *(self._cell(client, call) for call in self.calls)] for client in clients]
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)

    def _cell(self, client: str, call: str) -> str:
        if call in self.failed.get(client, ()):
            return "FAILED"
        return "yes" if call in self.passed.get(client, ()) else ""

    def write(self) -> None:
        PAGE.write_text(_BLOCK.sub(lambda _: self.text(), PAGE.read_text()))

    def differences(self, docs: Matrix, all_ran: bool) -> list[str]:
        """What the docs say otherwise, a line for each client. `all_ran`: whether every test of these clients ran."""
        found = []
        for client, calls in self.passed.items():
            written = docs.passed.get(client, set())
            if new := calls - written:
                found.append(f"{client}: not in the docs: {', '.join(sorted(new))}")
            if all_ran and (gone := written - calls):
                found.append(f"{client}: in the docs and did not pass: {', '.join(sorted(gone))}")
        return found
