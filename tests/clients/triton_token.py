"""Triton's own clients with a token, or without. Runs in the environment that has them.

    python triton_token.py LIBRARY URL [TOKEN]

LIBRARY is tritonclient or pyotritonclient. Prints the shape of a mask, or `{"raised": str}`.
"""

import asyncio
import json
import sys

import numpy as np
import pyotritonclient
import pyotritonclient.http
import tritonclient.http

LIBRARY, URL = sys.argv[1:3]
HEADERS = {"Authorization": f"Bearer {sys.argv[3]}"} if len(sys.argv) > 3 else {}
IMAGE = np.zeros((1, 3, 16, 16), np.float32)
RUNNER = "bioengine-model-runner"


def by_tritonclient():
    with tritonclient.http.InferenceServerClient(f"{URL.removeprefix('http://')}/triton") as client:
        client.get_model_config("conscientious-seashell", headers=HEADERS)
        given = tritonclient.http.InferInput("image", list(IMAGE.shape), "FP32")
        given.set_data_from_numpy(IMAGE)
        return client.infer("conscientious-seashell", [given], headers=HEADERS).as_numpy("mask")


async def by_pyotritonclient():
    if not HEADERS:
        config = await pyotritonclient.get_config(f"{URL}/triton", RUNNER)
    else:  # its own `execute` asks for the configuration without headers
        with pyotritonclient.http.InferenceServerClient(f"{URL}/triton") as client:
            config = await client.get_model_config(RUNNER, headers=HEADERS)
    answer = await pyotritonclient.execute_model(
        [{"inputs": [IMAGE], "model_id": "conscientious-seashell"}],
        config={**config, "server_url": f"{URL}/triton", "model_name": RUNNER},
        serialization="imjoy",
        headers=HEADERS,
    )
    return answer["result"]["outputs"][0]


def main():
    try:
        mask = by_tritonclient() if LIBRARY == "tritonclient" else asyncio.run(by_pyotritonclient())
    except Exception as error:
        print(json.dumps({"raised": f"{type(error).__name__}: {error}"}))
    else:
        print(json.dumps({"shape": mask.shape}))


if __name__ == "__main__":
    main()
