"""Send and receive messages in chunks, with less work for each chunk than in the libraries. Both libraries use the same steps.

    create(key, heartbeat) -> append(key, chunk, heartbeat), ... -> process(key, heartbeat)
                              set(key, number, chunk, heartbeat), ... with hypha-rpc

The server sends the chunks of an answer without waiting, except that the client has to acknowledge one in 2 MB, and the last
chunk: so a slow client gets no more than that at once, and a disconnected one gets nothing more. A client that misses the end of
a message would treat it as an answer without a result, and wait forever.

Clients wait for an answer to every step that they send. Newer versions need not, but the server cannot tell them apart: hypha-rpc
before 0.20.98, and imjoy-rpc, would wait forever for a missing answer. So each step is answered, with one frame that is made
here.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack
import shortuuid

_STEP = re.compile(r"services\.built-in\.message_cache\.(create|append|set|process|remove)")
_PLAIN = (str, bytes, bool, int, type(None))
_MAX_MAIN = 100_000  # bytes

# How much of an answer may be sent before its receiver has to acknowledge it.
_UNHEARD = 2_000_000  # bytes

Call = Callable[[str, list[Any]], Awaitable[None]]
"""Calls a method, given its name and arguments, after all earlier calls."""


def step_of(call: dict[str, Any]) -> str | None:
    """The step of a chunked message that a call stands for; None for any other call, and for other forms of a step."""
    step, args, promise = _STEP.fullmatch(str(call.get("method"))), call.get("args"), call.get("promise")
    if step is None or call.get("with_kwargs") or not isinstance(args, list) or not all(type(arg) in _PLAIN for arg in args):
        return None
    is_usual = promise is None or (promise == "*" and isinstance(call.get("session"), str))
    return step[1] if is_usual else None


def is_answer(message: bytes) -> bool:
    """Whether a message is an answer itself, so that nobody waits for an answer to it."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(memoryview(message)[:_MAX_MAIN])
    return "session" not in unpacker.unpack()


async def send_answer(answer: bytes, session: str | None, chunk_size: int, tell: Call, ask: Call, numbered: bool) -> None:
    """Send an answer in chunks. Raises what `tell` and `ask` raise.

    Args:
        answer: the whole message.
        session: the receiver's session that waits for it.
        chunk_size: in bytes.
        tell: calls a method of the receiver without waiting for an answer.
        ask: calls a method, and returns when the receiver has handled this call and all earlier ones.
        numbered: whether the receiver accepts numbered chunks.
    """
    cache, heard = "services.built-in.message_cache", 0
    key, keeps_waiting = session or shortuuid.uuid(), bool(session)
    await tell(f"{cache}.create", [key, keeps_waiting])
    for number, start in enumerate(range(0, len(answer), chunk_size)):
        end = start + chunk_size
        step, which = ("set", [number]) if numbered else ("append", [])
        # The last chunk has to arrive before the last step: a JavaScript client handles a call with fewer arguments faster.
        call = ask if end - heard >= _UNHEARD or end >= len(answer) else tell
        await call(f"{cache}.{step}", [key, *which, answer[start:end], keeps_waiting])
        if call is ask:
            heard = end
    await tell(f"{cache}.process", [key, keeps_waiting])


def frame(main: dict[str, Any], args: list[Any]) -> bytes:
    """A message with arguments, in the form of both libraries."""
    return msgpack.packb(main) + msgpack.packb({"args": args})
