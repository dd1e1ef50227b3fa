"""Where environments stand: `NAME` is a link to the folder `NAME-<digest of what it was built from>`.

A new one is built beside and the link is moved in one step, so that there is one that works at any time. The file `built` in the
folder, written last, says that all of it is there. Whatever uses an environment (`bioengine_server.environments`) reads the link
once and holds a shared lock on that file: the earlier folder is removed when nobody does.

Environments of the project's first layout are folders `NAME` with a file `NAME.built` beside; they are taken over as they are.
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
    """The environment `name` that is in use in `folder`, complete and with a Python that is still there; None: there is none."""
    link = folder / name
    found = folder / os.readlink(link) if link.is_symlink() else link
    complete = (found / STAMP).is_file() if link.is_symlink() else earlier_stamp(folder, name).is_file() and found.is_dir()
    works = not (found / "pyvenv.cfg").exists() or (found / "bin" / "python").exists()
    return found if complete and works else None


def earlier_stamp(folder: Path, name: str) -> Path:
    """The stamp of the first layout."""
    return folder / f"{name}.built"


def new_place(folder: Path, name: str, digest: str) -> Path:
    """A path for a build of this digest, where nothing is."""
    first = folder / f"{name}-{digest[:DIGITS]}"
    places = (first, *(first.with_name(f"{first.name}-{number}") for number in range(2, 100)))
    return next(place for place in places if not place.exists())


def is_of(place: Path, digest: str) -> bool:
    """Whether a folder of this layout was built from what has this digest."""
    return bool(re.fullmatch(rf".+-{digest[:DIGITS]}(-\d+)?", place.name))


def builds(folder: Path, name: str) -> list[Path]:
    """All folders of this layout of one name, whether complete or not."""
    pattern = re.compile(rf"{re.escape(name)}-[0-9a-f]{{{DIGITS}}}(-\d+)?")
    return sorted(path for path in folder.iterdir() if pattern.fullmatch(path.name) and path.is_dir() and not path.is_symlink())


def write_stamp(place: Path, built_for: str) -> None:
    beside = place / f".{STAMP}"
    beside.write_text(json.dumps({"built for": built_for}) + "\n")
    beside.replace(place / STAMP)


def use(folder: Path, name: str, place: Path) -> None:
    """Have `name` mean `place`, from one moment to the next."""
    link = folder / f".{name}.link"
    link.unlink(missing_ok=True)
    link.symlink_to(place.name)
    link.replace(folder / name)


def built_for(folder: Path, name: str) -> str | None:
    """What an environment was built for, `cpu` or `cuda`; None where there is none."""
    place = present(folder, name)
    if place is None:
        return None
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(json.loads((place / STAMP).read_text())["built for"])
    return "cuda" if "onnxruntime-gpu" in installed(place) else "cpu"


def remove_unused(folder: Path, name: str) -> list[Path]:
    """Remove what is not meant by `name` any more, and what was never finished; returns what has to stay, since it is used."""
    link = folder / name
    current = os.readlink(link) if link.is_symlink() else ""
    used = []
    for place in builds(folder, name):
        if place.name == current:
            continue
        with _exclusively(place) as alone:
            if alone:
                (place / STAMP).unlink(missing_ok=True)  # first: half of it is never taken for all of it
                shutil.rmtree(place, ignore_errors=True)
            else:
                used.append(place)
    return used


@contextlib.contextmanager
def _exclusively(place: Path) -> Iterator[bool]:
    """Whether nobody uses an environment, nor can begin to meanwhile."""
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
    """Whether a process of ours has code of it in memory: one that was started by its path, or before there were locks."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if f" {place.resolve()}/" in maps.read_text(errors="replace"):
                return True
    return False


def take_over(folder: Path, name: str, digest: str | None) -> None:
    """Give an environment of the first layout its place in this one.

    Args:
        folder: of all environments.
        name: of this one.
        digest: of what it is built from; None where it is out of date.
    """
    old, stamp = folder / name, earlier_stamp(folder, name)
    if old.is_symlink() or not old.is_dir():
        return
    if not stamp.is_file():
        old.rename(new_place(folder, name, "0" * DIGITS))  # an interrupted build, to be removed
        return
    place = new_place(folder, name, digest or (stamp.read_text() + "0" * DIGITS))
    write_stamp(old, built_for(folder, name) or "cpu")
    # Its scripts name the Python of the path that it had: the link takes them there as long as it is the one in use.
    old.rename(place)
    use(folder, name, place)
    stamp.unlink()


def has_what_is_named(place: Path, sources: tuple[Path, ...]) -> bool:
    """Whether an environment has every package that these files name, in a version that they name."""
    locks = [source for source in sources if source.suffix in (".lock", ".txt")]
    if not locks:  # of npm, which has copies of its files
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
            # One with a condition alone may be for another Python; of several, one is for this.
            may_lack = name in optional and len(versions) == 1
            if found.get(name) not in versions and not (may_lack and name not in found):
                return False
    return True


def installed(place: Path) -> dict[str, str]:
    """The packages of an environment, or of a folder of packages in it, with their versions less the local part (`+cpu`)."""
    described = (*place.glob("lib/python3.*/site-packages/*.dist-info"), *place.glob("wheel/*.dist-info"))
    pairs = (file.name.removesuffix(".dist-info").rpartition("-") for file in described)
    return {_normal(name): version.partition("+")[0] for name, _, version in pairs}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
