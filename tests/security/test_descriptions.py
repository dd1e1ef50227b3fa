"""Hostile descriptions: what reading one costs, and what its words do to a terminal or a log."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from bioengine_server.store import reader
from bioengine_server.store.errors import InvalidPackage, NotAPackage, StoreError
from bioengine_server.store.model_store import ModelStore
from bioengine_server.untrusted import shown

from tests.security.edited import edited
from tests.stack.harness import bioengine

ID = "conscientious-seashell"


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home" / "models")


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)
)
MERGES = "m0: &m0 {a: 1}\n" + "".join(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 10)}], k{n}: 1}}\n" for n in range(1, 30))
BOMBS = {
    "aliases": LAUGHS,
    "merges": MERGES,
    "a long text": "a: &a " + "x" * 900_000 + "\nb: [" + ", ".join(["*a"] * 9000) + "]",
    "itself": "a: &a [*a]\n",
    "deep lists": "a: " + "[" * 100_000,
    "deep maps": "".join(" " * n + "a:\n" for n in range(1000)),
    "deep and closed": "a: " + "[" * 5000 + "]" * 5000,
    "many values": "a: [" + "0," * 499_000 + "]",
    "many lists": "a: [" + "[]," * 330_000 + "]",
    "a long number": "a: " + "9" * 900_000,
    "large": "a: " + "x" * 4_000_000,
    "not text": "\udcff",
    "a tag": "a: !!python/object/apply:os.system [touch /tmp/owned]",
    "empty": "",
    "half a character": 'a: "\\ud800"',
    "a list": "[1]",
    "another kind": "type: dataset",
}


@pytest.mark.parametrize("name", BOMBS)
async def test_descriptions_that_are_bombs(name: str) -> None:
    """Each gets its sentence soon, and the event loop never waits."""
    lag = asyncio.create_task(worst_lag())
    started = time.monotonic()
    with pytest.raises(NotAPackage) as caught:
        await reader.apart(reader.read_raw, "https://x.example/rdf.yaml", BOMBS[name].encode("utf-8", "surrogateescape"))
    assert time.monotonic() - started < 15 and len(str(caught.value)) < 600
    assert await stopped(lag) < 0.5


async def test_what_looks_like_a_number_or_a_date_is_text() -> None:
    """As bioimageio.spec's version of YAML has it, however long it is."""
    colons = ":".join(["59"] * 300_000)
    text = f"colons: {colons}\ndate: 2026-99-99\n"
    raw = await reader.apart(reader.read_raw, "https://x.example/rdf.yaml", text.encode())
    assert raw == {"colons": colons, "date": "2026-99-99"}


@pytest.mark.parametrize(
    "more",
    [
        {"tags": [f"x{number}" for number in range(40_000)]},
        {"authors": [{"name": f"x{number}", "orcid": "0"} for number in range(15_000)]},
        {"inputs": [{"id": f"i{number}", "axes": [{"type": "batch"}], "test_tensor": {"source": "x"}} for number in range(6000)]},
    ],
    ids=lambda value: next(iter(value)),
)
async def test_validation_keeps_nobody_waiting(packages: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    """Of descriptions of some hundred kB that are valid YAML and far from what anybody writes; the next one is read as ever."""
    package = edited(packages / ID, tmp_path, lambda rdf: rdf.update(more))
    lag = asyncio.create_task(worst_lag())
    started = time.monotonic()
    with contextlib.suppress(StoreError):
        await asyncio.to_thread(ModelStore(tmp_path / "models").import_package, package)
    assert time.monotonic() - started < 60
    assert await stopped(lag) < 0.5
    assert (await asyncio.to_thread(ModelStore(tmp_path / "models").import_package, packages / "old-otter")).is_default


@pytest.mark.extended
async def test_memory_of_reading_is_bounded() -> None:
    """JSON that is small and becomes much; the process that read it is gone or small, and the next answer right."""
    before = children_memory()
    content = b"[" + b"[]," * 20_000_000 + b"[]]"
    with pytest.raises(NotAPackage, match=r"takes too much|too much memory"):
        await reader.apart(reader.look_up, "map", content, ["x"])
    assert await reader.apart(reader.look_up, "map", b'{"x": {"source": "https://x.example"}}', ["x", "y"]) == {
        "x": "https://x.example"
    }
    assert children_memory() < before + 300_000_000


def children_memory() -> int:
    held = 0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            held += child.memory_info().rss
    return held


def reading_children() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [child] if "reader_process" in " ".join(child.cmdline()) else []
    return found


async def test_many_at_once_wait_for_each_other(packages: Path) -> None:
    content = (packages / ID / "rdf.yaml").read_bytes()
    answers = await asyncio.gather(*(reader.apart(reader.read_raw, "x", content) for _ in range(100)))
    assert all(answer["id"] == ID for answer in answers)
    readers = reading_children()
    assert 1 <= len(readers) <= 2
    for process in readers:
        assert not {name for name in process.environ() if name.startswith("BIOENGINE_")}, "nor any secret"


async def test_a_reader_that_is_killed_is_started_again(packages: Path) -> None:
    content = (packages / ID / "rdf.yaml").read_bytes()
    await reader.apart(reader.read_raw, "x", content)
    readers = reading_children()
    assert readers
    for process in readers:
        process.kill()
    await asyncio.sleep(0.2)
    for _ in range(4):
        assert (await reader.apart(reader.read_raw, "x", content))["id"] == ID


async def worst_lag() -> float:
    """How long the event loop let a task wait that wants nothing, in seconds, until it is cancelled."""
    worst = 0.0
    try:
        while True:
            started = time.monotonic()
            await asyncio.sleep(0.01)
            worst = max(worst, time.monotonic() - started - 0.01)
    except asyncio.CancelledError:
        return worst


async def stopped(task: asyncio.Task[float]) -> float:
    await asyncio.sleep(0.05)
    task.cancel()
    return await task


# What a package's own words do to a terminal or a log

EVIL = "\x1b[2J\x1b]0;owned\x07[red]red[/red]\u202e\nINFO forged line\r[/bold][link=https://evil.example]x[/link]\x9b31m"


def test_shown() -> None:
    text = shown(EVIL, 500)
    assert text.isprintable() and "\\x1b[2J" in text and "\\nINFO" in text
    assert shown("x" * 100) == "x" * 79 + "…" and shown("\x00" * 50, 20).endswith("…") and len(shown("\x00" * 50, 20)) == 20
    assert shown("Größe 5 µm, 核") == "Größe 5 µm, 核"


@pytest.fixture
def evil_home(packages: Path, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    def change(rdf: dict[str, Any]) -> None:
        rdf.update(name=EVIL.replace("\n", " "), description=EVIL, documentation="README.md")

    yield edited(packages / "old-otter", tmp_path, change), tmp_path / "home"


@pytest.mark.extended
def test_the_command_line_shows_no_escapes(evil_home: tuple[Path, Path]) -> None:
    package, home = evil_home
    outputs = [
        bioengine("models", *arguments, "--home", str(home))
        for arguments in (
            ["import", str(package)],
            ["list"],
            ["show", "old-otter"],
            ["export", "old-otter", "-o", f"{home}/x.zip"],
        )
    ]
    for run in outputs:
        text = run.stdout + run.stderr
        assert not set(text) & set("\x1b\x07\x9b\u202e\r"), repr(text)
    assert any("[red]red[/red]" in run.stdout for run in outputs), "markup is text"
    assert not any(line.startswith("INFO forged") for run in outputs for line in run.stdout.splitlines())


@pytest.mark.parametrize("where", ["folder", "rdf"])
def test_errors_show_no_escapes(packages: Path, tmp_path: Path, where: str) -> None:
    name = "\x1b[31mevil\nINFO forged"
    if where == "folder":
        package = edited(packages / "old-otter", tmp_path, lambda rdf: None)
        (package / name).symlink_to("/etc/passwd")
    else:
        package = edited(packages / "old-otter", tmp_path, lambda rdf: rdf.update(type=name))
    run = bioengine("models", "import", str(package), "--home", str(tmp_path / "home"))
    assert run.returncode == 1 and "\x1b" not in run.stderr and "\nINFO" not in run.stderr and "evil" in run.stderr


def test_invalid_descriptions_keep_their_message_short(packages: Path, store: ModelStore, tmp_path: Path) -> None:
    package = edited(packages / ID, tmp_path, lambda rdf: rdf.update(license="\x1b" + "x" * 100_000, authors=["\x1b"] * 500))
    with pytest.raises(InvalidPackage) as caught:
        store.import_package(package)
    assert len(str(caught.value)) < 9000 and "\x1b" not in str(caught.value)
