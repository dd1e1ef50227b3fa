"""A client in a process of its own that sends images and compares what comes back. Runs in its library's environment.

    python callers.py KIND ADDRESS

KIND is imjoy-rpc, hypha-rpc, tritonclient or tcp. Reads lines `{"side": pixels, "seed": int}`; for each sends a float32 image of
(1, 1, side, side) with values of its own and writes a line `{"seconds": float, "equal": bool}`, or `{"error": str}`.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

MODEL = "bench-echo"
TIMEOUT = 60  # seconds

Echo = Callable[[np.ndarray], np.ndarray]
"""Sends an image, returns what came back."""


def rpc_client(module: str, url: str) -> Echo:
    """`triton-client`, as a user's program calls it."""
    client = importlib.import_module(module)
    server = client.connect_to_server({"name": "bench", "server_url": url, "method_timeout": TIMEOUT})
    triton = server.get_service("triton-client")

    def echo(image: np.ndarray) -> np.ndarray:
        request = {"model_id": MODEL, "inputs": [image]}
        result = triton.execute(inputs=[request], model_name="bioengine-model-runner", serialization="imjoy")["result"]
        if not result["success"]:
            raise RuntimeError(result["error"])
        output: np.ndarray = result["outputs"][0]
        return output

    return echo


def triton_client(address: str) -> Echo:
    """Triton's own protocol, binary tensors, over one connection that stays open."""
    import tritonclient.http as triton_http

    client = triton_http.InferenceServerClient(address, connection_timeout=TIMEOUT, network_timeout=TIMEOUT)

    def echo(image: np.ndarray) -> np.ndarray:
        tensor = triton_http.InferInput("image", list(image.shape), "FP32")
        tensor.set_data_from_numpy(image)
        output: np.ndarray = client.infer(MODEL, [tensor]).as_numpy("same")
        return output

    return echo


def tcp_client(address: str) -> Echo:
    """The floor: MessagePack over a plain socket, and the same bytes back (`floor.echo_server`)."""
    import msgpack

    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), TIMEOUT)

    def echo(image: np.ndarray) -> np.ndarray:
        data = msgpack.packb({"image": image.tobytes()})
        connection.sendall(len(data).to_bytes(8, "big") + data)
        answer = bytearray(len(data))
        view = memoryview(answer)
        while view:
            if not (count := connection.recv_into(view)):
                raise ConnectionError("the other end hung up")
            view = view[count:]
        return np.frombuffer(msgpack.unpackb(answer)["image"], image.dtype).reshape(image.shape)

    return echo


KINDS: dict[str, Callable[[str], Echo]] = {
    "imjoy-rpc": lambda address: rpc_client("imjoy_rpc.hypha.sync", address),
    "hypha-rpc": lambda address: rpc_client("hypha_rpc.sync", address),
    "tritonclient": triton_client,
    "tcp": tcp_client,
}


def measured(echo: Echo, side: int, seed: int) -> dict[str, Any]:
    image = np.random.default_rng(seed).random((1, 1, side, side), np.float32)
    started = time.perf_counter()
    returned = echo(image)
    seconds = time.perf_counter() - started
    equal = returned.dtype == image.dtype and np.array_equal(returned, image)
    return {"seconds": seconds, "equal": bool(equal)}


def main() -> None:
    # imjoy-rpc logs to stdout, which is for the answers here.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.disable(logging.ERROR)
    kind, address = sys.argv[1:]
    echo: Echo | None = None
    for line in sys.stdin:
        # Ended even where nobody is left to end it: imjoy-rpc waits for ever for a server that has gone.
        signal.alarm(2 * TIMEOUT)
        try:
            echo = echo or KINDS[kind](address)
            answer = measured(echo, **json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        signal.alarm(0)
        print(json.dumps(answer), file=answers, flush=True)
    # Without the ten seconds that imjoy-rpc waits for the server to hang up.
    os._exit(0)


if __name__ == "__main__":
    main()
