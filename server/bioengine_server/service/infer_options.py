"""Check the arguments of `execute` that become options of Triton's inference request: their types and ranges."""

from __future__ import annotations

import re
from typing import Any

from bioengine_contract.ids import TRITON_VERSION
from bioengine_contract.request import MAX_ID

from bioengine_server.dispatch.errors import RefusedArgument
from bioengine_server.triton.infer_options import MAX_PRIORITY, MAX_SEQUENCE_ID, MAX_TIMEOUT, InferOptions, is_text, is_whole

_VERSION = re.compile(TRITON_VERSION)
_COMPRESSIONS = ("gzip", "deflate")
_SERIALIZATIONS = ("triton", "imjoy")
_SHOWN = 60  # characters of a value in an error

# What `infer_options` takes where an argument is left out, as most are.
_DEFAULTS = ("", "", 0, False, False, 0, None, None)
_WITHOUT = InferOptions()


def infer_options(
    *,
    model_version: Any = "",
    request_id: Any = "",
    sequence_id: Any = 0,
    sequence_start: Any = False,
    sequence_end: Any = False,
    priority: Any = 0,
    timeout: Any = None,
    compression_algorithm: Any = None,
) -> InferOptions:
    """The options, of which None stands for what Triton does without. Raises RefusedArgument, naming the argument."""
    given = (model_version, request_id, sequence_id, sequence_start, sequence_end, priority, timeout, compression_algorithm)
    if all(value is default for value, default in zip(given, _DEFAULTS)):
        return _WITHOUT
    _check_compression(compression_algorithm)
    return InferOptions(
        model_version=checked_version(model_version),
        request_id=_text("request_id", request_id),
        sequence_id=_sequence_id(sequence_id),
        sequence_start=checked_flag("sequence_start", sequence_start),
        sequence_end=checked_flag("sequence_end", sequence_end),
        priority=_whole("priority", priority, MAX_PRIORITY),
        # Triton has no timeout of 0.
        timeout=_whole("timeout", timeout, MAX_TIMEOUT, " of microseconds") or None,
    )


def checked_version(value: Any) -> str:
    """The version of a Triton model; empty for the newest. Raises RefusedArgument."""
    if _is_nothing(value):
        return ""
    text = str(value) if is_whole(value, 10**18 - 1) else value
    if not isinstance(text, str) or not _VERSION.fullmatch(text):
        raise RefusedArgument("model_version", f"{shown(value)} is not a number in a string, such as '1'.")
    return text


def checked_model_name(value: Any) -> Any:
    """The name of a model, or None. Raises RefusedArgument if it cannot be one."""
    if value is not None and not (isinstance(value, str) and len(value) <= MAX_ID):
        raise RefusedArgument("model_name", f"{shown(value)} is not the name of a model: a text of at most {MAX_ID} characters.")
    return value


def checked_serialization(value: Any) -> str:
    """The serialization, "imjoy" or "triton". Raises RefusedArgument."""
    if not isinstance(value, str) or value not in _SERIALIZATIONS:
        raise RefusedArgument("serialization", f"{shown(value)} is not 'imjoy' or 'triton'.")
    return value


def _is_nothing(value: Any) -> bool:
    """Whether an argument was left out. Arrays are not compared, because the result would be an array."""
    return value is None or (isinstance(value, str) and not value)


def _text(name: str, value: Any) -> str:
    if _is_nothing(value):
        return ""
    if not is_text(value):
        raise RefusedArgument(name, f"{shown(value)} is not a text of at most 128 printable ASCII characters.")
    return str(value)


def _sequence_id(value: Any) -> int | str:
    if _is_nothing(value):
        return 0
    if not (is_whole(value, MAX_SEQUENCE_ID) or is_text(value)):
        raise RefusedArgument(
            "sequence_id",
            f"{shown(value)} is neither a whole number from 0 to {MAX_SEQUENCE_ID} nor a text of at most 128 printable ASCII "
            "characters.",
        )
    return value  # type: ignore[no-any-return]


def checked_flag(name: str, value: Any) -> bool:
    """True or False; None is False. Raises RefusedArgument."""
    if value is not None and not isinstance(value, bool):
        raise RefusedArgument(name, f"{shown(value)} is not True or False.")
    return bool(value)


def _whole(name: str, value: Any, most: int, unit: str = "") -> int:
    if value is None:
        return 0
    if not is_whole(value, most):
        raise RefusedArgument(name, f"{shown(value)} is not a whole number{unit} from 0 to {most}.")
    return int(value)


def _check_compression(value: Any) -> None:
    """Checked but ignored: server and Triton are on the same machine. Raises RefusedArgument for unknown values."""
    if value is not None and not (isinstance(value, str) and value in _COMPRESSIONS):
        raise RefusedArgument("compression_algorithm", f"{shown(value)} is not gzip, deflate or None.")


def shown(value: Any) -> str:
    """A value as an error message shows it; only its type if it is long."""
    if isinstance(value, (str, bytes)):
        return repr(value[:_SHOWN])
    if isinstance(value, (list, tuple)) and len(value) < _SHOWN and all(isinstance(item, str) for item in value):
        return str([item[:_SHOWN] for item in value])[: 2 * _SHOWN]
    return str(value)[:_SHOWN] if isinstance(value, (bool, float)) or is_whole(value, 10**30) else f"a {type(value).__name__}"
