"""The process in which descriptions and lists of a collection are read; `bioengine_server.store.reader` starts it.

    python -I -m bioengine_server.store.reader_process

A request is a line of JSON, `{"operation", "size", ...}`, and `size` bytes of content; the answer is a line with its size, and
JSON. Each request is handled in a fork, so that slow imports happen only once, and one description cannot affect the next. The
fork has little memory, little time, and cannot write any file; if it fails, this process ends too, and its parent starts another.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bioengine_contract.lean_import import lean_import

from bioengine_server.store.description import Invalid, TooNew, Unreadable, build, parse
from bioengine_server.store.external_data import BadWeights, is_alone, paths_of

_MEMORY = 1 << 30  # bytes that a fork may have; at its start it has about 80 MB
_MAX_ANSWER = 16_000_000  # bytes
_IDLE_SECONDS = 60.0  # seconds of idle time after which the process ends, to free its memory


def read_raw(content: bytes) -> Any:
    return parse(content)


def read_package(content: bytes, folder: str, id: str, files: dict[str, str], origin: str) -> dict[str, Any]:
    return build(Path(folder), id, files, origin)


def external_paths(content: bytes, file: str) -> list[str]:
    return paths_of(Path(file))


def is_alone_onnx(content: bytes, file: str) -> bool:
    return is_alone(Path(file))


def search_listing(content: bytes, words: list[str]) -> list[dict[str, str]]:
    """The models in a collection's listing that contain all `words`."""
    document = json.loads(content)
    items = document.get("items", document.get("collection", [])) if isinstance(document, dict) else document
    found = []
    for item in items if isinstance(items, list) else []:
        if not isinstance(item, dict) or item.get("type", "model") != "model":
            continue
        text = json.dumps(item, ensure_ascii=False).casefold()
        if all(word.casefold() in text for word in words):
            about: Any = item.get("manifest") if isinstance(item.get("manifest"), dict) else item
            id = str(item.get("alias") or item.get("nickname") or item.get("id") or "").rsplit("/", maxsplit=1)[-1]
            found.append({"id": id, "name": str(about.get("name") or ""), "description": str(about.get("description") or "")})
    return found


def look_up(content: bytes, ids: list[str]) -> dict[str, str]:
    """The URLs of the descriptions of those `ids` that an id map contains."""
    document = json.loads(content)
    found = {}
    for id in ids:
        entry = document.get(id) if isinstance(document, dict) else None
        source = entry.get("source") if isinstance(entry, dict) else entry
        if isinstance(source, str):
            found[id] = source
    return found


# The operations, and the seconds of computing time that each may use.
_OPERATIONS: dict[str, tuple[Callable[..., Any], int]] = {
    "read_raw": (read_raw, 3),
    "read_package": (read_package, 12),
    "external_paths": (external_paths, 12),
    "is_alone_onnx": (is_alone_onnx, 12),
    "search_listing": (search_listing, 12),
    "look_up": (look_up, 12),
}


def _answer(operation: str, content: bytes, arguments: dict[str, Any]) -> bytes:
    try:
        answer = {"result": _OPERATIONS[operation][0](content, **arguments)}
        encoded = json.dumps(answer, ensure_ascii=False).encode()
        if len(encoded) <= _MAX_ANSWER:
            return encoded
        answer = {"unreadable": "its content is too large"}
    except Unreadable as error:
        answer = {"unreadable": str(error)}
    except TooNew as error:
        answer = {"too_new": str(error)}
    except Invalid as error:
        answer = {"invalid": str(error)}
    except BadWeights as error:
        answer = {"bad_weights": str(error)}
    except MemoryError:
        answer = {"unreadable": "reading it takes too much memory"}
    except (ValueError, RecursionError) as error:  # invalid JSON, or text that cannot be encoded
        answer = {"unreadable": f"it cannot be read ({type(error).__name__})"}
    return json.dumps(answer).encode("utf-8", "backslashreplace")


def _confine(seconds: int) -> None:
    for limit, value in (
        (resource.RLIMIT_DATA, _MEMORY),  # not RLIMIT_AS, which would count weights that are only mapped
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))


def main() -> None:
    # Once for all forks.
    with lean_import():
        from bioimageio.spec.model import v0_4, v0_5

        import bioengine_server.store.manifest_builder  # noqa: F401
    for model in (v0_4.ModelDescr, v0_5.ModelDescr):
        model.model_rebuild()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while select.select([requests], [], [], _IDLE_SECONDS)[0] and (line := requests.readline()):
        request = json.loads(line)
        content = requests.read(request.pop("size"))
        worker = os.fork()
        if worker == 0:
            status = 1
            try:
                operation = request.pop("operation")
                _confine(_OPERATIONS[operation][1])
                answer = _answer(operation, content, request)
                answers.write(b"%d\n" % len(answer) + answer)
                answers.flush()
                status = 0
            finally:
                os._exit(status)
        if os.waitpid(worker, 0)[1] != 0:
            sys.exit(1)


if __name__ == "__main__":
    main()
