"""YAML as bioimageio.spec reads it, in version 1.2: `no` is a word, `012` is twelve, and `1e-3` is a number.

PyYAML, which is fast, reads version 1.1. Where both differ, what we take a description to say would differ from what its model is
run by; and a description that we write (since a file of it is named otherwise here) would not say what it said before.
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
    """Dates stay the text that they are."""


class _Dumper(_FastDumper):
    pass


def _integer(loader: Any, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


_NOT_FINITE = {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}  # as plain data of JSON has them


def _text(dumper: Any, text: str) -> yaml.ScalarNode:
    if text in _NOT_FINITE:
        return dumper.represent_scalar(_FLOAT, _NOT_FINITE[text])  # type: ignore[no-any-return]
    # In quotes where a reader of either version could take it for a number or a date; words are what PyYAML looks after.
    style = '"' if re.match(r"[0-9.+-]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)  # type: ignore[no-any-return]


Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _PLAIN_VALUES:
    Loader.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), list(_first))
Loader.add_constructor(_INT, _integer)
_Dumper.add_representer(str, _text)


def dumped(raw: dict[str, Any]) -> bytes:
    """A description, as plain data, as YAML. By libyaml where it is there, which takes a tenth of the time."""
    return str(yaml.dump(raw, Dumper=_Dumper, sort_keys=False, allow_unicode=True)).encode()
