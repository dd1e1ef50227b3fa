"""Options of calls, of any type, length and shape: each is accepted, or refused by name at once."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import msgpack
import numpy as np
import pytest
import requests
from bioengine_server.access.lanes import _key
from bioengine_server.dispatch.errors import RefusedArgument
from bioengine_server.http.callers import caller_of
from bioengine_server.service.infer_options import checked_flag, checked_model_name, checked_serialization, infer_options
from bioengine_server.service.tensors import checked_outputs
from starlette.requests import Request

from tests.stack.harness import RUNNER, Stack

ARRAY = {"_rtype": "ndarray", "_rvalue": bytes(8), "_rshape": [2], "_rdtype": "float32"}
OPTIONS = (
    "model_name serialization decode_json decode_bytes model_version request_id sequence_id sequence_start sequence_end priority "
    "timeout compression_algorithm cache_config verbose select_outputs"
).split()


def post(stack: Stack, method: str, **arguments: Any) -> tuple[int, str]:
    headers = {"Content-Type": "application/msgpack", "Accept": "application/json"}
    url = f"{stack.url}/public/services/triton-client/{method}"
    answer = requests.post(url, msgpack.packb(arguments), headers=headers, timeout=60)
    return answer.status_code, answer.content.decode(errors="replace")


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(
    "value", [ARRAY, [ARRAY] * 50, {"a": 1}, b"\xff", 2**64 - 1, "x" * 1000], ids=lambda value: str(value)[:8]
)
def test_an_option_of_another_type_is_refused_by_its_name(stack: Stack, name: str, value: Any) -> None:
    if name == "sequence_id" and isinstance(value, int):
        value = -1
    status, text = post(stack, "execute", **{"inputs": [ARRAY], "model_name": "cellpose-like", name: value})
    assert status == 400 and f"'{name}' is refused" in text and len(text) < 800, (status, text)


@pytest.mark.parametrize("value", [ARRAY, "a/" * 5_000_000, {"a": 1}, 5])
def test_get_config_of_what_is_no_name(stack: Stack, value: Any) -> None:
    begun = time.monotonic()
    status, text = post(stack, "get_config", model_name=value)
    assert status == 400 and "'model_name' is refused" in text and len(text) < 500
    assert time.monotonic() - begun < 2
    status, text = post(stack, "get_config", model_name=RUNNER, model_version=ARRAY)
    assert status == 400 and "'model_version' is refused" in text


def test_arrays_are_no_options() -> None:
    array = np.zeros(2)
    checks: dict[str, Any] = {
        "model_name": checked_model_name,
        "serialization": checked_serialization,
        "verbose": lambda value: checked_flag("verbose", value),
        "sequence_id": lambda value: infer_options(sequence_id=value),
        "request_id": lambda value: infer_options(request_id=value),
        "select_outputs": lambda value: checked_outputs(value, {"output": [{"name": "mask"}]}),
    }
    for name, check in checks.items():
        for value in (array, [array] * 30_000):
            with pytest.raises(RefusedArgument, match=f"'{name}' is refused") as refused:
                check(value)
            assert len(str(refused.value)) < 300


def test_callers_without_a_token_take_turns_by_their_address() -> None:
    authenticator: Any = SimpleNamespace(admit=lambda scope, token: None)
    keys = {
        _key(caller_of(Request({"type": "http", "headers": [], "client": client}), authenticator))
        for client in (("10.0.0.1", 5), ("10.0.0.1", 6), ("10.0.0.2", 5), None)
    }
    assert len(keys) == 3


def test_tritons_extensions_that_are_closed_are_not_told(stack: Stack) -> None:
    about = requests.get(f"{stack.url}/triton/v2", timeout=10).json()
    assert {"sequence", "binary_tensor_data"} <= set(about["extensions"]) and about["name"] == "triton"
    assert not any(word in " ".join(about["extensions"]) for word in ("memory", "trace", "logging", "statistics", "repository"))
