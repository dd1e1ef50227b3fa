"""Downloads from a collection on loopback: right ones, and all that can go wrong."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bioengine_contract.ids import BadModelId, parse_model_id
from bioengine_contract.trust import code_of, trust_entry, usable_weights
from bioengine_server.access.caller import Caller
from bioengine_server.store.errors import (
    DownloadFailed,
    DownloadNotAllowed,
    NotAPackage,
    NotInCollection,
    Offline,
    StoreNotWritable,
)
from bioengine_server.store.model_store import ModelStore
from bioengine_server.store.names import NameTaken
from bioengine_server.store.service import StoreService

from tests.mirror import Mirror, cut, drip, endless, once, redirect, status, wrong

ID = "conscientious-seashell"
ANONYMOUS = Caller("somebody", "ws-anonymous", "client")
KNOWN = Caller("token-ada", "ws-user-token-ada", "client", token="0123456789abcdef")


@pytest.fixture
def mirror(packages: Path, tmp_path: Path) -> Iterator[Mirror]:
    with Mirror(Path(shutil.copytree(packages, tmp_path / "mirror"))) as running:
        yield running


def edit_rdf(mirror: Mirror, change: Any, id: str = ID) -> None:
    file = mirror.packages / id / "rdf.yaml"
    rdf = yaml.safe_load(file.read_text())
    change(rdf)
    file.write_text(yaml.safe_dump(rdf, sort_keys=False))


def leftovers(home: Path) -> list[str]:
    """What the store has besides its own files."""
    return [file.name for file in (home / "models").iterdir()]


async def test_a_package_is_downloaded_with_what_runs_it(mirror: Mirror, tmp_path: Path) -> None:
    edit_rdf(
        mirror,
        lambda rdf: rdf["weights"].update(
            tensorflow_js={"source": "weights.zip", "sha256": "0" * 64, "tensorflow_version": "2.0"}
        ),
    )
    seen: list[tuple[str, int, int | None]] = []
    config = mirror.settings(tmp_path / "home")
    await StoreService(config).fetch(ID, ANONYMOUS, progress=lambda *report: seen.append(report))
    model = ModelStore(config.store).find(ID)
    assert set(model.manifest.weights) == {"onnx", "torchscript"}
    assert model.manifest.unsupported_weights == ("tensorflow_js",) and mirror.count("weights.zip") == 0
    for file in ("weights.onnx", "weights.pt", "test_input.npy", "test_output.npy"):
        original = mirror.packages / ID / file
        if original.exists():
            assert (model.folder / file).read_bytes() == original.read_bytes()
    assert (model.folder / "rdf.yaml").read_bytes() == (mirror.packages / ID / "rdf.yaml").read_bytes()
    assert model.manifest.origin == f"{mirror.url}/artifacts/{ID}/files/rdf.yaml"
    assert any(done == total for _, done, total in seen)


async def test_all_who_wait_for_a_download_are_told(mirror: Mirror, tmp_path: Path) -> None:
    service = StoreService(mirror.settings(tmp_path / "home"))
    told: list[list[tuple[str, int, int | None]]] = [[], []]
    fetched = (service.fetch(ID, ANONYMOUS, progress=lambda *report, of=of: of.append(report)) for of in told)
    await asyncio.gather(*fetched)
    assert told[0] and told[0] == told[1] and service._listeners == {}


@pytest.mark.parametrize(
    ("id", "files"), [("state-dict-stork", ["network.py", "weights.pt"]), ("custom-crab", ["steps.py", "weights.onnx"])]
)
async def test_code_is_downloaded_as_data_where_nothing_runs_without_it(
    mirror: Mirror, tmp_path: Path, id: str, files: list[str]
) -> None:
    config = mirror.settings(tmp_path / "home")
    await StoreService(config).fetch(id, ANONYMOUS)
    pulled, imported = ModelStore(config.store).find(id), ModelStore(tmp_path / "other").import_package(mirror.packages / id)
    assert trust_entry(pulled.manifest) == trust_entry(imported.manifest) and set(files) < set(pulled.manifest.files)
    assert code_of(pulled.manifest) and not usable_weights(pulled.manifest, frozenset())


@pytest.mark.parametrize(
    ("formats", "fetched"),
    [
        (["keras_hdf5"], "keras_hdf5"),
        (["keras_hdf5", "tensorflow_saved_model_bundle"], "tensorflow_saved_model_bundle"),
        (["keras_hdf5", "pytorch_state_dict"], "pytorch_state_dict"),
    ],
)
async def test_weights_to_convert_are_downloaded_where_there_are_no_others(
    mirror: Mirror, tmp_path: Path, formats: list[str], fetched: str
) -> None:
    id = "state-dict-stork"
    sha256 = hashlib.sha256(b"not opened here").hexdigest()

    def change(rdf: dict[str, Any]) -> None:
        entries = {name: {"source": f"{name}.h5", "sha256": sha256, "tensorflow_version": "2.10"} for name in formats}
        rdf["weights"] = {name: rdf["weights"].get(name, entry) for name, entry in entries.items()}

    for name in formats:
        (mirror.packages / id / f"{name}.h5").write_bytes(b"not opened here")
    edit_rdf(mirror, change, id)
    config = mirror.settings(tmp_path / "home", environments=tmp_path / "none")
    await StoreService(config).fetch(id, ANONYMOUS)
    manifest = ModelStore(config.store).find(id).manifest
    assert list(manifest.weights) == [fetched] == [manifest.convertible]
    assert set(manifest.unsupported_weights) == set(formats) - {fetched}
    assert not usable_weights(manifest, frozenset())


async def test_an_architecture_of_format_0_4_is_downloaded(mirror: Mirror, tmp_path: Path) -> None:
    stork = yaml.safe_load((mirror.packages / "state-dict-stork" / "rdf.yaml").read_text())["weights"]["pytorch_state_dict"]
    for name in ("network.py", "weights.pt"):
        shutil.copy(mirror.packages / "state-dict-stork" / name, mirror.packages / "old-otter")
    state_dict = {
        **{key: stork[key] for key in ("source", "sha256", "pytorch_version")},
        "architecture": f"{mirror.url}/artifacts/old-otter/files/network.py:Network",
        "architecture_sha256": stork["architecture"]["sha256"],
        "kwargs": stork["architecture"]["kwargs"],
    }
    edit_rdf(mirror, lambda rdf: rdf.update(weights={"pytorch_state_dict": state_dict}), "old-otter")
    config = mirror.settings(tmp_path / "home")
    await StoreService(config).fetch("old-otter", ANONYMOUS)
    model = ModelStore(config.store).find("old-otter")
    assert {"network.py", "weights.pt"} < set(model.manifest.files) and set(model.manifest.weights) == {"pytorch_state_dict"}
    assert (
        yaml.safe_load((model.folder / "rdf.yaml").read_text())["weights"]["pytorch_state_dict"]["architecture"]
        == "network.py:Network"
    )


async def test_a_state_dict_beside_other_weights_is_not_downloaded(mirror: Mirror, tmp_path: Path) -> None:
    stork = yaml.safe_load((mirror.packages / "state-dict-stork" / "rdf.yaml").read_text())["weights"]["pytorch_state_dict"]
    edit_rdf(mirror, lambda rdf: rdf["weights"].update(pytorch_state_dict={**stork, "source": "state.pt"}))
    config = mirror.settings(tmp_path / "home")
    await StoreService(config).fetch(ID, ANONYMOUS)
    assert ModelStore(config.store).find(ID).manifest.unsupported_weights == ("pytorch_state_dict",)
    assert mirror.count("state.pt") == mirror.count("network.py") == 0


async def test_what_is_not_needed_and_not_there_stays_a_url(mirror: Mirror, tmp_path: Path) -> None:
    """So that the stored description names no file that the package lacks."""
    edit_rdf(mirror, lambda rdf: rdf.update(covers=["cover.png"], attachments={"files": ["paper.pdf"]}), "old-otter")
    config = mirror.settings(tmp_path / "home")
    await StoreService(config).fetch("old-otter", ANONYMOUS)
    model = ModelStore(config.store).find("old-otter")
    rdf, files = yaml.safe_load((model.folder / "rdf.yaml").read_text()), f"{mirror.url}/artifacts/old-otter/files"
    assert rdf["covers"] == model.manifest.rdf["covers"] == [f"{files}/cover.png"]
    assert rdf["attachments"] == {"files": [f"{files}/paper.pdf"]}


async def test_what_is_downloaded_is_exported_whole(mirror: Mirror, tmp_path: Path) -> None:
    """Without the weights that were not downloaded: on the other machine nothing is missing."""

    def change(rdf: dict[str, Any]) -> None:
        state_dict = {"source": "state.pt", "sha256": "0" * 64, "pytorch_version": "2.0", "architecture": {
            "callable": "Net", "source": "network.py", "sha256": "0" * 64
        }}  # fmt: skip
        rdf["weights"] |= {"pytorch_state_dict": state_dict}
        rdf["weights"]["torchscript"]["parent"] = "pytorch_state_dict"
        rdf["attachments"] = [{"source": "paper.pdf"}]

    edit_rdf(mirror, change)
    config = mirror.settings(tmp_path / "home")
    await StoreService(config).fetch(ID, ANONYMOUS)
    store = ModelStore(config.store)
    # As stores of before have it: by a path where nothing lies.
    description = store.find(ID).folder / "rdf.yaml"
    description.write_text(description.read_text().replace(f"{mirror.url}/artifacts/{ID}/files/paper.pdf", "paper.pdf"))
    store.export(store.find(ID), tmp_path / "out.zip")
    manifest = ModelStore(tmp_path / "other").import_package(tmp_path / "out.zip").manifest
    assert set(manifest.weights) == {"onnx", "torchscript"} and manifest.unsupported_weights == ()


async def test_tensors_of_onnx_among_the_attachments_are_downloaded(mirror: Mirror, tmp_path: Path) -> None:
    (mirror.packages / "old-otter" / "weights.onnx.data").write_bytes(b"x")
    edit_rdf(mirror, lambda rdf: rdf.update(attachments={"files": ["weights.onnx.data", "paper.pdf"]}), "old-otter")
    config = mirror.settings(tmp_path / "home")
    await StoreService(config).fetch("old-otter", ANONYMOUS)
    assert "weights.onnx.data" in ModelStore(config.store).find("old-otter").manifest.files
    assert mirror.count("paper.pdf") == 0


async def test_one_download_for_many(mirror: Mirror, tmp_path: Path) -> None:
    config = mirror.settings(tmp_path / "home")
    one, other = StoreService(config), StoreService(config)  # as in two processes
    await asyncio.gather(*(service.fetch(ID, ANONYMOUS) for service in (one, other) for _ in range(20)))
    assert mirror.count("weights.onnx") == 1


async def test_one_who_gives_up_does_not_end_it_for_the_others(mirror: Mirror, tmp_path: Path) -> None:
    service = StoreService(mirror.settings(tmp_path / "home"))
    first, second = (asyncio.create_task(service.fetch(ID, ANONYMOUS)) for _ in range(2))
    await asyncio.sleep(0.05)
    first.cancel()
    await second
    assert mirror.count("weights.onnx") == 1


async def test_a_description_alone_fetches_no_weights(mirror: Mirror, tmp_path: Path) -> None:
    service = StoreService(mirror.settings(tmp_path / "home"))
    manifest = await service.describe(ID, ANONYMOUS)
    assert manifest.triton_config["input"][0]["dims"] == [-1, 3, -1, -1] and manifest.rdf["inputs"][0]["axes"] == "bcyx"
    files = f"{mirror.url}/artifacts/{ID}/files"
    assert manifest.rdf["test_inputs"] == manifest.rdf["sample_inputs"] == [f"{files}/test_input.npy"]
    await service.describe(ID, ANONYMOUS)
    assert dict(mirror.asked) == {f"/artifacts/{ID}/files/rdf.yaml": 1}


@pytest.mark.parametrize("fault", [status(503), cut])
async def test_a_passing_fault_is_tried_again(mirror: Mirror, tmp_path: Path, fault: Any) -> None:
    mirror.faults["weights.onnx"] = once(fault)
    config = mirror.settings(tmp_path / "home")
    await StoreService(config).fetch(ID, ANONYMOUS)
    assert ModelStore(config.store).contains(ID) and mirror.count("weights.onnx") == 2


@pytest.mark.parametrize(
    ("file", "fault", "expected"),
    [
        ("weights.onnx", status(404), "the file does not exist (404)"),
        ("weights.onnx", status(503), "the host answered 503"),
        ("weights.onnx", status(403), "the host answered 403"),
        ("weights.onnx", cut, "the transfer was cut off"),
        ("weights.onnx", wrong, "it is damaged or was replaced: its SHA-256 is"),
        ("weights.onnx", endless, "it is larger than 2 MB, the limit of BIOENGINE_MAX_PACKAGE_SIZE"),
        ("weights.onnx", drip, "it timed out after 3 s (BIOENGINE_DOWNLOAD_TIMEOUT)"),
        ("rdf.yaml", status(503), "the host answered 503"),
        ("rdf.yaml", endless, "it is larger than 1 MB, the largest size"),
        ("rdf.yaml", drip, "it timed out after 3 s"),
        ("weights.onnx", redirect("http://127.0.0.1:1/x"), "only https URLs are allowed"),
        ("weights.onnx", redirect("https://127.0.0.1:1/x"), "127.0.0.1 is not an address of the public internet"),
        ("weights.onnx", redirect("https://[::1]/x"), "::1 is not an address of the public internet"),
        ("weights.onnx", redirect("https://169.254.169.254/latest"), "169.254.169.254 is not an address of the public"),
        ("weights.onnx", redirect("https://10.0.0.1/x"), "10.0.0.1 is not an address of the public internet"),
        (
            "weights.onnx",
            redirect("https://localhost:1/x"),
            "localhost has the address 127.0.0.1, which is not on the public",
        ),
        ("weights.onnx", redirect("file:///etc/passwd"), "only https URLs are allowed"),
        ("weights.onnx", redirect("weights.onnx"), "it was redirected more than 5 times"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_faults(mirror: Mirror, tmp_path: Path, file: str, fault: Any, expected: str) -> None:
    mirror.faults[file] = fault
    config = mirror.settings(tmp_path / "home", download_timeout=3, max_package_size=2_000_000)
    with pytest.raises(DownloadFailed) as caught:
        await StoreService(config).fetch(ID, ANONYMOUS)
    message = str(caught.value)
    assert expected in message and "Try again" in message and "models import" in message
    assert " could not be downloaded from " in message
    assert leftovers(config.home) == []
    mirror.faults.clear()
    await StoreService(config).fetch(ID, ANONYMOUS)
    assert ModelStore(config.store).contains(ID), "the next try works"


async def test_a_host_that_is_not_there(mirror: Mirror, tmp_path: Path) -> None:
    config = mirror.settings(tmp_path / "home", collection_url="http://127.0.0.1:9/{id}/rdf.yaml", id_map_url="")
    with pytest.raises(DownloadFailed, match=r"rdf\.yaml could not be downloaded from 127\.0\.0\.1: the host cannot be reached"):
        await StoreService(config).fetch(ID, ANONYMOUS)


@pytest.mark.parametrize("source", ["../outside.onnx", "/etc/passwd", "a/../../b", ".hidden", "..\\x"])
async def test_files_that_lead_out_of_the_package(mirror: Mirror, tmp_path: Path, source: str) -> None:
    edit_rdf(mirror, lambda rdf: rdf["weights"]["onnx"].update(source=source))
    config = mirror.settings(tmp_path / "home")
    with pytest.raises(NotAPackage, match="names a file outside of the package"):
        await StoreService(config).fetch(ID, ANONYMOUS)
    assert leftovers(config.home) == []


@pytest.mark.parametrize("host", ["https://127.0.0.1:1", "http://localhost:1", "https://192.168.1.1"])
async def test_files_at_private_addresses(mirror: Mirror, tmp_path: Path, host: str) -> None:
    edit_rdf(mirror, lambda rdf: rdf["weights"]["onnx"].update(source=f"{host}/weights.onnx"))
    with pytest.raises(DownloadFailed, match=r"only https URLs|not an address of the public internet"):
        await StoreService(mirror.settings(tmp_path / "home")).fetch(ID, ANONYMOUS)


async def test_weights_without_a_hash_are_taken_as_they_came(mirror: Mirror, tmp_path: Path) -> None:
    """Which is said; from then on they are what they were: another file is another package."""
    edit_rdf(mirror, lambda rdf: rdf["weights"]["onnx"].pop("sha256"))
    weights = mirror.packages / ID / "weights.onnx"
    config = mirror.settings(tmp_path / "home")
    await StoreService(config).fetch(ID, ANONYMOUS)
    manifest = ModelStore(config.store).find(ID).manifest
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert manifest.unpinned == ("weights.onnx",)
    assert manifest.weights["onnx"].sha256 == manifest.files["weights.onnx"] == found
    shutil.copy(mirror.packages / "old-otter" / "weights.onnx", weights)
    with pytest.raises(NameTaken, match=f"The name '{ID}/1.0.0' already means another package"):
        await StoreService(config).fetch(f"{ID}/v1.0.0", ANONYMOUS)
    assert ModelStore(config.store).find(ID).manifest == manifest
    edit_rdf(mirror, lambda rdf: rdf["weights"]["onnx"].update(sha256=found))
    with pytest.raises(DownloadFailed):
        await StoreService(mirror.settings(tmp_path / "other")).fetch(ID, ANONYMOUS)


async def test_who_may_cause_a_download(mirror: Mirror, tmp_path: Path) -> None:
    may: dict[str, list[Caller | None]] = {
        "anyone": [ANONYMOUS, KNOWN, None],
        "token": [KNOWN, None],
        "admin": [None],
        "never": [],
    }
    for policy, allowed in may.items():
        service = StoreService(mirror.settings(tmp_path / "home", download=policy))
        for caller in (ANONYMOUS, KNOWN, None):
            if caller in allowed:
                assert (await service.describe(ID, caller)).id == ID
            else:
                with pytest.raises(DownloadNotAllowed, match=r"BIOENGINE_DOWNLOAD.*models pull conscientious-seashell"):
                    await service.describe(ID, caller)
    with pytest.raises(Offline, match="because this server is offline"):
        await StoreService(mirror.settings(tmp_path / "home", offline=True)).fetch(ID, None)


async def test_dois_and_versions(mirror: Mirror, tmp_path: Path) -> None:
    doi, record, unlisted = "10.5281/zenodo.1234567", "10.5281/zenodo.1234567/7654321", "10.5281/zenodo.99"
    mirror.documents["/id_map.json"] = {
        doi: {"source": f"{mirror.url}/artifacts/old-otter/files/rdf.yaml"},
        record: f"{mirror.url}/artifacts/old-otter/files/rdf.yaml",
    }
    config = mirror.settings(tmp_path / "home")
    store, service = ModelStore(config.store), StoreService(config)
    await service.fetch(doi, ANONYMOUS)
    await service.fetch(record, ANONYMOUS)
    assert store.find(doi).manifest.id == store.find(record).manifest.id == "old-otter"
    with pytest.raises(NotInCollection, match=r"There is no model '10\.5281/zenodo\.99' in the collection"):
        await service.fetch(unlisted, ANONYMOUS)
    shutil.copytree(mirror.packages / "two-inputs", mirror.packages / unlisted)
    await service.fetch(unlisted, ANONYMOUS)
    assert store.find(unlisted).manifest.id == "two-inputs", "by the collection's own pattern"
    await service.fetch(f"{ID}/1.0.0", ANONYMOUS)
    assert store.find(f"{ID}/1.0.0").manifest.id == store.find(ID).manifest.id == ID
    with pytest.raises(NotInCollection, match=r"it offers 'conscientious-seashell' in version 1\.0\.0"):
        await service.fetch(f"{ID}/3", ANONYMOUS)


async def test_two_versions_side_by_side(mirror: Mirror, tmp_path: Path) -> None:
    config = mirror.settings(tmp_path / "home")
    store, service = ModelStore(config.store), StoreService(config)
    await service.fetch(ID, ANONYMOUS)
    shutil.copytree(mirror.packages / ID, mirror.packages / ID / "0.9")
    edit_rdf(mirror, lambda rdf: rdf.update(version="0.9"), id=f"{ID}/0.9")
    await service.fetch(f"{ID}/0.9", ANONYMOUS)
    assert store.find(f"{ID}/0.9").manifest.version == "0.9"
    assert store.find(ID).manifest.version == "1.0.0", "asking for an old version does not change what the id means"


async def test_search(mirror: Mirror, tmp_path: Path) -> None:
    service = StoreService(mirror.settings(tmp_path / "home"))
    assert await service.search(["nuclei"]) is None, "it has no listing"
    about = {"name": "Nuclei", "description": "Finds nuclei in fluorescence images"}
    mirror.documents["/children"] = [
        {"id": "bioimage-io/affable-shark", "alias": "affable-shark", "type": "model", "manifest": about},
        {"id": "bioimage-io/some-data", "alias": "some-data", "type": "dataset", "manifest": about},
        {"id": "bioimage-io/cells", "type": "model", "manifest": {"name": "Cells"}},
    ]
    found = await service.search(["NUCLEI", "fluorescence"])
    assert found is not None and [item.id for item in found] == ["affable-shark"]
    assert await service.search(["mitochondria"]) == []


@pytest.mark.parametrize("id", ["x/draft", "huggingface/a/b", "../x", "http://x", "", "a b", "x/staged/1"])
def test_what_is_not_asked_for(id: str) -> None:
    with pytest.raises(BadModelId):
        parse_model_id(id)


async def test_a_store_that_cannot_be_written(mirror: Mirror, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "models").write_text("a file where a folder should be")
    with pytest.raises(StoreNotWritable, match="could not be written: File exists"):
        await StoreService(mirror.settings(tmp_path / "home")).fetch(ID, ANONYMOUS)
    assert os.listdir(home) == ["models"]
