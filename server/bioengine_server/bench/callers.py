"""A client program for the measurements. It runs in the environment of its client library, in a process of its own.

    python callers.py KIND ADDRESS

KIND is imjoy-rpc, hypha-rpc, tritonclient, tcp or bioimageio.core. The program reads lines
`{"model": id, "shape": [pixels, ...], "seed": int, "save": file or null}`. For each line, it runs the model on a random float32
image, and writes a line `{"seconds": float, "cpu": float}`: the duration of the run, and the CPU time of this process in it; or
`{"error": str}`. The output is saved as .npy if the line names a file; otherwise it must be equal to the image.
"""

from __future__ import annotations

import functools
import importlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TIMEOUT = 60  # seconds

Run = Callable[[str, np.ndarray], np.ndarray]
"""Has the model of this id run an image; returns its first output."""


def rpc_client(module: str, url: str) -> Run:
    """Calls `triton-client` as a user's program does."""
    client = importlib.import_module(module)
    server = client.connect_to_server({"name": "bench", "server_url": url, "method_timeout": TIMEOUT})
    triton = server.get_service("triton-client")

    def run(model: str, image: np.ndarray) -> np.ndarray:
        request = {"model_id": model, "inputs": [image]}
        result = triton.execute(inputs=[request], model_name="bioengine-model-runner", serialization="imjoy")["result"]
        if not result["success"]:
            raise RuntimeError(result["error"])
        output: np.ndarray = result["outputs"][0]
        return output

    return run


def triton_client(address: str) -> Run:
    """Uses Triton's own protocol with binary tensors, over one connection that stays open.

    `address`: host and port, or a Unix socket, `unix:/path`.
    """
    import tritonclient.http as triton_http

    path = address.removeprefix("unix:")
    url = address if path == address else "triton"
    client = triton_http.InferenceServerClient(url, connection_timeout=TIMEOUT, network_timeout=TIMEOUT)
    if path != address:
        # In the environment of tritonclient, the server is installed, too.
        from bioengine_server.foreign.tritonclient import connect_to_socket

        connect_to_socket(client, path)

    def run(model: str, image: np.ndarray) -> np.ndarray:
        tensor = triton_http.InferInput("image", list(image.shape), "FP32")
        tensor.set_data_from_numpy(image)
        output = client.infer(model, [tensor]).as_numpy("same")
        if output is None:
            raise RuntimeError(f"{model} gave no output 'same'")
        return output

    return run


def tcp_client(address: str) -> Run:
    """Sends an image as MessagePack over a plain socket, and reads it back (`floor.echo_server`)."""
    import msgpack

    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), TIMEOUT)

    def run(model: str, image: np.ndarray) -> np.ndarray:
        data = msgpack.packb({"image": image.tobytes()})
        connection.sendall(len(data).to_bytes(8, "big") + data)
        answer = bytearray(len(data))
        view = memoryview(answer)
        while view:
            if not (count := connection.recv_into(view)):
                raise ConnectionError("the other end hung up")
            view = view[count:]
        return np.frombuffer(msgpack.unpackb(answer)["image"], image.dtype).reshape(image.shape)

    return run


def core(store: str) -> Run:
    """Runs models of the store with bioimageio.core in this process, without a server. Pipelines are kept.

    Images are run whole with the ONNX weights, without padding or cropping; on the GPU if the runner's environment is for one.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime
    from bioimageio.core import Sample, Tensor, create_prediction_pipeline
    from bioimageio.core.axis import AxisInfo
    from bioimageio.core.digest_spec import get_member_id
    from bioimageio.spec import load_model_description
    from loguru import logger

    logger.disable("bioimageio")
    # Only one provider, as in the server's model processes: the default opens a session for each.
    gpu = "CUDAExecutionProvider"
    device = gpu if gpu in onnxruntime.get_available_providers() else "CPUExecutionProvider"

    @functools.cache
    def opened(model: str) -> Any:
        (package,) = Path(store, model).glob("*/rdf.yaml")
        description = load_model_description(package, perform_io_checks=False)
        pipeline = create_prediction_pipeline(description, weights_format="onnx", devices=[device])
        (spec,) = description.inputs
        return pipeline, get_member_id(spec), [AxisInfo.create(axis).id for axis in spec.axes]

    def run(model: str, image: np.ndarray) -> np.ndarray:
        pipeline, id, axes = opened(model)
        sample = Sample(members={id: Tensor(image, dims=axes)}, stat={}, id=None)
        result = pipeline.predict_sample_without_blocking(sample, skip_input_padding=True, skip_output_cropping=True)
        return np.asarray(next(iter(result.members.values())).data)

    return run


KINDS: dict[str, Callable[[str], Run]] = {
    "imjoy-rpc": lambda address: rpc_client("imjoy_rpc.hypha.sync", address),
    "hypha-rpc": lambda address: rpc_client("hypha_rpc.sync", address),
    "tritonclient": triton_client,
    "tcp": tcp_client,
    "bioimageio.core": core,
}


def measured(run: Run, model: str, shape: list[int], seed: int, save: str | None) -> dict[str, Any]:
    image = np.random.default_rng(seed).random(shape, np.float32)
    started, worked = time.perf_counter(), time.process_time()
    output = run(model, image)
    seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    if save is not None:
        np.save(save, output)
    elif output.dtype != image.dtype or not np.array_equal(output, image):
        return {"error": "what came back differs from what was sent"}
    return {"seconds": seconds, "cpu": cpu}


def main() -> None:
    # imjoy-rpc logs to stdout, which is needed for the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.disable(logging.ERROR)
    kind, address = sys.argv[1:]
    run: Run | None = None
    for line in sys.stdin:
        # End in any case: imjoy-rpc waits forever for a server that has gone.
        signal.alarm(2 * TIMEOUT)
        try:
            run = run or KINDS[kind](address)
            answer = measured(run, **json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        signal.alarm(0)
        print(json.dumps(answer), file=answers, flush=True)
    # Do not wait for imjoy-rpc, which takes ten seconds to disconnect.
    os._exit(0)


if __name__ == "__main__":
    main()
