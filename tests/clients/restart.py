"""A client whose server is restarted while the client is connected, and while a call runs. Runs in the library's environment.

    python restart.py LIBRARY MODE URL SECONDS

Prints "connected"; then runs `slow-snail` for SECONDS, and prints what the call ends with. After a line
on stdin (the server is back), prints what a call of the old connection ends with, and what one of a new connection.
Each is the result of the run, or `{"raised": str}`.
"""

import asyncio
import json
import logging
import os
import sys

import numpy as np
from entry import entry, settled

logging.disable(logging.CRITICAL)

LIBRARY, MODE, URL, SECONDS = sys.argv[1:]
CONNECT, *_ = entry(LIBRARY, MODE)


async def connected():
    server = await settled(CONNECT({"name": "patient", "server_url": URL}))
    return await settled(server.get_service("triton-client"))


async def run(triton, seconds):
    request = {"model_id": "slow-snail", "inputs": [np.full((1, 1, 4, 4), seconds, np.float32)]}
    answer = await settled(triton.execute(inputs=[request], model_name="bioengine-model-runner", serialization="imjoy"))
    return {key: answer["result"].get(key) for key in ("success", "error")}


async def report(work):
    try:
        ended = await work
    except Exception as error:
        ended = {"raised": f"{type(error).__name__}: {error}"}
    print(json.dumps(ended), flush=True)


async def on_a_new_connection():
    return await run(await connected(), 0)


async def main():
    triton = await connected()
    print("connected", flush=True)
    await report(run(triton, float(SECONDS)))
    await asyncio.to_thread(sys.stdin.readline)
    await report(run(triton, 0))
    await report(on_a_new_connection())
    # Not by the end of the program: the libraries' own threads and tasks may go on for ever.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
