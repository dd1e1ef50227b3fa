"""Triton's own clients with tokens, or without. Runs in the environment that has them.

    python triton_token.py LIBRARY URL TOKEN ...

LIBRARY is tritonclient or pyotritonclient; a TOKEN may be empty. For each, prints the shape of a mask, or `{"raised": str}`, on a
line of its own.
"""

import asyncio
import json
import sys

import numpy as np
import pyotritonclient
import pyotritonclient.http
import tritonclient.http

LIBRARY, URL, *TOKENS = sys.argv[1:]
IMAGE = np.zeros((1, 3, 16, 16), np.float32)
RUNNER = "bioengine-model-runner"


def by_tritonclient(headers):
    with tritonclient.http.InferenceServerClient(f"{URL.removeprefix('http://')}/triton") as client:
        client.get_model_config("conscientious-seashell", headers=headers)
        given = tritonclient.http.InferInput("image", list(IMAGE.shape), "FP32")
        given.set_data_from_numpy(IMAGE)
        return client.infer("conscientious-seashell", [given], headers=headers).as_numpy("mask")


async def by_pyotritonclient(headers):
    if not headers:
        config = await pyotritonclient.get_config(f"{URL}/triton", RUNNER)
    else:  # its own `execute` asks for the configuration without headers
        with pyotritonclient.http.InferenceServerClient(f"{URL}/triton") as client:
            config = await client.get_model_config(RUNNER, headers=headers)
    answer = await pyotritonclient.execute_model(
        [{"inputs": [IMAGE], "model_id": "conscientious-seashell"}],
        config={**config, "server_url": f"{URL}/triton", "model_name": RUNNER},
        serialization="imjoy",
        headers=headers,
    )
    return answer["result"]["outputs"][0]


def run(token):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        mask = by_tritonclient(headers) if LIBRARY == "tritonclient" else asyncio.run(by_pyotritonclient(headers))
    except Exception as error:
        return {"raised": f"{type(error).__name__}: {error}"}
    return {"shape": mask.shape}


def main():
    for token in TOKENS:
        print(json.dumps(run(token)))


if __name__ == "__main__":
    main()
