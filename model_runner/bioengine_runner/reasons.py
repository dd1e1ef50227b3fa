"""Turn an exception from a model's framework into a short phrase for an error message: the useful lines, without paths.

ONNX Runtime says in its first line that something does not fit, and in the next ones what; TorchScript gives the reason last,
after a listing of its code; so does TensorFlow for a graph, after the operation.
"""

from __future__ import annotations

import re

_LIMIT = 300  # characters

# "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : ", and references to its own source code.
_ONNX = re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_SOURCE = re.compile(
    r"\S*/\S+\.(?:cc|cpp|h|hpp|cu|cuh|py)\b(?::\d+)?(?: .*?\((?:[^()]|\([^()]*\))*\)(?: const)?(?: \[with [^\]]*\])?)?\s*"
)
_PATH = re.compile(r"(?<![\w.])/(?:[\w.+-]+/)+[\w.+-]*")
# TensorFlow's names of its own parts: "{{function_node ...}}", "[[{{node ReadFile}}]]", "[Op:Reshape]".
_TENSORFLOW = re.compile(r"\s*(?:\{\{[^}]*\}\}|\[Op:[^\]]*\])\s*")
_NO_NEWS = ("Please fix either the inputs/outputs or the model.",)


class StepError(Exception):
    """A processing step failed.

    `kind`: "pre-processing" or "post-processing". `step`: its name in the description. `tensor`: what it processes.
    """

    def __init__(self, kind: str, step: str, tensor: str, reason: str) -> None:
        super().__init__(f"{kind} step {step} of {tensor}: {reason}")
        self.kind = kind
        self.step = step
        self.tensor = tensor
        self.reason = reason


def in_short(error: BaseException) -> str:
    """Why an exception was raised, in one line."""
    if isinstance(error, MemoryError):
        return "there was not enough memory"
    if isinstance(error, SystemExit):
        return f"its code ended the process, with status {error.code}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if isinstance(error, KeyError):
        return f"there is no {lines[0]}"
    last = next((line for line in reversed(lines) if re.match(r"(?:[\w.]*Error|[\w.]*Exception): ", line)), None)
    if last is not None and "TorchScript" in lines[0]:
        lines = [last.partition(": ")[2]]
    elif lines[0] == "Graph execution error:":
        lines = [line for line in lines if not line.startswith("[[")][-1:]
    elif re.match(r"\d+ validation errors? for ", lines[0]):
        lines = [_invalid_value(lines)]
    elif _ONNX.match(lines[0]):
        lines = [line for line in lines if line not in _NO_NEWS]
        lines = [f"ONNX Runtime: {_ONNX.sub('', lines[0])}", *lines[1:]]
    else:
        lines = lines[:1]
    lines[0] = _TENSORFLOW.sub("", lines[0])
    text = _PATH.sub("…", _SOURCE.sub("", ": ".join([lines[0], *filter(None, ["; ".join(lines[1:])])])))
    return text[: _LIMIT - 1] + "…" if len(text) > _LIMIT else text.rstrip(".")


def _invalid_value(lines: list[str]) -> str:
    """The first problem that pydantic found: the field (unless the whole value is wrong), the value, and what is wrong."""
    field, described = ("", lines[1]) if " [type=" in lines[1] else (lines[1], lines[2])
    what, _, details = described.partition(" [")
    value = re.search(r"input_value=(.*), input_type=(\w+)", details)
    return ": ".join(filter(None, (field, value and f"{value[2]} {value[1]}", what)))
