"""A client whose token is revoked while it is connected. Runs in the library's environment.

    python revoked.py LIBRARY MODE URL TOKEN

Prints what a call ends with; and again after each line on stdin: the result of the run, or `{"raised": str}`.
"""

import asyncio
import json
import logging
import os
import sys

import numpy as np
from entry import entry, settled

logging.disable(logging.CRITICAL)

LIBRARY, MODE, URL, TOKEN = sys.argv[1:]
CONNECT, *_ = entry(LIBRARY, MODE)


async def run(triton):
    request = {"model_id": "conscientious-seashell", "inputs": [np.zeros((1, 3, 16, 16), np.float32)]}
    try:
        answer = await settled(triton.execute(inputs=[request], model_name="bioengine-model-runner", serialization="imjoy"))
    except Exception as error:
        return {"raised": f"{type(error).__name__}: {error}"}
    return {key: answer["result"].get(key) for key in ("success", "error")}


async def main():
    server = await settled(CONNECT({"name": "guest", "server_url": URL, "token": TOKEN}))
    triton = await settled(server.get_service("triton-client"))
    print(json.dumps(await run(triton)), flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await run(triton)), flush=True)
    # Not by the end of the program: the libraries' own threads and tasks may go on for ever.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
