"""Models whose packages come from other people's computers, and the files that show them, on a running server."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import requests
from bioengine_server.store.model_store import ModelStore

from tests.packages.foreign import foreign_zip, with_long_names, with_weights_named
from tests.stack.harness import RUNNER, Client, Stack, example_input, example_output

OLD, NEW = "old-otter", "conscientious-seashell"
UMLAUT = unicodedata.normalize("NFD", "Gewichte-für-Zellen.onnx")
PAGE = "https://piximi.app"  # which the default allows
KEYS = ("test_inputs", "test_outputs", "sample_inputs", "sample_outputs")


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    with stack.client() as running:
        yield running


@pytest.mark.parametrize("id", ["foreign-umlaut", "foreign-long-names"])
def test_they_run(stack: Stack, client: Client, packages: Path, tmp_path: Path, id: str) -> None:
    changes: dict[str, dict[str, Any]] = {
        "foreign-umlaut": {
            "change": with_weights_named(unicodedata.normalize("NFC", UMLAUT)),
            "names": lambda name: UMLAUT if name == "weights.onnx" else name,
        },
        "foreign-long-names": {"change": with_long_names},
    }
    store = ModelStore(stack.home / "models")
    store.import_package(foreign_zip(packages / OLD, tmp_path / f"{id}.zip", **changes[id]), id)
    try:
        result = client.run(id, example_input(packages, OLD))
        assert result["success"], result
        np.testing.assert_allclose(result["outputs"][0], example_output(packages, OLD)[0], atol=1e-3)
    finally:
        store.remove(id)


def of_http(stack: Stack, id: str) -> dict[str, Any]:
    body: Any = {"model_name": RUNNER, "serialization": "imjoy", "inputs": [{"model_id": id, "inputs": None}]}
    answer = requests.post(f"{stack.url}/public/services/triton-client/execute", json=body)
    return dict(answer.json()["result"]["rdf"])


def of_triton(stack: Stack, id: str) -> dict[str, Any]:
    data = msgpack.packb({"model_id": id})
    header = (
        b'{"inputs": [{"name": "kwargs", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": %d}}], '
        b'"outputs": [{"name": "result", "parameters": {"binary_data": true}}]}' % (len(data) + 4)
    )
    body = header + len(data).to_bytes(4, "little") + data
    headers = {"Inference-Header-Content-Length": str(len(header))}
    answer = requests.post(f"{stack.url}/triton/v2/models/{RUNNER}/infer", data=body, headers=headers)
    content = answer.content[int(answer.headers["Inference-Header-Content-Length"]) :]
    return dict(msgpack.unpackb(content[4:])["rdf"])


def test_every_rdf_names_files_by_addresses_that_answer(stack: Stack, client: Client, packages: Path) -> None:
    """With a result, without inputs, over plain HTTP and through Triton's own protocol."""
    rdf = client.run(NEW, example_input(packages, NEW), return_rdf=True)["rdf"]
    for other in (client.run(NEW, None)["rdf"], of_http(stack, NEW), of_triton(stack, NEW)):
        assert {key: other[key] for key in KEYS} == {key: rdf[key] for key in KEYS}
    assert rdf["test_inputs"] == [f"{stack.url}/models/{NEW}/1.0.0/files/test_input.npy"]
    for kind in ("input", "output"):
        for name in ("test", "sample"):
            (address,) = rdf[f"{name}_{kind}s"]
            np.testing.assert_array_equal(np.load(io.BytesIO(requests.get(address).content)), tensor_of(packages, kind))
    old = client.run(OLD, None)["rdf"]
    assert b"old otter" in requests.get(old["documentation"]).content


def tensor_of(packages: Path, kind: str) -> np.ndarray:
    return (example_input if kind == "input" else example_output)(packages, NEW)[0]


def test_a_page_reads_tensors_whole(stack: Stack, client: Client, packages: Path) -> None:
    """As a published page does: first a part of the test's tensor, and, told that there is none, the sample or the whole."""
    rdf = client.run(NEW, None)["rdf"]
    part = requests.get(rdf["test_inputs"][0], headers={"Origin": PAGE, "Range": "bytes=0-1023"})
    assert part.status_code == 416 and part.headers["Access-Control-Allow-Origin"] == PAGE
    for address in (rdf["sample_inputs"][0], rdf["test_inputs"][0]):
        whole = requests.get(address, headers={"Origin": PAGE})
        assert whole.status_code == 200 and whole.headers["Access-Control-Allow-Origin"] == PAGE
        assert whole.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in whole.headers["Content-Security-Policy"]
        np.testing.assert_array_equal(np.load(io.BytesIO(whole.content)), example_input(packages, NEW)[0])
    preflight = {"Origin": PAGE, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "range"}
    assert requests.options(rdf["test_inputs"][0], headers=preflight).status_code == 200
    assert requests.get(rdf["test_inputs"][0], headers={"Origin": "https://evil.example"}).status_code == 403
    weights = rdf["test_inputs"][0].replace("test_input.npy", "weights.onnx")
    assert requests.get(weights).status_code == 404


def test_where_a_token_is_needed_files_need_one(token_stack: Stack) -> None:
    address = f"{token_stack.url}/models/{NEW}/1.0.0/files/test_input.npy"
    assert requests.get(address).status_code == 401
    token = token_stack.token("reader-of-files")
    assert requests.get(address, headers={"Authorization": f"Bearer {token}"}).status_code == 200
