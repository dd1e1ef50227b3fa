"""How much of the code the unit tests run: its lines, by room, of what coverage.py has recorded in both environments.

Tests that start a stack run far more, in processes that are not looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from coverage import Coverage

_CONFIG = "pyproject.toml"
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


def recorded(root: Path, records: Iterable[Path]) -> list[File]:
    """The files of the project, as these records of coverage.py have them; what one environment has not run, another may have."""
    together = Coverage(data_file=None, config_file=str(root / _CONFIG))
    together.combine([str(record) for record in records if record.exists()], keep=True)
    files = []
    for path in sorted(file for file in together.get_data().measured_files() if Path(file).is_relative_to(root)):
        _, lines, _, missed, _ = together.analysis2(path)
        if lines:
            files.append(File(Path(path).relative_to(root).as_posix(), len(lines), len(lines) - len(missed)))
    return files


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
