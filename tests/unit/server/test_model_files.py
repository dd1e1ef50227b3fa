"""The files of stored models that clients may read: those that a description names to be shown, whole, as data."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx
import pytest
import yaml
from bioengine_contract.shown_files import with_addresses
from bioengine_server.access.registry import TokenRegistry
from bioengine_server.access.rules import Access
from bioengine_server.http.allowed_routes import AllowedRoutes
from bioengine_server.http.model_files import ModelFiles
from bioengine_server.http.route_table import Entry, RouteTable
from bioengine_server.hypha.authenticator import Authenticator
from bioengine_server.settings import Settings
from bioengine_server.store.model_store import ModelStore, StoredModel
from bioengine_server.store.shown_files import shown_files
from starlette.applications import Starlette
from starlette.types import ASGIApp

FILES = "/models/otter/1.0.0/files"
SHOWN = {
    "test_input.npy": "application/octet-stream",
    "test_output.npy": "application/octet-stream",
    "README.md": "text/markdown; charset=utf-8",
    "a cover, 50%.png": "image/png",
    "page.html": "application/octet-stream",
    "drawing.svg": "application/octet-stream",
    "samples/sample.tif": "image/tiff",
}
HIDDEN = ("weights.onnx", "rdf.yaml", "model.json", "notes.txt", "network.py", "reports/test.json", "outside.npy")


@pytest.fixture
def model(packages: Path, tmp_path: Path) -> StoredModel:
    """A package whose description names all that it can to be shown: pictures, pages, its own weights and code."""
    folder = Path(shutil.copytree(packages / "old-otter", tmp_path / "otter"))
    (folder / "samples").mkdir()
    for name in (*SHOWN, "notes.txt", "network.py"):
        if not (folder / name).exists():
            (folder / name).write_bytes(f"content of {name}".encode())
    rdf = yaml.safe_load((folder / "rdf.yaml").read_text())
    rdf["covers"] = ["a cover, 50%.png", "drawing.svg", "https://example.com/x.png"]
    rdf["sample_inputs"] = ["samples/sample.tif", "page.html", "weights.onnx", "network.py"]
    rdf["weights"]["pytorch_state_dict"] = {
        "source": "weights.onnx",
        "sha256": rdf["weights"]["onnx"]["sha256"],
        "architecture": "network.py:Network",
        "architecture_sha256": hashlib.sha256((folder / "network.py").read_bytes()).hexdigest(),
    }
    (folder / "rdf.yaml").write_text(yaml.safe_dump(rdf))
    stored = ModelStore(tmp_path / "home" / "models").import_package(folder, "otter")
    (stored.folder / "reports").mkdir()
    (stored.folder / "reports" / "test.json").write_text("{}")
    return stored


def served(home: Path) -> ASGIApp:
    """The files of the models of a home, and nothing else."""
    settings = Settings(home=home)
    registry = TokenRegistry(settings.home)
    files = ModelFiles(Authenticator(Access(settings, registry), registry), ModelStore(settings.store))
    table = RouteTable([Entry(ModelFiles.path, ("GET", "HEAD"), files.answer, is_encoded=True)])
    return AllowedRoutes(Starlette(routes=list(table.routes())), table, 1_000_000)


@pytest.fixture
async def client(model: StoredModel, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = served(tmp_path / "home")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as running:
        yield running


@pytest.mark.parametrize("name", SHOWN)
async def test_what_is_shown_is_given_as_data(client: httpx.AsyncClient, model: StoredModel, name: str) -> None:
    answer = await client.get(f"{FILES}/{quote(name)}")
    assert answer.status_code == 200 and answer.content == (model.folder / name).read_bytes()
    assert answer.headers["content-type"] == SHOWN[name]
    is_picture = SHOWN[name].startswith("image/")
    assert answer.headers["content-disposition"] == ("inline" if is_picture else "attachment"), "no browser shows it as a page"
    head = await client.head(f"{FILES}/{quote(name)}")
    assert head.status_code == 200 and head.content == b"" and head.headers["content-length"] == str(len(answer.content))


@pytest.mark.parametrize("name", HIDDEN)
async def test_nothing_else_is_given(client: httpx.AsyncClient, model: StoredModel, name: str) -> None:
    assert name == "outside.npy" or (model.folder / name).is_file()
    assert (await client.get(f"{FILES}/{name}")).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/models/otter/1.0.0/files/", "/models/otter/1.0.0/files", "/models/otter/1.0.0/rdf.yaml", "/models/otter/test_input.npy",
        "/models/otter/2.0.0/files/test_input.npy", "/models/nobody/1.0.0/files/test_input.npy",
        "/models/otter/1.0.0/files//test_input.npy", "/models/otter/1.0.0/files/./test_input.npy",
        "/models/otter/1.0.0/files/%2e%2e/1.0.0/test_input.npy", "/models/otter/1.0.0/files/x/../test_input.npy",
        "/models/otter/1.0.0/files/..%2f..%2f..%2faliases.json", "/models/otter/1.0.0/files/%00", "/models/otter/1.0.0/files/%ff",
        "/models/../models/otter/1.0.0/files/test_input.npy", "/models/%6ftter/1.0.0/files/test_input.npy",
        "/models/otter/1.0.0/files/" + "x" * 5000,
    ],
)  # fmt: skip
async def test_there_is_one_way_to_a_file(model: StoredModel, tmp_path: Path, path: str) -> None:
    """Whatever the path says, in the bytes that came."""
    app = served(tmp_path / "home")
    sent: list[Any] = []
    scope = {
        "type": "http", "method": "GET", "path": unquote(path), "raw_path": path.encode(), "query_string": b"", "headers": [],
        "root_path": "", "scheme": "http", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1),
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert sent[0]["status"] == 404


async def test_a_tensor_is_not_given_in_parts(client: httpx.AsyncClient, model: StoredModel) -> None:
    """Pages that ask for its first bytes alone would read its numbers the wrong way round: they take the whole then."""
    answer = await client.get(f"{FILES}/test_input.npy", headers={"Range": "bytes=0-127"})
    assert answer.status_code == 416 and "Request the whole file" in answer.json()["error"]
    picture = await client.get(f"{FILES}/samples/sample.tif", headers={"Range": "bytes=0-3"})
    assert picture.status_code == 200 and picture.content == b"content of samples/sample.tif"


async def test_files_are_only_read(client: httpx.AsyncClient) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert (await client.request(method, f"{FILES}/test_input.npy")).status_code == 405


def test_addresses_of_all_that_is_shown(model: StoredModel) -> None:
    rdf = with_addresses(model.manifest.rdf, lambda name: f"https://host/{name}")
    assert rdf["test_inputs"] == ["https://host/test_input.npy"] and rdf["documentation"] == "https://host/README.md"
    assert rdf["covers"][0] == "https://host/a cover, 50%.png" and "https://example.com/x.png" in rdf["covers"]
    assert rdf["sample_inputs"][0] == "https://host/samples/sample.tif"
    assert rdf["sample_outputs"] == rdf["test_outputs"] == ["https://host/test_output.npy"], "where there is no other sample"
    assert shown_files(model.manifest) == set(SHOWN)


def test_covers_and_documentation_of_format_0_5_become_plain_addresses() -> None:
    rdf = {"covers": [{"source": "c.png", "sha256": "0"}], "documentation": {"source": "d.md"}, "test_inputs": ["a.npy"]}
    named = with_addresses(rdf, lambda name: f"https://host/{name}")
    assert named["covers"] == ["https://host/c.png"] and named["documentation"] == "https://host/d.md"
    assert named["sample_inputs"] == ["https://host/a.npy"]
