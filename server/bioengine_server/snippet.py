"""A first program for the user to paste, printed when the stack is ready."""

from __future__ import annotations

import math

from bioengine_contract.axes import SPACE
from bioengine_contract.manifest import Axis
from bioengine_contract.trust import usable_weights

from bioengine_server.access.rules import Access
from bioengine_server.dispatch.probe import PROBE_MODEL
from bioengine_server.settings import Settings
from bioengine_server.store.model_store import ModelStore

_SNIPPET = """\
import numpy as np
from imjoy_rpc.hypha.sync import connect_to_server  # pip install imjoy-rpc "websockets<14"

server = connect_to_server({{"name": "me", "server_url": "{url}", "method_timeout": 3000{token}}})
triton = server.get_service("triton-client")
image = np.random.randint(0, 255, {shape})
ret = triton.execute(inputs=[{{"inputs": [image], "model_id": "{model}"}}],
                     model_name="bioengine-model-runner", serialization="imjoy")
result = ret["result"]
print(result["outputs"][0].shape if result["success"] else result["error"])"""

_MODEL = "drawn-nuclei"
_USUAL_SIZE = 256  # pixels


def first_call(settings: Settings) -> str:
    """A program that runs a stored model with one input: the bundled one, or else another, or else the probe's model."""
    stored = [model.manifest for model in ModelStore(settings.store).models()]
    fitting = [manifest for manifest in stored if usable_weights(manifest, settings.trusted) and len(manifest.inputs) == 1]
    chosen = min(fitting, key=lambda manifest: (manifest.id == PROBE_MODEL, manifest.id != _MODEL))
    shape = tuple(_size(axis) for axis in chosen.inputs[0].axes)
    token = ', "token": "..."' if Access(settings, None).all_need_token else ""
    return _SNIPPET.format(url=settings.advertised_url, token=token, model=chosen.id, shape=shape)


def _size(axis: Axis) -> int:
    """A size that the axis allows, close to the usual size of images."""
    if axis.type != SPACE or not axis.step or axis.min >= _USUAL_SIZE:
        return axis.min
    return axis.min + math.ceil((_USUAL_SIZE - axis.min) / axis.step) * axis.step
