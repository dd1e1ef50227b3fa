"""Many requests that are valid but do not fit the model: Triton answers each of them and continues to work."""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections import Counter
from typing import Any

import pytest

from tests.security.test_triton_attacks import infer
from tests.security.witness import Witness
from tests.stack.harness import RUNNER
from tests.tiers import cases

REQUESTS = int(os.environ.get("FUZZED_REQUESTS", "300"))
SIZES = {"FP32": 4, "UINT8": 1, "INT64": 8, "BOOL": 1, "FP16": 2}
SHAPES: list[list[int]] = [
    [], [0], [1], [2], [1, 1], [0, 1], [1, 3, 32, 32], [0, 3, 32, 32], [1, 3, 0, 32], [1, 0, 32, 32], [3, 32, 32],
    [2, 3, 32, 32], [1, 3, 32, 32], [1] * 32, [2**40, 0], [0, 2**47], [1, 3, 1, 1],
    [1, 3, 1, 4096], [5000, 3, 1, 1], [3, 8, 8], [0, 0, 0], [1, 1, 1],
]  # fmt: skip
NAMES = ["image", "value", "param", "kwargs", "mask", "START", "CORRID", "other"]
RIGHT = {
    "conscientious-seashell": ([1, 3, 32, 32], ["mask"]), "counter": ([1, 1], ["sum"]),
    "cellpose-like": ([1, 4, 4], ["mask", "info"]), "old-otter": ([1, 1, 32, 48], ["output"]),
    "two-inputs": ([1, 1, 4, 8, 8], ["mask"]), RUNNER: ([1], ["result"]),
}  # fmt: skip


def tensor(dice: random.Random, model: str) -> tuple[dict[str, Any], bytes]:
    """One that the model takes, but for its shape; or any other."""
    shape, name, datatype = dice.choice([*SHAPES, *[RIGHT[model][0]] * 30]), "value" if model == "counter" else "image", "FP32"
    if dice.random() < 0.7:
        data = bytes(math.prod(shape) * SIZES[datatype])
    elif dice.random() < 0.4:
        name = dice.choice(NAMES)
        texts = [dice.choice([b"", b"{}", b"\xff\0", b"x" * 300]) for _ in range(min(math.prod(shape), 2000))]
        data, datatype = b"".join(len(text).to_bytes(4, "little") + text for text in texts), "BYTES"
        shape = shape if math.prod(shape) == len(texts) else [len(texts)]
    else:
        name, datatype = dice.choice(NAMES), dice.choice([*SIZES])
        data = bytes(math.prod(shape) * SIZES[datatype])
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}, data


def request(dice: random.Random, model: str) -> tuple[dict[str, Any], bytes]:
    tensors = {item["name"]: (item, data) for item, data in (tensor(dice, model) for _ in range(dice.choice([1, 1, 1, 2, 3])))}
    header: dict[str, Any] = {"inputs": [item for item, _ in tensors.values()]}
    if dice.random() < 0.4:
        outputs = dice.choice([RIGHT[model][1], RIGHT[model][1][:1], ["mask", "sum"], ["other"]])
        kinds: list[dict[str, Any]] = [{}, {}, {"binary_data": True}, {"binary_data": False}, {"classification": 1}]
        parameters = dice.choice(kinds)
        header["outputs"] = [{"name": name, "parameters": parameters} for name in outputs]
    if dice.random() < 0.5:
        header["parameters"] = {
            key: value
            for key, value in {
                "priority": dice.choice([0, 1, 2**32 - 1]),
                "timeout": dice.choice([0, 1, 2**63 - 1]),
                "sequence_id": dice.choice([7, 7, 2**64 - 1, "x" * 128]),
                "sequence_start": dice.random() < 0.5,
                "sequence_end": dice.random() < 0.5,
                "binary_data_output": dice.random() < 0.5,
            }.items()
            if dice.random() < 0.5
        }
    return header, b"".join(data for _, data in tensors.values())


@pytest.mark.parametrize("seed", cases(range(3), core=[0]))
def test_triton_serves_on_whatever_it_is_asked(witness: Witness, seed: int) -> None:
    dice = random.Random(seed)
    answered: Counter[int] = Counter()
    for _ in range(REQUESTS // 3):
        model = dice.choice([*RIGHT])
        header, data = request(dice, model)
        status, text = infer(witness.stack, model, header, data)
        if status == 429:
            time.sleep(1)  # Hypha's own limit of requests in a second
        answered[status] += 1
        assert status in (200, 400, 404, 429), (model, header, status, text[:300])
        assert "Traceback" not in text and ".py" not in text, (model, json.dumps(header), text[:500])
    print(dict(answered))
    assert answered[400] > REQUESTS / 10 and answered[200] > REQUESTS / 100
