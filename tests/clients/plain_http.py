"""A client for `program.py` in a few lines: plain HTTP as documented, with requests and msgpack, and no library of ours.

Its mode is how arguments are sent: msgpack, gzip (and msgpack) or json.
"""

import base64
import gzip
import json
import sys

import msgpack
import numpy as np
import requests

DISTRIBUTION = "requests"
MODE = sys.argv[2]
KIND = "application/json" if MODE == "json" else "application/msgpack"


def connect_to_server(config):
    return Server(config["server_url"], config.get("token"))


class Server:
    config = {"workspace": "public"}

    def __init__(self, url, token):
        self._url = f"{url}/public/services"
        self._session = requests.Session()
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"
            self.get_config(model_name="bioengine-model-runner")

    def get_service(self, id):
        assert id == "triton-client"
        return self

    def list_services(self, workspace):
        assert workspace == "public"
        return self._answer(self._session.get(self._url))

    def execute(self, **arguments):
        data = json.dumps(arguments, default=encoded).encode() if MODE == "json" else msgpack.packb(arguments, default=encoded)
        headers = {"Content-Type": KIND}
        if MODE == "gzip":
            data, headers["Content-Encoding"] = gzip.compress(data, 1), "gzip"
        answer = self._session.post(f"{self._url}/triton-client/execute", data=data, headers=headers)
        assert answer.headers["Content-Type"] == (KIND if answer.ok else "application/json"), answer.headers
        return self._answer(answer)

    def get_config(self, **arguments):
        return self._answer(self._session.get(f"{self._url}/triton-client/get_config", params=arguments))

    def get_status(self):
        return self._answer(self._session.get(f"{self._url}/triton-client/get_status"))

    def disconnect(self):
        self._session.close()

    def _answer(self, answer):
        if not answer.ok:
            assert 400 <= answer.status_code < 500, answer.text
            raise RuntimeError(answer.json()["error"])
        if answer.headers["Content-Type"] == "application/msgpack":
            return msgpack.unpackb(answer.content, object_hook=decoded)
        return json.loads(answer.content, object_hook=decoded, parse_constant=refuse)


def encoded(value):
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return {"_rtype": "ndarray", "_rvalue": value.tobytes(), "_rshape": value.shape, "_rdtype": value.dtype.str}


def decoded(value):
    if value.get("_rtype") != "ndarray":
        return value
    data = value["_rvalue"]
    data = base64.b64decode(data) if isinstance(data, str) else data
    return np.frombuffer(data, value["_rdtype"]).reshape(value["_rshape"])


def refuse(constant):
    raise ValueError(f"{constant} is not JSON")
