"""Large tensors are passed between the server and Triton's processes by reference, and no files remain."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton_http
from bioengine_contract import message
from bioengine_server.settings import Settings

from tests.stack.harness import RUNNER, Client, Stack

SIDE = 1024


@pytest.fixture
def client(kinds_stack: Stack) -> Iterator[Client]:
    with kinds_stack.client() as client:
        yield client


@pytest.fixture
def folder(kinds_stack: Stack) -> Path:
    folder = Settings(home=kinds_stack.home).tensor_folder
    assert folder is not None and folder.is_dir() and folder.stat().st_mode & 0o777 == 0o700
    return folder


def probe_image() -> np.ndarray:
    return np.random.default_rng(1).random((1, 1, SIDE, SIDE), np.float32)


@contextlib.contextmanager
def files_in(folder: Path) -> Iterator[set[str]]:
    """The names of all files that there are in the folders of requests meanwhile."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.002):
            with contextlib.suppress(FileNotFoundError):  # a folder that has gone meanwhile
                seen.update(file.name for file in folder.glob("*/*"))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def drawn(client: Client, **more: Any) -> np.ndarray:
    result = client.run("drawn-nuclei", [probe_image()], **more)
    assert result["success"], result
    return np.asarray(result["outputs"][0])


def test_results_are_the_same_by_reference_and_as_bytes(kinds_stack: Stack, client: Client, folder: Path) -> None:
    with files_in(folder) as seen:
        by_reference = drawn(client)
    assert {"input-0", "output-0"} <= seen
    assert list(folder.iterdir()) == []
    # Clients that call the model runner in Triton's own protocol send and get bytes.
    direct = triton_http.InferenceServerClient(kinds_stack.url.removeprefix("http://") + "/triton", network_timeout=120)
    kwargs = triton_http.InferInput("kwargs", [1], "BYTES")
    request = message.encode({"model_id": "drawn-nuclei", "inputs": [probe_image()]})
    kwargs.set_data_from_numpy(np.array([request], dtype=np.object_))
    answer = message.decode(direct.infer(RUNNER, [kwargs]).as_numpy("result").flat[0])
    assert answer["success"], answer
    np.testing.assert_allclose(answer["outputs"][0], by_reference, atol=1e-5)


@pytest.mark.parametrize("shared", ["0" * 32, "../..", "/etc", 3])
def test_clients_of_triton_name_no_files(kinds_stack: Stack, shared: object) -> None:
    direct = triton_http.InferenceServerClient(kinds_stack.url.removeprefix("http://") + "/triton", network_timeout=120)
    kwargs = triton_http.InferInput("kwargs", [1], "BYTES")
    array = {"_rtype": "ndarray", "_rfile": "../../../../../etc/passwd", "_rshape": [1, 1, 80, 80]}
    request = message.encode({"model_id": "drawn-nuclei", "inputs": [array], "shared": shared})
    kwargs.set_data_from_numpy(np.array([request], dtype=np.object_))
    with pytest.raises(triton_http.InferenceServerException, match="cannot be used"):
        direct.infer(RUNNER, [kwargs])


def test_without_room_tensors_go_as_bytes(client: Client, folder: Path) -> None:
    expected = drawn(client)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("a file system of its own cannot be mounted here")
    try:
        np.testing.assert_allclose(drawn(client), expected, atol=1e-5)
        assert list(folder.iterdir()) == []
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_axes_and_casts_pass_by_reference(client: Client) -> None:
    image = np.random.default_rng(2).integers(0, 4000, (SIDE, SIDE), dtype=np.uint16)
    plain = client.run("drawn-nuclei", [image[None, None].astype(np.float32)])["outputs"][0]
    for given, axes in ((image, None), (image.T, "xy"), (np.asfortranarray(image), "yx"), (image.astype(">u2"), None)):
        result = client.run("drawn-nuclei", [given], **({} if axes is None else {"axes": axes}))
        assert result["success"], result
        np.testing.assert_allclose(result["outputs"][0], plain, atol=1e-5)
