"""Run models through one client library, as a user's program does. Runs in the library's own environment.

    python call.py LIBRARY MODE URL FOLDER ...

LIBRARY is imjoy or hypha, MODE async or sync. In each FOLDER is `request.json`: `{"model_id", "inputs": [file.npy, ...],
"weight_format"}`, `arguments` for `execute`, `method_timeout`, null for the library's own, and `token`, if any. For each, one
after the other and by a connection of its own, writes `FOLDER/output_<n>.npy` and `FOLDER/result.json`: the result without its
arrays, or `{"raised": str}`, with the `seconds` that all of it took.
"""

import asyncio
import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
from entry import entry, settled

logging.disable(logging.ERROR)


def request_of(path):
    """Arguments of `execute`, and what is said to `connect_to_server` beside the address."""
    request = json.loads(path.read_text())
    timeout = request.pop("method_timeout", 3000)
    arguments = request.pop("arguments", {})
    more = {key: request.pop(key) for key in ("token",) if key in request}
    if "inputs" in request:
        request["inputs"] = [np.load(file) for file in request["inputs"]]
    arguments = dict(inputs=[request], model_name="bioengine-model-runner", serialization="imjoy", **arguments)
    return arguments, more if timeout is None else {"method_timeout": timeout, **more}


async def call(connect_to_server, url, arguments, more):
    server = await settled(connect_to_server({"name": "test client", "server_url": url, **more}))
    triton = await settled(server.get_service("triton-client"))
    try:
        return await settled(triton.execute(**arguments))
    finally:
        await settled(server.disconnect())


def run(connect_to_server, url, folder):
    started = time.monotonic()
    try:
        answer = asyncio.run(call(connect_to_server, url, *request_of(folder / "request.json")))
    except Exception as error:
        report: dict = {"raised": str(error)}
    else:
        report = dict(answer["result"])
        for number, output in enumerate(report.pop("outputs", [])):
            np.save(folder / f"output_{number}.npy", output)
        report["info"] = dict(answer["__info__"])
    report["seconds"] = time.monotonic() - started
    (folder / "result.json").write_text(json.dumps(report, default=str))


def main():
    library, mode, url, *folders = sys.argv[1:]
    connect_to_server, *_ = entry(library, mode)
    for folder in folders:
        run(connect_to_server, url, Path(folder))


if __name__ == "__main__":
    main()
