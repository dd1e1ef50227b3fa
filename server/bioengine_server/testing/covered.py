"""How much of the code the unit tests run: its lines, by room, of what SlipCover has recorded in each environment.

Tests that start a stack run far more, in processes that are not looked at.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_LOW = 50  # percent; files below it are named
_DISTRIBUTIONS = {"contract": "contract", "model_runner": "model runner"}


@dataclass(frozen=True)
class File:
    """Lines of a file that do something, and of those that ran. `path`: below the project's folder, with slashes."""

    path: str
    lines: int
    ran: int

    @property
    def room(self) -> str:
        """The distribution, of the server the room: its subpackage, or `server` for the modules of the package itself."""
        distribution, _, *folders = self.path.split("/")[:-1]
        return _DISTRIBUTIONS.get(distribution) or next(iter(folders), "server")


def recorded(records: Iterable[Path]) -> list[File]:
    """The files of the project, as these records of SlipCover have them; what one environment has not run, another may have."""
    ran: defaultdict[str, set[int]] = defaultdict(set)
    known: defaultdict[str, set[int]] = defaultdict(set)
    for record in records:
        if not record.exists():
            continue
        for path, lines in json.loads(record.read_text())["files"].items():
            ran[path].update(lines["executed_lines"])
            known[path].update(lines["executed_lines"], lines["missing_lines"])
    return [File(path, len(lines), len(ran[path])) for path, lines in sorted(known.items()) if lines]


def table(files: Iterable[File]) -> str:
    """A line for each room, one for all, and the files of which less than half ran."""
    rooms: defaultdict[str, list[File]] = defaultdict(list)
    for file in files:
        rooms[file.room].append(file)
        rooms["all"].append(file)
    rows = [
        f"{room:<14}{_percent(there):>4} % of {sum(file.lines for file in there):>6,} lines" for room, there in _sorted(rooms)
    ]
    low = [f"  {file.path}: {_percent([file])} %" for file in rooms["all"] if _percent([file]) < _LOW]
    return "\n".join(["Run by the unit tests:", *rows, *([f"Less than {_LOW} %:", *low] if low else [])])


def _sorted(rooms: dict[str, list[File]]) -> list[tuple[str, list[File]]]:
    return sorted(rooms.items(), key=lambda item: (item[0] == "all", item[1][0].path))


def _percent(files: Sequence[File]) -> int:
    """Rounded down, so that 100 is all."""
    return 100 * sum(file.ran for file in files) // _lines(files)


def _lines(files: Sequence[File]) -> int:
    return sum(file.lines for file in files)
