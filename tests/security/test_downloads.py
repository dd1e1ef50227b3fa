"""Hostile collections: where a download may connect to, and which names it may bring.

The spellings are tried by the real Downloader against a real listener on loopback: what counts is that nothing connects to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import yaml
from bioengine_server.access.caller import Caller
from bioengine_server.settings import Settings
from bioengine_server.store import download
from bioengine_server.store.addresses import is_public, numeric_host
from bioengine_server.store.download import Downloader
from bioengine_server.store.errors import DownloadFailed, StoreError
from bioengine_server.store.model_store import ModelStore
from bioengine_server.store.names import NameTaken, ReservedName
from bioengine_server.store.service import StoreService

from tests.mirror import Mirror, redirect
from tests.stack.harness import ROOT, Stack, example_input, get, python

ID = "conscientious-seashell"
ANONYMOUS = Caller("somebody", "ws-anonymous", "client")

# Spellings of this machine, of its network and of a cloud's metadata service.
HOSTS = [
    "127.0.0.1", "127.1", "127.0.1", "127.255.255.254", "0x7f.1", "0x7f000001", "0x7f.0x0.0x0.0x1", "2130706433", "017700000001",
    "0177.0.0.1", "0177.0.0.01", "0", "0.0.0.0", "localhost", "LOCALHOST", "localhost.", "LocalHost.localdomain", "127.0.0.1.",
    "１２７.0.0.1", "１２７．０．０．１", "127。0。0。1", "127｡0｡0｡1", "①②⑦.0.0.1", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "localhost", "loca\u00adlhost",
    "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[::7f00:1]",
    "[::ffff:0:127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[64:ff9b:1:ffff::7f00:1]",
    "[2002:7f00:1::]", "[2002:7f00:0001::1]", "[2001:0:7f00:1::]", "[2001::5efe:7f00:1]", "[2a00::5efe:7f00:1]",
    "[2a00::200:5efe:7f00:1]", "[fe80::5efe:7f00:1%25lo]", "[fe80::1%25lo]", "[fe80::1]", "[fc00::1]", "[fd00:ec2::254]",
    "[fec0::1]", "[ff02::1]", "[ff05::1:3]", "224.0.0.1", "239.255.255.250", "255.255.255.255", "240.0.0.1", "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1", "100.64.0.1", "100.100.100.200", "169.254.169.254", "0xa9fea9fe", "2852039166", "[::ffff:169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]", "192.0.0.192", "198.18.0.1", "192.0.2.1", "[2001:db8::1]", "[100::1]", "user@127.0.0.1",
    "example.org:443@127.0.0.1", "127.0.0.1\\@example.org", "127.0.0.1#@example.org", "127.0.0.1%00.example.org",
    "127.0.0.1%2eexample",
]  # fmt: skip


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    with Listener() as running:
        yield running


class Listener:
    """A port on every loopback address of this machine that counts who connects."""

    def __init__(self) -> None:
        self.connections: list[str] = []
        self._sockets = [socket.create_server(("127.0.0.1", 0))]
        self.port = int(self._sockets[0].getsockname()[1])
        for family, host in ((socket.AF_INET, "127.255.255.254"), (socket.AF_INET6, "::1")):
            with contextlib.suppress(OSError):
                self._sockets.append(socket.create_server((host, self.port), family=family))

    def __enter__(self) -> Listener:
        for listening in self._sockets:
            threading.Thread(target=self._accept, args=(listening,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for listening in self._sockets:
            listening.close()

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, peer = listening.accept()
                self.connections.append(str(peer))
                connection.close()


@pytest.mark.parametrize("host", HOSTS)
async def test_no_spelling_leads_to_this_machine(listener: Listener, host: str) -> None:
    """Nor to its network. Also as a redirect's target, from a host that is trusted."""
    listener.connections.clear()
    async with Downloader([], timeout=10) as downloader:
        for url in (f"https://{host}:{listener.port}/x", f"http://{host}:{listener.port}/x"):
            with pytest.raises(DownloadFailed) as caught:
                await downloader.fetch(url, 1000)
            assert "cut off" not in str(caught.value), "somebody was spoken to"
    assert listener.connections == []


async def test_the_listener_would_have_noticed(listener: Listener) -> None:
    listener.connections.clear()
    async with Downloader([f"https://127.0.0.1:{listener.port}/"], timeout=10) as downloader:
        with pytest.raises(DownloadFailed, match=r"cannot be reached|cut off"):
            await downloader.fetch(f"https://127.0.0.1:{listener.port}/x", 1000)
    assert listener.connections


@pytest.mark.parametrize("host", [host for host in HOSTS if not set(host) & set("@#%\\")])
def test_the_addresses_themselves(host: str) -> None:
    """By the same rule that a socket is checked with, without the parsing of URLs in front."""
    if (address := numeric_host(host)) is not None:
        assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "193.62.192.1", "2a00:1450:4001:81b::200e", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("answers", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::1"], ["64:ff9b::7f00:1"], ["fe80::1%lo"]])
async def test_a_name_with_a_private_address(listener: Listener, monkeypatch: pytest.MonkeyPatch, answers: list[str]) -> None:
    """A DNS server of somebody else's; there is none in the tests, so the look-up of the system is replaced."""
    listener.connections.clear()
    resolving(monkeypatch, lambda: answers)
    async with Downloader([], timeout=10) as downloader:
        with pytest.raises(DownloadFailed, match=r"host\.example has the address"):
            await downloader.fetch(f"https://host.example:{listener.port}/x", 1000)
    assert listener.connections == []


async def test_a_name_that_changes_between_two_look_ups(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket is checked, not the name: even where the resolver's answer is not looked at."""
    listener.connections.clear()
    resolving(monkeypatch, lambda: ["127.0.0.1"])
    monkeypatch.setattr(download._Gate, "resolve", lambda self, *asked, **more: self._resolver.resolve(*asked, **more))
    async with Downloader([], timeout=10) as downloader:
        with pytest.raises(DownloadFailed, match=r"127\.0\.0\.1 is not an address of the public internet"):
            await downloader.fetch(f"https://host.example:{listener.port}/x", 1000)
    assert listener.connections == []


def resolving(monkeypatch: pytest.MonkeyPatch, answers: Any) -> None:
    async def resolve(self: Any, host: str, port: int = 0, family: int = 0) -> list[dict[str, Any]]:
        return [
            {"hostname": host, "host": address, "port": port, "proto": 0, "flags": 0,
             "family": socket.AF_INET6 if ":" in address else socket.AF_INET}
            for address in answers()
        ]  # fmt: skip

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)


async def test_a_trusted_host_is_trusted_at_its_own_port(listener: Listener) -> None:
    """`localhost` of the collection's port does not open the others."""
    listener.connections.clear()
    async with Downloader(["http://localhost:1/x"], timeout=10) as downloader:
        for url in (f"https://localhost:{listener.port}/x", f"http://localhost:{listener.port}/x"):
            with pytest.raises(DownloadFailed, match=r"only https|not on the public internet"):
                await downloader.fetch(url, 1000)
    assert listener.connections == []


@pytest.mark.parametrize("host", ["127.1", "１２７.0.0.1", "[64:ff9b::7f00:1]", "localhost", "[::ffff:127.0.0.1]", "0"])
async def test_redirects_of_the_collection_are_looked_at_too(
    listener: Listener, packages: Path, tmp_path: Path, host: str
) -> None:
    listener.connections.clear()
    with Mirror(Path(shutil.copytree(packages, tmp_path / "mirror"))) as mirror:
        mirror.faults["weights.onnx"] = redirect(f"https://{host}:{listener.port}/x".encode().decode("latin-1"))
        with pytest.raises(DownloadFailed):
            await StoreService(mirror.settings(tmp_path / "home")).fetch(ID, ANONYMOUS)
    assert listener.connections == []


async def test_a_proxy_of_the_environment_is_used_and_asked_for_names_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A private address behind it is refused before the proxy is asked."""
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    async with server, Downloader([], timeout=10) as downloader:
        for host in ("127.0.0.1", "0x7f.1", "[64:ff9b::7f00:1]", "169.254.169.254"):
            with pytest.raises(DownloadFailed, match="not an address of the public internet"):
                await downloader.fetch(f"https://{host}/x", 1000)
        assert asked == []
        with pytest.raises(DownloadFailed):
            await downloader.fetch("https://models.example/x", 1000)
    assert asked and asked[0].startswith(b"CONNECT models.example:443")


# Names


@pytest.fixture
def mirror(packages: Path, tmp_path: Path) -> Iterator[Mirror]:
    with Mirror(Path(shutil.copytree(packages, tmp_path / "mirror"))) as running:
        yield running


def hostile(mirror: Mirror, place: str, base: str = "old-otter", **claims: Any) -> None:
    """An entry of the collection that says it is somebody else."""
    folder = Path(shutil.copytree(mirror.packages / base, mirror.packages / place))
    rdf = yaml.safe_load((folder / "rdf.yaml").read_text())
    rdf.pop("id", None)
    rdf["name"] = "a hostile package"
    rdf.update({key: value for key, value in claims.items() if key == "id"})
    rdf["config"] = {"bioimageio": {key: value for key, value in claims.items() if key != "id"}}
    (folder / "rdf.yaml").write_text(yaml.safe_dump(rdf, sort_keys=False))


def aliases(config: Settings) -> dict[str, str]:
    return dict(json.loads((config.store / "aliases.json").read_text()))


@pytest.mark.parametrize(
    "claims",
    [
        {"nickname": ID},
        {"id": ID},
        {"nickname": "not-in-the-collection"},
        {"id": "bioengine-probe", "nickname": "drawn-nuclei"},
        {"doi": "10.5281/zenodo.1234567/1"},
        {"nickname": "Innocent-Name"},
    ],
    ids=str,
)
async def test_a_download_has_the_name_that_was_asked_for(mirror: Mirror, tmp_path: Path, claims: dict[str, str]) -> None:
    hostile(mirror, "innocent-name", **claims)
    config = mirror.settings(tmp_path / "home")
    await StoreService(config).fetch("innocent-name", ANONYMOUS)
    assert aliases(config) == {name: "innocent-name/1.0.0" for name in ("innocent-name", "innocent-name/1.0.0")}
    await StoreService(config).fetch(ID, ANONYMOUS)
    assert ModelStore(config.store).find(ID).manifest.name != "a hostile package"


async def test_a_doi_is_what_the_collections_map_says(mirror: Mirror, tmp_path: Path) -> None:
    """A hostile entry that is asked for by its own DOI does not become what it says; the true one does."""
    evil, true = "10.5281/zenodo.666", "10.5281/zenodo.1234567"
    hostile(mirror, "evil", nickname=ID, id=true)
    mirror.documents["/id_map.json"] = {
        evil: {"source": f"{mirror.url}/artifacts/evil/files/rdf.yaml"},
        true: {"source": f"{mirror.url}/artifacts/{ID}/files/rdf.yaml"},
    }
    config = mirror.settings(tmp_path / "home")
    service = StoreService(config)
    assert (await service.describe(evil, ANONYMOUS)).id == "10.5281_zenodo.666"
    await service.fetch(evil, ANONYMOUS)
    assert set(aliases(config)) == {evil, "10.5281_zenodo.666", "10.5281_zenodo.666/1.0.0"}
    await service.fetch(true, ANONYMOUS)
    assert aliases(config)[true] == aliases(config)[ID] == f"{ID}/1.0.0"


async def test_names_that_the_collection_confirms_are_taken(mirror: Mirror, tmp_path: Path) -> None:
    """So that a model that was asked for by its nickname is there by its DOI, without a network."""
    doi = "10.5281/zenodo.1234567"
    folder = mirror.packages / ID
    rdf = yaml.safe_load((folder / "rdf.yaml").read_text())
    rdf["config"] = {"bioimageio": {"doi": f"{doi}/7", "nickname": ID}}
    (folder / "rdf.yaml").write_text(yaml.safe_dump(rdf, sort_keys=False))
    mirror.documents["/id_map.json"] = {
        name: {"source": f"{mirror.url}/artifacts/{ID}/files/rdf.yaml"} for name in (doi, f"{doi}/7")
    }
    config = mirror.settings(tmp_path / "home")
    await StoreService(config).fetch(ID, ANONYMOUS)
    assert aliases(config) == {name: f"{ID}/1.0.0" for name in (ID, f"{ID}/1.0.0", doi, f"{doi}/7")}
    assert mirror.count("id_map.json") == 1


async def test_a_copied_description_with_other_files_is_not_confirmed(mirror: Mirror, tmp_path: Path) -> None:
    """The same description under another id is the same model only where it has the hashes of what computes."""
    stork = "state-dict-stork"
    rdf = yaml.safe_load((mirror.packages / stork / "rdf.yaml").read_text())
    rdf["weights"]["pytorch_state_dict"]["architecture"].pop("sha256")
    (mirror.packages / stork / "rdf.yaml").write_text(yaml.safe_dump(rdf, sort_keys=False))
    shutil.copytree(mirror.packages / stork, mirror.packages / "copycat")
    (mirror.packages / "copycat" / "network.py").write_text("import os")
    config = mirror.settings(tmp_path / "home")
    await StoreService(config).fetch("copycat", ANONYMOUS)
    assert stork not in aliases(config)


@pytest.mark.parametrize("id", ["drawn-nuclei", "bioengine-probe", "Bioengine-Probe", "drawn-nuclei/9.9", "bench-echo"])
async def test_shipped_names_are_not_downloaded(mirror: Mirror, tmp_path: Path, id: str) -> None:
    shutil.rmtree(mirror.packages / id.partition("/")[0], ignore_errors=True)
    hostile(mirror, id)
    config = mirror.settings(tmp_path / "home")
    with pytest.raises(ReservedName):
        await StoreService(config).fetch(id, ANONYMOUS)
    assert mirror.count("weights.onnx") == 0 and ModelStore(config.store).models() == []


async def test_a_download_replaces_nothing(mirror: Mirror, tmp_path: Path, packages: Path) -> None:
    """Neither the content of a version that is stored, nor what a plain name means, nor a name in another case."""
    config = mirror.settings(tmp_path / "home")
    store, service = ModelStore(config.store), StoreService(config)
    own = store.import_package(packages / "two-inputs", "lab-model").manifest
    for asked in ("lab-model/1.0", "lab-model/v1.0.0", "LAB-model"):
        hostile(mirror, asked)
        with pytest.raises(NameTaken):
            await service.fetch(asked, ANONYMOUS)
    if not (mirror.packages / "lab-model" / "rdf.yaml").exists():
        shutil.copytree(mirror.packages / "old-otter", mirror.packages / "lab-model", dirs_exist_ok=True)
    await service.fetch("lab-model", ANONYMOUS)
    assert store.find("lab-model").manifest.files == own.files
    doi = "10.5281/zenodo.7"
    mirror.documents["/id_map.json"] = {doi: f"{mirror.url}/artifacts/lab-model/files/rdf.yaml"}
    rdf = mirror.packages / "lab-model" / "rdf.yaml"
    rdf.write_text(rdf.read_text().replace("id: old-otter", "id: lab-model"))
    await service.fetch(doi, ANONYMOUS)
    assert store.find("lab-model").manifest.files == own.files and store.find(doi).manifest.id == "10.5281_zenodo.7"


async def test_half_a_doi_is_no_nickname(mirror: Mirror, tmp_path: Path) -> None:
    hostile(mirror, "10.5281")
    with pytest.raises(StoreError):
        await StoreService(mirror.settings(tmp_path / "home")).fetch("10.5281", ANONYMOUS)


# While a server serves


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)
)


def external_data_is_read(stack: Stack, packages: Path, tmp_path: Path) -> None:
    """A model whose tensors lie in a file that its description declares gives what it should."""
    folder = Path(shutil.copytree(packages / ID, tmp_path / "external"))
    file = folder / "weights.onnx"
    subprocess.run([python("runner"), "-m", "tests.security.onnx_variants", str(file)], cwd=ROOT, check=True)
    rdf = yaml.safe_load((folder / "rdf.yaml").read_text())
    del rdf["weights"]["torchscript"]
    rdf["weights"]["onnx"] |= {
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "external_data": {
            "source": "outside.data",
            "sha256": hashlib.sha256((folder / "outside.data").read_bytes()).hexdigest(),
        },
    }
    (folder / "rdf.yaml").write_text(yaml.safe_dump(rdf, sort_keys=False))
    ModelStore(stack.home / "models").import_package(folder, "external-eel")
    with stack.client() as client:
        result = client.run("external-eel", example_input(packages, ID))
    assert result["success"] and result["weight_format"] == "onnx", result
    np.testing.assert_allclose(result["outputs"][0], np.load(packages / ID / "test_output.npy"), atol=1e-3)


@pytest.mark.extended
def test_a_hostile_collection_keeps_nobody_waiting(packages: Path, tmp_path: Path) -> None:
    """Clients ask for models whose descriptions are bombs; meanwhile the server answers others as ever."""
    copy = Path(shutil.copytree(packages, tmp_path / "mirror"))
    texts = {"laughing-hyena": LAUGHS, "long-llama": f"a: [{'0,' * 490_000}]", "large-lynx": "a: " + "x" * 3_800_000}
    for id, text in texts.items():
        (copy / id).mkdir()
        (copy / id / "rdf.yaml").write_text(text)
    with Mirror(copy) as mirror, Stack(tmp_path / "home", BIOENGINE_OFFLINE="0", **mirror.environment) as stack:
        errors: dict[str, str] = {}

        def ask(id: str) -> None:
            with stack.client() as client:
                errors[id] = client.run(id, [np.zeros((1, 1, 4, 4), np.float32)])["error"]

        threads = [threading.Thread(target=ask, args=(id,)) for id in texts]
        for thread in threads:
            thread.start()
        waits = []
        with stack.client() as client:
            while any(thread.is_alive() for thread in threads):
                started = time.monotonic()
                assert get(f"{stack.url}/health/liveness")[0] == 200
                waits.append(time.monotonic() - started)
                threads[0].join(0.05)
            assert client.run("old-otter", example_input(packages, "old-otter"))["success"]
        assert max(waits) < 2, max(waits)
        external_data_is_read(stack, packages, tmp_path)
        # The llama takes seconds; on a slow machine more than it may.
        assert any(text in errors["long-llama"] for text in ("takes too much time", "contains more than")), errors["long-llama"]
        assert "larger than 1 MB" in errors["large-lynx"] and "contains more than" in errors["laughing-hyena"]
        assert str(tmp_path) not in "".join(errors.values())
