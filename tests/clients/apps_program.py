"""A program of the public server's time, with imjoy-rpc: it calls Cellpose and StarDist on an RGB image.

python apps_program.py URL IMAGE.npy MASKS.npz
"""

import sys

import numpy as np
from imjoy_rpc.hypha.sync import connect_to_server

url, file, results = sys.argv[1:]
server = connect_to_server({"name": "test client", "server_url": url, "method_timeout": 3000})
triton = server.get_service("triton-client")
image = np.load(file)

cellpose = triton.execute(inputs=[image.astype("float32"), {"diameter": 12}], model_name="cellpose-python", decode_json=True)
assert cellpose["mask"].shape[1:] == image.shape[:2]

stardist = triton.execute(inputs=[image[..., 0].astype("uint16"), {}], model_name="stardist", decode_json=True)
assert stardist["mask"].shape == image.shape[:2]

np.savez(results, cellpose=cellpose["mask"], stardist=stardist["mask"])
print("passed", flush=True)
