"""Where environments are: `NAME` is a link to the folder `NAME-<digest of what it was built from>`.

A new environment is built beside the old one, and then the link is moved in one step, so that one works at any time. The file
`built` in the folder is written last and marks it as complete. A process that uses an environment
(`bioengine_server.environments`) reads the link once and holds a shared lock on that file: an earlier folder is removed when
nobody holds its lock.

Environments of the project's first layout are folders `NAME` with a file `NAME.built` beside them; they are converted.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

STAMP = "built"
DIGITS = 12


def present(folder: Path, name: str) -> Path | None:
    """The environment `name` in `folder`, if it is complete and its Python still exists; otherwise None."""
    link = folder / name
    found = folder / os.readlink(link) if link.is_symlink() else link
    complete = (found / STAMP).is_file() if link.is_symlink() else earlier_stamp(folder, name).is_file() and found.is_dir()
    works = not (found / "pyvenv.cfg").exists() or (found / "bin" / "python").exists()
    return found if complete and works else None


def earlier_stamp(folder: Path, name: str) -> Path:
    """The file that marked an environment as complete in the first layout."""
    return folder / f"{name}.built"


def new_place(folder: Path, name: str, digest: str) -> Path:
    """An unused path for a build with this digest."""
    first = folder / f"{name}-{digest[:DIGITS]}"
    places = (first, *(first.with_name(f"{first.name}-{number}") for number in range(2, 100)))
    return next(place for place in places if not place.exists())


def is_of(place: Path, digest: str) -> bool:
    """Whether a folder of this layout was built with this digest."""
    return bool(re.fullmatch(rf".+-{digest[:DIGITS]}(-\d+)?", place.name))


def builds(folder: Path, name: str) -> list[Path]:
    """All folders of this layout for one environment, whether complete or not."""
    pattern = re.compile(rf"{re.escape(name)}-[0-9a-f]{{{DIGITS}}}(-\d+)?")
    return sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name) and path.is_dir() and not path.is_symlink())


def write_stamp(place: Path, built_for: str) -> None:
    beside = place / f".{STAMP}"
    beside.write_text(json.dumps({"built for": built_for}) + "\n")
    beside.replace(place / STAMP)


def use(folder: Path, name: str, place: Path) -> None:
    """Make `name` a link to `place`, in one atomic step."""
    link = folder / f".{name}.link"
    link.unlink(missing_ok=True)
    link.symlink_to(place.name)
    link.replace(folder / name)


def built_for(folder: Path, name: str) -> str | None:
    """The device that an environment was built for, `cpu` or `cuda`; None if there is no environment."""
    place = present(folder, name)
    if place is None:
        return None
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(json.loads((place / STAMP).read_text())["built for"])
    return "cuda" if "onnxruntime-gpu" in installed(place) else "cpu"


def remove_unused(folder: Path, name: str) -> list[Path]:
    """Remove builds that `name` no longer links to, and unfinished ones; returns those that stay because a process uses them."""
    link = folder / name
    current = os.readlink(link) if link.is_symlink() else ""
    used = []
    for place in builds(folder, name):
        if place.name == current:
            continue
        with _exclusively(place) as alone:
            if alone:
                (place / STAMP).unlink(missing_ok=True)  # first, so that a half removed environment is never used
                shutil.rmtree(place, ignore_errors=True)
            else:
                used.append(place)
    return used


@contextlib.contextmanager
def _exclusively(place: Path) -> Iterator[bool]:
    """Whether no process uses an environment, and none can start to meanwhile."""
    try:
        descriptor = os.open(place / STAMP, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield not _is_mapped(place)
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield not _is_mapped(place)
    finally:
        os.close(descriptor)


def _is_mapped(place: Path) -> bool:
    """Whether a process of this user has its code in memory: one that was started by its path, or before there were locks."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if f" {place.resolve()}/" in maps.read_text(errors="replace"):
                return True
    return False


def take_over(folder: Path, name: str, digest: str | None) -> None:
    """Move an environment of the first layout to its place in this layout.

    Args:
        folder: the folder of all environments.
        name: the name of this environment.
        digest: the digest of what it was built from; None if it is out of date.
    """
    old, stamp = folder / name, earlier_stamp(folder, name)
    if old.is_symlink() or not old.is_dir():
        return
    if not stamp.is_file():
        old.rename(new_place(folder, name, "0" * DIGITS))  # an interrupted build, which will be removed
        return
    place = new_place(folder, name, digest or (stamp.read_text() + "0" * DIGITS))
    write_stamp(old, built_for(folder, name) or "cpu")
    # Its scripts name Python by the old path, which the link still leads to while this environment is in use.
    old.rename(place)
    use(folder, name, place)
    stamp.unlink()


def has_what_is_named(place: Path, sources: tuple[Path, ...]) -> bool:
    """Whether an environment contains every package in these files, in a version that they name."""
    locks = [source for source in sources if source.suffix in (".lock", ".txt")]
    if not locks:  # npm packages: the environment contains copies of these files
        return all((place / file.name).is_file() and (place / file.name).read_bytes() == file.read_bytes() for file in sources)
    if (place / "pyvenv.cfg").exists() and os.path.realpath(place / "bin" / "python") != os.path.realpath(sys.executable):
        return False
    found = installed(place)
    for lock in locks:
        wanted: dict[str, list[str]] = {}
        optional: set[str] = set()
        for name, version, condition in re.findall(r"^([\w.-]+)==([\w.+!-]+)( *;)?", lock.read_text(), re.MULTILINE):
            wanted.setdefault(_normal(name), []).append(version)
            if condition:
                optional.add(_normal(name))
        for name, versions in wanted.items():
            # A package with a single, conditional line may be for another Python; of several lines, one is for this Python.
            may_lack = name in optional and len(versions) == 1
            if found.get(name) not in versions and not (may_lack and name not in found):
                return False
    return True


def installed(place: Path) -> dict[str, str]:
    """The packages in an environment, or in a folder of packages, with their versions without the local part (`+cpu`)."""
    described = (*place.glob("lib/python3.*/site-packages/*.dist-info"), *place.glob("wheel/*.dist-info"))
    pairs = (file.name.removesuffix(".dist-info").rpartition("-") for file in described)
    return {_normal(name): version.partition("+")[0] for name, _, version in pairs}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
