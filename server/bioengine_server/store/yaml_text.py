"""Read YAML 1.2, as bioimageio.spec does: `no` is a word, `012` is twelve, and `1e-3` is a number.

PyYAML, which is fast, reads YAML 1.1. Without the changes in this module, the server could read other values from a description
than the library that runs the model, and a description that the server rewrites (because a file was renamed) could change its
meaning.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_FastLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FastDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

_BOOL, _INT, _FLOAT, _NULL = (f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "null"))
_PLAIN_VALUES = (
    (_BOOL, r"true|True|TRUE|false|False|FALSE", "tTfF"),
    (_INT, r"[-+]?[0-9][0-9_]*|0o[0-7_]+|0x[0-9a-fA-F_]+", "-+0123456789"),
    (
        _FLOAT,
        r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    (_NULL, r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:merge", r"<<", "<"),
)


class Loader(_FastLoader):
    """Reads dates as text."""


class _Dumper(_FastDumper):
    pass


def _integer(loader: Any, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


_NOT_FINITE = {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}  # like numbers in JSON


def _text(dumper: Any, text: str) -> yaml.ScalarNode:
    if text in _NOT_FINITE:
        return dumper.represent_scalar(_FLOAT, _NOT_FINITE[text])  # type: ignore[no-any-return]
    # In quotes if a reader of either version could read it as a number or a date; PyYAML itself quotes words such as `no`.
    style = '"' if re.match(r"[0-9.+-]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)  # type: ignore[no-any-return]


Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _PLAIN_VALUES:
    Loader.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), list(_first))
Loader.add_constructor(_INT, _integer)
_Dumper.add_representer(str, _text)


def dumped(raw: dict[str, Any]) -> bytes:
    """Write the plain data of a description as YAML; with libyaml, if it is installed, which takes a tenth of the time."""
    return str(yaml.dump(raw, Dumper=_Dumper, sort_keys=False, allow_unicode=True)).encode()
