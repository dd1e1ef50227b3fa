"""Settings in files: `bioengine.env` in the home, and `/etc/bioengine.env` for the machine.

A line is `NAME=value`, as in `.env`; `#` begins a comment, quotes around a value are taken off, nothing in it is replaced. Flags
win over the environment, the environment over the home's file, that over the machine's. The standard library only: the launcher
(`deploy/environments.py`) reads them before anything is installed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bioengine_server.errors import StackError
from bioengine_server.private_folder import others_may

LOCATION = "BIOENGINE_SETTINGS"
"""Names another file than the machine's; empty: none."""

MACHINE_FILE = "/etc/bioengine.env"
HOME_FILE = "bioengine.env"
DEFAULT_HOME = "~/.bioengine"

_MAX_LINKS = 40  # as Linux follows

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(.*)")
_QUOTED = re.compile(r"""(["'])(.*?)\1\s*(?:#.*)?""")


class SettingsFileRefused(StackError):
    """A settings file is refused; the message says why, and what to do."""

    code = "settings_file_refused"


@dataclass(frozen=True)
class SettingsFile:
    path: Path
    values: Mapping[str, str]


@dataclass(frozen=True)
class FileSettings:
    """The content of the files. `files`: those that were read, by priority. `unreadable`: those without read permission."""

    home: Path
    files: tuple[SettingsFile, ...]
    unreadable: tuple[Path, ...]

    def get(self, name: str) -> str | None:
        """A setting's value, for use if neither a flag nor the environment has one."""
        return next((file.values[name] for file in self.files if name in file.values), None)

    def source(self, name: str) -> Path | None:
        """The file that contains a setting."""
        return next((file.path for file in self.files if name in file.values), None)


def read_settings_files(home: Path | str | None = None) -> FileSettings:
    """Read the settings files. Raises SettingsFileRefused.

    Args:
        home: the flag's value; None for the home in the environment, in the machine's file, or the default.
    """
    location = os.environ.get(LOCATION, MACHINE_FILE)
    unreadable: list[Path] = []
    machine = _read(Path(location).expanduser().absolute(), unreadable) if location else None
    named = home or os.environ.get("BIOENGINE_HOME") or (machine.values.get("BIOENGINE_HOME") if machine else "") or DEFAULT_HOME
    try:
        folder = Path(os.path.abspath(Path(named).expanduser()))
    except RuntimeError:  # as in a container with a user who is in no list
        raise SettingsFileRefused(
            f"There is no folder {named}: this user has no home folder. Give another one, with --home or BIOENGINE_HOME."
        ) from None
    own = _read(folder / HOME_FILE, unreadable)
    return FileSettings(folder, tuple(file for file in (own, machine) if file is not None), tuple(unreadable))


def _read(path: Path, unreadable: list[Path]) -> SettingsFile | None:
    try:
        with open(path, encoding="utf-8") as file:
            _check_safe(path, os.fstat(file.fileno()))
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        unreadable.append(path)
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise SettingsFileRefused(f"The settings file {path} cannot be read: {reason}.") from None
    return SettingsFile(path, _values(path, text))


def _check_safe(path: Path, found: os.stat_result) -> None:
    """Check that only root and this user can write the file, because it decides what is run and who has access."""
    if not stat.S_ISREG(found.st_mode):
        raise SettingsFileRefused(
            f"The settings file {path} is not used, because it is not a file. Remove it, or replace it by a file."
        )
    if found.st_uid not in (0, os.getuid()):
        raise SettingsFileRefused(
            f"The settings file {path} is not used: it belongs to another user (number {found.st_uid}). Run the command as that "
            f"user, or take over the file: sudo chown {os.getuid()} '{path}'"
        )
    if others_may(found) & 0o022:
        raise SettingsFileRefused(f"The settings file {path} is not used: others can write to it. chmod go-w '{path}'")
    for folder in _folders(path):
        _check_safe_folder(path, folder)


def _folders(path: Path) -> Iterator[Path]:
    """The folder of the file; if the file is a link, also the folders that the link leads through, and that of its target."""
    yield path.parent
    for _ in range(_MAX_LINKS):
        if not path.is_symlink():
            break
        path = path.parent / os.readlink(path)
        yield path.parent


def _check_safe_folder(path: Path, folder: Path) -> None:
    """Check a folder, because its owner, and users who can write to it, could replace the file. Raises SettingsFileRefused."""
    found = folder.stat()
    others = f"The settings file {path} is not used: others can replace it, since"
    if found.st_uid not in (0, os.getuid()):
        raise SettingsFileRefused(
            f"{others} the folder {folder} belongs to another user (number {found.st_uid}). Move the file to a folder of your "
            f"own, or run the command as that user."
        )
    if found.st_mode & stat.S_ISVTX and others_may(found) & 0o022:
        raise SettingsFileRefused(f"{others} everybody has files in {folder}. Move it to a folder of your own.")
    if others_may(found) & 0o022:
        raise SettingsFileRefused(f"{others} they can write to its folder. chmod go-w '{folder}'")


def _values(path: Path, text: str) -> dict[str, str]:
    values = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not (line := line.strip()) or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        value = _value(found[2]) if found else None
        if found is None or value is None:
            raise SettingsFileRefused(f"{path}, line {number}: expected NAME=value, such as BIOENGINE_PORT=9520.")
        values[found[1]] = value
    return values


def _value(text: str) -> str | None:
    """The value without quotes and comment; None if a quote is not closed, or followed by text."""
    if text.startswith(("'", '"')):
        quoted = _QUOTED.fullmatch(text)
        return quoted[2] if quoted else None
    return re.sub(r"(^|\s+)#.*", "", text).strip()
