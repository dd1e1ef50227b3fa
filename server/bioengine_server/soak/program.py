"""A client's program in a process of its own, which does what it is told. Runs in the environment of its library.

    python program.py KIND URL

KIND is imjoy-rpc, hypha-rpc, http or triton. Reads lines `{"request": {...}, "then": str, "after": seconds, "expected": file or
null}`; for each sends the request and writes a line `{"outcome": str, "text": str}`: "right" or "wrong" where a result was
expected, "result" where none was, else the error's code, or "raised" of an error without one.

In a request, `{"shape": [pixels, ...], "seed": int}` stands for a float32 image. `then` is "wait" for the answer, "cancel" the
request `after` so many seconds, or "vanish": this process kills itself then.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

TIMEOUT = 60  # seconds
TOLERANCE = 1e-4  # of the right answer's scale

Known = Callable[[Callable[[], object]], None]
"""Called once a request can be cancelled, with what cancels it."""

Run = Callable[[dict[str, Any], Known], dict[str, Any]]
"""The result of a request, with `success`, and `outputs` or `error` and `code`."""


def rpc_client(module: str, url: str) -> Run:
    """`triton-client`, as a user's program calls it."""
    client = importlib.import_module(module)
    server = client.connect_to_server({"name": "soak", "server_url": url, "method_timeout": TIMEOUT})
    triton = server.get_service("triton-client")

    def run(request: dict[str, Any], known: Known) -> dict[str, Any]:
        def listen(event: dict[str, Any]) -> None:
            known(lambda: triton.cancel(event["task_id"]))

        arguments = {"inputs": [request], "model_name": "bioengine-model-runner", "serialization": "imjoy"}
        return dict(triton.execute(**arguments, progress=listen)["result"])

    return run


def http_client(url: str) -> Run:
    """`triton-client` over plain HTTP, as MessagePack. In its environment, the server is installed, too."""
    import httpx
    from bioengine_contract import message

    client = httpx.Client(timeout=TIMEOUT)

    def run(request: dict[str, Any], _: Known) -> dict[str, Any]:
        call = {"inputs": [request], "model_name": "bioengine-model-runner", "serialization": "imjoy"}
        address = f"{url}/public/services/triton-client/execute"
        answer = _post(client, address, message.encode(call), {"Content-Type": "application/msgpack"})
        return dict(message.decode(answer.content)["result"])

    return run


def triton_client(url: str) -> Run:
    """Triton's own protocol, with binary tensors; models by their own names. `outputs` has the first one alone."""
    import httpx

    client = httpx.Client(timeout=TIMEOUT)

    def run(request: dict[str, Any], _: Known) -> dict[str, Any]:
        (image,) = request["inputs"]
        tensor = {"name": request.get("input", "image"), "shape": image.shape, "datatype": "FP32"}
        tensor["parameters"] = {"binary_data_size": request.get("claimed_size", image.nbytes)}
        header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        address, length = f"{url}/triton/v2/models/{request['model_id']}/infer", "Inference-Header-Content-Length"
        answer = _post(client, address, header + image.tobytes(), {length: str(len(header))})
        start = int(answer.headers[length])
        output = json.loads(answer.content[:start])["outputs"][0]
        data = answer.content[start : start + math.prod(output["shape"]) * 4]
        return {"success": True, "outputs": [np.frombuffer(data, "<f4").reshape(output["shape"])]}

    return run


KINDS: dict[str, Callable[[str], Run]] = {
    "imjoy-rpc": lambda url: rpc_client("imjoy_rpc.hypha.sync", url),
    "hypha-rpc": lambda url: rpc_client("hypha_rpc.sync", url),
    "http": http_client,
    "triton": triton_client,
}


class Refused(Exception):
    """The answer of HTTP to a request that was refused."""

    def __init__(self, status: int, body: bytes) -> None:
        try:
            answer = json.loads(body)
        except ValueError:
            answer = {}
        self.code = str(answer.get("code") or f"HTTP {status}")
        super().__init__(str(answer.get("error") or body[:200]))


def _post(client: Any, address: str, body: bytes, headers: dict[str, str]) -> Any:
    """Raises Refused."""
    answer = client.post(address, content=body, headers=headers)
    if answer.status_code != 200:
        raise Refused(answer.status_code, answer.content)
    return answer


def act(run: Run, request: dict[str, Any], then: str, after: float, expected: str | None) -> tuple[str, str]:
    """What came of a request, and an error's text."""
    timers: list[threading.Timer] = []

    def later(what: Callable[[], object]) -> None:
        timer = threading.Timer(after, _quietly, (what,))
        timer.daemon = True
        timers.append(timer)
        timer.start()

    def known(cancel: Callable[[], object]) -> None:
        if then == "cancel" and not timers:
            later(cancel)

    if then == "vanish":
        later(lambda: os.kill(os.getpid(), signal.SIGKILL))
    request = {**request, "inputs": [_image(item) for item in request["inputs"]]}
    try:
        result = run(request, known)
    except Refused as error:
        return error.code, str(error)
    except Exception as error:
        return "raised", f"{type(error).__name__}: {error}"[:500]
    if not result["success"]:
        return str(result["code"]), str(result["error"])
    return _compared(result["outputs"][0], expected) if expected is not None else ("result", "")


def _quietly(what: Callable[[], object]) -> None:
    """Of a request that has ended meanwhile, there is nothing to cancel."""
    with suppress(Exception):
        what()


def _image(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    return np.random.default_rng(item["seed"]).random(item["shape"], np.float32)


def _compared(output: np.ndarray, expected: str) -> tuple[str, str]:
    right = np.load(expected)
    if output.shape != right.shape or output.dtype != right.dtype:
        return "wrong", f"{output.dtype} of shape {output.shape} instead of {right.dtype} of {right.shape}"
    difference = float(np.max(np.abs(output - right)))
    if not difference <= TOLERANCE * max(1.0, float(np.max(np.abs(right)))):
        return "wrong", f"it differs by up to {difference:g}"
    return "right", ""


def main() -> None:
    # imjoy-rpc logs to stdout, which is for the answers here.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.disable(logging.CRITICAL)
    kind, url = sys.argv[1:]
    run: Run | None = None
    for line in sys.stdin:
        try:
            run = run or KINDS[kind](url)
        except Exception as error:
            outcome, text = "raised", f"no connection: {type(error).__name__}: {error}"[:500]
        else:
            outcome, text = act(run, **json.loads(line))
        print(json.dumps({"outcome": outcome, "text": text}), file=answers, flush=True)
    # Without the ten seconds that imjoy-rpc waits for the server to hang up.
    os._exit(0)


if __name__ == "__main__":
    main()
