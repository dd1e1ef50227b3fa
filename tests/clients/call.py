"""Run one model through one client library, as a user's program does. Runs in the library's own environment.

    python call.py LIBRARY MODE URL REQUEST.json FOLDER

LIBRARY is imjoy or hypha, MODE async or sync. REQUEST.json: `{"model_id", "inputs": [file.npy, ...], "weight_format"}`,
`arguments` for `execute`, `method_timeout`, null for the library's own, and `token`, if any. Writes `FOLDER/output_<n>.npy` and
`FOLDER/result.json`: the result without its arrays, or `{"raised": str}`.
"""

import asyncio
import json
import logging
import sys
from pathlib import Path

import numpy as np
from entry import entry, settled

logging.disable(logging.ERROR)


def request_of(path):
    """Arguments of `execute`, and what is said to `connect_to_server` beside the address."""
    request = json.loads(Path(path).read_text())
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


def main():
    library, mode, url, request, folder = sys.argv[1:]
    connect_to_server, *_ = entry(library, mode)
    try:
        answer = asyncio.run(call(connect_to_server, url, *request_of(request)))
    except Exception as error:
        report: dict = {"raised": str(error)}
    else:
        report = dict(answer["result"])
        for number, output in enumerate(report.pop("outputs", [])):
            np.save(Path(folder) / f"output_{number}.npy", output)
        report["info"] = dict(answer["__info__"])
    (Path(folder) / "result.json").write_text(json.dumps(report, default=str))


if __name__ == "__main__":
    main()
