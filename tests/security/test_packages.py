"""Hostile packages: what an ONNX file reads, what a description says of itself, and what reading it costs."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bioengine_server.errors import BadId, InvalidPackage, NotAPackage, StoreError
from bioengine_server.settings import Settings
from bioengine_server.stack import install_shipped_models
from bioengine_server.store import reader
from bioengine_server.store.external_data import RefusedWeights
from bioengine_server.store.model_store import ModelStore
from bioengine_server.store.names import SHIPPED_PACKAGES, NameTaken, ReservedName
from bioengine_server.untrusted import shown

from tests.stack.harness import ROOT, bioengine, python

ID = "conscientious-seashell"


def edited(package: Path, folder: Path, change: Callable[[dict[str, Any]], object], **files: bytes) -> Path:
    """A copy of a package with another description, and other files."""
    copy = Path(shutil.copytree(package, folder / f"copy-{len(list(folder.glob('copy-*')))}" / package.name))
    for name, content in files.items():
        (copy / name.replace("__", ".")).write_bytes(content)
    rdf = yaml.safe_load((copy / "rdf.yaml").read_text())
    change(rdf)
    (copy / "rdf.yaml").write_text(yaml.safe_dump(rdf, sort_keys=False))
    return copy


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home" / "models", triton_models=tmp_path / "home" / "triton-models")


# External data of ONNX


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    subprocess.run([python("runner"), "-m", "tests.security.onnx_variants", str(folder)], cwd=ROOT, check=True)
    return folder


PLACES = (
    "initializer", "attribute", "attribute-list", "sparse", "sparse-indices", "sparse-attribute", "sparse-attributes", "subgraph",
    "subgraph-deep", "subgraph-list", "subgraph-initializer", "function", "function-default", "training", "training-start",
    "unmarked",
)  # fmt: skip


def with_onnx(packages: Path, tmp_path: Path, content: bytes, external: str = "", data: bytes | None = bytes(8)) -> Path:
    """A package whose ONNX file is `content`, with `data` beside it, which is declared where `external` names it."""

    def change(rdf: dict[str, Any]) -> None:
        entry = {"source": "weights.onnx", "sha256": hashlib.sha256(content).hexdigest(), "opset_version": 17}
        rdf["weights"] = {"onnx": {**entry, **({"external_data": {"source": external}} if external else {})}}

    return edited(packages / ID, tmp_path, change, weights__onnx=content, **({} if data is None else {"outside__data": data}))


@pytest.mark.parametrize("place", PLACES)
def test_external_data_must_be_declared(packages: Path, variants: Path, store: ModelStore, tmp_path: Path, place: str) -> None:
    content = (variants / f"{place}.onnx").read_bytes()
    with pytest.raises(RefusedWeights) as caught:
        store.import_package(with_onnx(packages, tmp_path, content))
    message = str(caught.value)
    assert (
        "weights.onnx keeps tensors in 'outside.data', which lies beside it and which the description does not declare" in message
    )
    assert "external_data: {source: outside.data" in message
    with pytest.raises(RefusedWeights, match=r"'outside\.data', which the description does not declare"):
        store.import_package(with_onnx(packages, tmp_path, content, data=None))
    assert store.models() == []
    manifest = store.import_package(with_onnx(packages, tmp_path, content, external="outside.data")).manifest
    assert manifest.weights["onnx"].external_data == "outside.data"


@pytest.mark.parametrize("place", ["offset", "length", "negative"])
def test_external_data_must_be_in_its_file(packages: Path, variants: Path, store: ModelStore, tmp_path: Path, place: str) -> None:
    with pytest.raises(RefusedWeights, match="at a place that this file of 8 bytes does not have"):
        store.import_package(with_onnx(packages, tmp_path, (variants / f"{place}.onnx").read_bytes(), "outside.data"))


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../rdf.yaml", "a/../../x", "./x", "a//b", "..", "", "/proc/self/environ", "*/_ORT_MEM_ADDR_/*", "a\\..\\b",
     "weights.onnx/../../x", "\x00", "secrets/hypha-jwt"],
)  # fmt: skip
def test_external_data_leads_nowhere_else(
    packages: Path, variants: Path, store: ModelStore, tmp_path: Path, location: str
) -> None:
    content = (variants / "initializer.onnx").read_bytes()
    old, new = b"\x0a\x08location\x12\x0coutside.data", b"\x0a\x08location\x12" + bytes([len(location)]) + location.encode()
    assert content.count(old) == 1
    # The sizes of what is around it, from the inside out: entry, tensor, graph.
    start = content.index(old)
    tensor = bytes([0x08, 2, 0x10, 1, 0x42, 1]) + b"w" + bytes([0x6A, len(new)]) + new + bytes([0x70, 1])
    crafted = field(7, field(5, tensor))
    assert content[start - 1] == len(old)
    with pytest.raises(RefusedWeights):
        store.import_package(with_onnx(packages, tmp_path, crafted, "outside.data"))
    assert store.models() == []


def field(number: int, value: bytes) -> bytes:
    """A field of protobuf that holds a message."""
    return bytes([number << 3 | 2]) + varint(len(value)) + value


def varint(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80]) + varint(value >> 7) if value > 0x7F else bytes([value])


@pytest.mark.parametrize(
    "content",
    [b"", b"not a model", b"ORTM" + bytes(60), field(7, b"\xff" * 11), b"\x3a\xff\xff\xff\xff\x0f", b"\x3b\x08\x01\x3c",
     b"\x38\x01", b"\x80" * 1000],
)  # fmt: skip
def test_what_is_no_onnx_file(packages: Path, store: ModelStore, tmp_path: Path, content: bytes) -> None:
    with pytest.raises(RefusedWeights, match=r"weights\.onnx is not an ONNX file"):
        store.import_package(with_onnx(packages, tmp_path, content))


def test_an_onnx_file_of_endless_fields_and_depth_ends(packages: Path, store: ModelStore, tmp_path: Path) -> None:
    """Subgraphs in subgraphs, and 200 MB of the smallest fields that there are."""
    nested = b""
    for _ in range(150):
        nested = field(1, field(5, field(6, nested)))
    with pytest.raises(RefusedWeights, match="nested more than"):
        store.import_package(with_onnx(packages, tmp_path, field(7, nested)))
    started = time.monotonic()
    with pytest.raises(NotAPackage, match="takes too much time or memory to read"):
        store.import_package(with_onnx(packages, tmp_path, b"\x08\x01" * 100_000_000))
    assert time.monotonic() - started < 100
    assert store.import_package(packages / "old-otter").is_default, "and the next one is read"


def test_external_data_of_format_0_4_is_an_attachment(packages: Path, variants: Path, store: ModelStore, tmp_path: Path) -> None:
    content = (variants / "initializer.onnx").read_bytes()

    def change(rdf: dict[str, Any]) -> None:
        rdf["weights"] = {"onnx": {"source": "weights.onnx", "sha256": hashlib.sha256(content).hexdigest()}}
        rdf["attachments"] = {"files": ["outside.data"]}

    package = edited(packages / "old-otter", tmp_path, change, weights__onnx=content, outside__data=bytes(8))
    weights = store.import_package(package).manifest.weights["onnx"]
    assert weights.external_data == "outside.data", "so the runner verifies it before it loads the weights"
    package = edited(packages / "old-otter", tmp_path, lambda rdf: change(rdf) or rdf.pop("attachments"), weights__onnx=content)
    with pytest.raises(RefusedWeights, match="among the `attachments`"):
        store.import_package(package)


# Names


def named(packages: Path, tmp_path: Path, base: str = "old-otter", **names: Any) -> Path:
    """The package `base` with another content, which says that it has these names."""

    def change(rdf: dict[str, Any]) -> None:
        rdf.pop("id", None)
        rdf["name"] = "another package"
        rdf.update({key: value for key, value in names.items() if key in ("id", "version")})
        rdf["config"] = {"bioimageio": {key: value for key, value in names.items() if key in ("nickname", "doi")}}

    return edited(packages / base, tmp_path, change)


def aliases(store: ModelStore) -> dict[str, str]:
    return dict(json.loads((store.folder / "aliases.json").read_text()))


def test_a_name_changes_its_meaning_by_replace_alone(packages: Path, store: ModelStore, tmp_path: Path) -> None:
    store.import_package(packages / ID)
    before = aliases(store)
    content = store.find(ID).manifest.files
    for package, id in (
        (named(packages, tmp_path, nickname=ID), None),
        (named(packages, tmp_path, id=ID, version="1.0.0"), None),
        (named(packages, tmp_path, nickname=ID, version="9.9"), None),
        (packages / "two-inputs", ID),
    ):
        with pytest.raises(NameTaken, match=r"--replace .*--id ID"):
            store.import_package(package, id)
        assert aliases(store) == before and store.find(ID).manifest.files == content
    store.import_package(packages / ID)
    assert aliases(store) == before, "the same content again is fine"
    replacing = named(packages, tmp_path, nickname=ID, version="9.9")
    assert store.import_package(replacing, replace=True).is_default
    assert aliases(store)[ID] == f"{ID}/9.9" and store.find(f"{ID}/1.0.0").manifest.files == content


def test_claimed_names_of_others_are_not_taken_and_are_told(packages: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    store = ModelStore(home / "models")
    doi = "10.5281/zenodo.1234567"
    store.import_package(named(packages, tmp_path, ID, nickname="calm-seashell", doi=doi))
    thief = named(packages, tmp_path, nickname="thief", id="calm-seashell", doi=f"{doi}/7", version="3")
    said = bioengine("models", "import", str(thief), "--replace", "--home", str(home))
    assert said.returncode == 0, said.stderr
    assert f"not called {doi}, calm-seashell, as it says itself" in said.stdout
    assert f"also called: {doi}/7" in said.stdout, "what is free is taken, and said"
    for name in ("calm-seashell", doi):
        assert store.find(name).manifest.id == "calm-seashell"


SHIPPED = [*(package.name for package in SHIPPED_PACKAGES.iterdir()), "bench-echo", "Drawn-Nuclei", "BIOENGINE-PROBE"]


@pytest.mark.parametrize("id", SHIPPED)
def test_shipped_ids_are_reserved(packages: Path, store: ModelStore, tmp_path: Path, id: str) -> None:
    for package, given in (
        (named(packages, tmp_path, nickname=id), None),
        (named(packages, tmp_path, id=id, version="99"), None),
        (packages / "old-otter", id),
    ):
        for replace in (False, True):
            with pytest.raises(ReservedName, match="is reserved for a model that comes with this server"):
                store.import_package(package, given, replace=replace)
    model = store.import_package(named(packages, tmp_path, nickname="innocent", id=id, version="1"))
    assert model.refused == (id,) and id not in aliases(store)


def test_a_shipped_package_may_be_imported_as_what_it_is(store: ModelStore, tmp_path: Path) -> None:
    """Such as one that was exported from another machine."""
    for package in SHIPPED_PACKAGES.iterdir():
        store.import_package(package)
    store.export(store.find("drawn-nuclei"), tmp_path / "drawn.zip")
    assert ModelStore(tmp_path / "other").import_package(tmp_path / "drawn.zip").manifest.id == "drawn-nuclei"


def test_what_took_a_shipped_id_before_is_put_right_at_the_start(packages: Path, tmp_path: Path) -> None:
    """A store in which a hostile package is the probe, an older version, and a name."""
    settings = Settings(home=tmp_path / "home")
    store = ModelStore(settings.store)
    install_shipped_models(settings)
    before = aliases(store)
    impostor = store.import_package(packages / "old-otter", "impostor").folder
    for place in ("bioengine-probe/1.0.0", "bioengine-probe/99", "Drawn-nuclei/1.0.0"):
        shutil.rmtree(store.folder / place, ignore_errors=True)
        shutil.copytree(impostor, store.folder / place)
        document = json.loads((store.folder / place / "model.json").read_text())
        document["id"], document["version"] = place.split("/")
        (store.folder / place / "model.json").write_text(json.dumps(document))
    stolen = {
        "bioengine-probe": "bioengine-probe/99",
        "bioengine-probe/99": "bioengine-probe/99",
        "Drawn-nuclei": "Drawn-nuclei/1.0.0",
        "Drawn-nuclei/1.0.0": "Drawn-nuclei/1.0.0",
        "drawn-nuclei": "impostor/1.0.0",
    }
    (store.folder / "aliases.json").write_text(json.dumps({**aliases(store), **stolen}))
    install_shipped_models(settings)
    found = aliases(store)
    assert {name: place for name, place in found.items() if "impostor" not in place} == before
    for package in SHIPPED_PACKAGES.iterdir():
        stored = store.find(package.name)
        for file in stored.manifest.files:
            assert (stored.folder / file).read_bytes() == (package / file).read_bytes()
    assert sorted(path.name for path in store.folder.iterdir() if path.is_dir()) == [
        "bioengine-probe",
        "drawn-nuclei",
        "impostor",
    ]


def test_a_start_with_what_is_there_reads_no_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path / "home")
    install_shipped_models(settings)
    monkeypatch.setattr(reader, "_ask", lambda *_, **__: pytest.fail("a description was read"))
    started = time.monotonic()
    install_shipped_models(settings)
    assert time.monotonic() - started < 0.5


@pytest.mark.parametrize(
    "id", ["bioengine-model-runner", "Bioengine-Model-Runner", "10.5281", "a--onnx", "../x", "a/b", "x\n", "a b", ""]
)
def test_ids_that_would_be_something_else(packages: Path, store: ModelStore, tmp_path: Path, id: str) -> None:
    """The router's own name, another's version or weights, half of a DOI whose other half would be the version."""
    with pytest.raises(BadId):
        store.import_package(packages / "old-otter", id)
    if "/" not in id and id:
        with pytest.raises(BadId):
            store.import_package(named(packages, tmp_path, nickname=id, version="zenodo.5869899"))
    assert store.models() == []


def test_names_that_differ_in_their_case_alone(packages: Path, store: ModelStore, tmp_path: Path) -> None:
    store.import_package(packages / ID)
    for replace in (False, True):
        with pytest.raises(NameTaken, match="differs in nothing but its case"):
            store.import_package(packages / "old-otter", ID.title(), replace=replace)


def test_names_of_the_admins_triton_models(packages: Path, store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "home" / "triton-models" / "cellpose-python").mkdir(parents=True)
    with pytest.raises(NameTaken, match="a Triton model of this server's admin"):
        store.import_package(packages / "old-otter", "cellpose-python", replace=True)


# What reading a description costs

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)
)
MERGES = "m0: &m0 {a: 1}\n" + "".join(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 10)}], k{n}: 1}}\n" for n in range(1, 30))
BOMBS = {
    "aliases": LAUGHS,
    "merges": MERGES,
    "itself": "a: &a [*a]\n",
    "deep lists": "a: " + "[" * 100_000,
    "deep maps": "".join(" " * n + "a:\n" for n in range(1000)),
    "deep and closed": "a: " + "[" * 5000 + "]" * 5000,
    "many values": "a: [" + "0," * 499_000 + "]",
    "many lists": "a: [" + "[]," * 330_000 + "]",
    "a long number": "a: " + "9" * 900_000,
    "a long number with colons": "a: " + ":".join(["59"] * 300_000),
    "a bad date": "a: 2026-99-99",
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
    import psutil

    return sum(child.memory_info().rss for child in psutil.Process().children(recursive=True))


async def test_many_at_once_wait_for_each_other(packages: Path) -> None:
    import psutil

    content = (packages / ID / "rdf.yaml").read_bytes()
    answers = await asyncio.gather(*(reader.apart(reader.read_raw, "x", content) for _ in range(100)))
    assert all(answer["id"] == ID for answer in answers)
    readers = [child for child in psutil.Process().children() if "reader_process" in " ".join(child.cmdline())]
    assert 1 <= len(readers) <= 2
    for process in readers:
        assert not {name for name in process.environ() if name.startswith("BIOENGINE_")}, "nor any secret"


async def test_a_reader_that_is_killed_is_started_again(packages: Path) -> None:
    import psutil

    content = (packages / ID / "rdf.yaml").read_bytes()
    await reader.apart(reader.read_raw, "x", content)
    readers = [child for child in psutil.Process().children() if "reader_process" in " ".join(child.cmdline())]
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
