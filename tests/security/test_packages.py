"""Hostile packages: what an ONNX file reads, and what a description says of its own names."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from bioengine_server.settings import Settings
from bioengine_server.store import reader
from bioengine_server.store.errors import BadId, NotAPackage
from bioengine_server.store.external_data import RefusedWeights
from bioengine_server.store.model_store import ModelStore
from bioengine_server.store.names import SHIPPED_PACKAGES, NameTaken, ReservedName
from bioengine_server.store.onnx_files import NotOnnx, external_tensors

from tests.security.edited import edited
from tests.stack.harness import ROOT, bioengine, python

ID = "conscientious-seashell"


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
    with pytest.raises(RefusedWeights, match="beyond the end of this file of 8 bytes"):
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


@pytest.mark.parametrize(
    "content",
    [
        b"\xba\x80\x80\x80\x10\x00",  # the tag of field 7, a graph, in more than 32 bits, which protobuf drops
        b"\xba\x80\x80\x80\x80\x01\x00",
        b"\xba\x80\x80\x80\x80\x80\x80\x80\x80\x01\x00",
        b"\xba\x00\x00",  # the same with zeros behind it
        b"\xba\x80\x80\x80\x00\x00",
        b"\x3a\x80\x00",  # a length with zeros behind it
        b"\x3a\x80\x80\x80\x80\x08",  # lengths of 2^31 and 2^32
        b"\x3a\x80\x80\x80\x80\x10",
    ],
)
def test_tags_and_lengths_that_readers_read_differently(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "weights.onnx"
    file.write_bytes(b"\x3a\x00" + b"\x08\x80\x80\x00")  # values that nobody enters may be as they like
    assert external_tensors(file) == set()
    file.write_bytes(content)
    with pytest.raises(NotOnnx, match="not written as protobuf writes it"):
        external_tensors(file)


@pytest.mark.extended
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

    def without_attachments(rdf: dict[str, Any]) -> None:
        change(rdf)
        del rdf["attachments"]

    package = edited(packages / "old-otter", tmp_path, without_attachments, weights__onnx=content)
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
    assert f"not called {doi}, calm-seashell, the name in its description" in said.stdout
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
            with pytest.raises(ReservedName, match="is reserved for a model that is bundled with this server"):
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
    ModelStore(settings.store).prepare()
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
    ModelStore(settings.store).prepare()
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
    ModelStore(settings.store).prepare()
    monkeypatch.setattr(reader, "_ask", lambda *_, **__: pytest.fail("a description was read"))
    started = time.monotonic()
    ModelStore(settings.store).prepare()
    assert time.monotonic() - started < 0.5


@pytest.mark.parametrize(
    "id", ["bioengine-model-runner", "Bioengine-Model-Runner", "10.5281", "a--onnx", "../x", "a/b", "x\n", "a b", ""]
)
def test_ids_that_would_be_something_else(packages: Path, store: ModelStore, tmp_path: Path, id: str) -> None:
    """The model runner's own name, another's version or weights, half of a DOI whose other half would be the version."""
    with pytest.raises(BadId):
        store.import_package(packages / "old-otter", id)
    if "/" not in id and id:
        with pytest.raises(BadId):
            store.import_package(named(packages, tmp_path, nickname=id, version="zenodo.5869899"))
    assert store.models() == []


def test_names_that_differ_in_their_case_alone(packages: Path, store: ModelStore, tmp_path: Path) -> None:
    store.import_package(packages / ID)
    for replace in (False, True):
        with pytest.raises(NameTaken, match="differs only in case"):
            store.import_package(packages / "old-otter", ID.title(), replace=replace)


def test_names_of_the_admins_triton_models(packages: Path, store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "home" / "triton-models" / "cellpose-python").mkdir(parents=True)
    with pytest.raises(NameTaken, match="a Triton model of this server's admin"):
        store.import_package(packages / "old-otter", "cellpose-python", replace=True)
