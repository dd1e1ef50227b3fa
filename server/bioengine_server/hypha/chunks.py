"""Messages in chunks, without the library's machinery for each chunk. Both client generations have the same steps.

    create(key, heartbeat) -> append(key, chunk, heartbeat), ... -> process(key, heartbeat)
                              set(key, number, chunk, heartbeat), ... with hypha-rpc

Answers of this server go back to back, in frames that are not answered in turn, but for one in 2 MB and the last chunk: so a slow
client has no more to take at once, and one that has gone is sent no more. A client that misses the end of a message would take it
for an answer without a result, and wait for ever.

Clients wait at every step that they send. Newer ones need not, but nothing tells them apart: hypha-rpc before 0.20.98, and
imjoy-rpc, would wait for ever at a step that promises no answer. So each is answered, with one frame that is made here.
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

# Of an answer, what may be on its way before its receiver has to say that it has taken what was sent.
_UNHEARD = 2_000_000  # bytes

Call = Callable[[str, list[Any]], Awaitable[None]]
"""Calls a method, by its name and arguments, after all that was called before."""


def step_of(call: dict[str, Any]) -> str | None:
    """The step of a message in chunks that a call is; None of what else is called, or is not called as both libraries do."""
    step, args, promise = _STEP.fullmatch(str(call.get("method"))), call.get("args"), call.get("promise")
    if step is None or call.get("with_kwargs") or not isinstance(args, list) or not all(type(arg) in _PLAIN for arg in args):
        return None
    is_usual = promise is None or (promise == "*" and isinstance(call.get("session"), str))
    return step[1] if is_usual else None


def is_answer(message: bytes) -> bool:
    """Whether nobody waits for an answer to a message, as to one that is an answer itself."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(memoryview(message)[:_MAX_MAIN])
    return "session" not in unpacker.unpack()


async def send_answer(answer: bytes, session: str | None, chunk_size: int, tell: Call, ask: Call, numbered: bool) -> None:
    """Send an answer in chunks. Raises what `tell` and `ask` do.

    Args:
        answer: the whole message.
        session: the receiver's, which waits for it.
        chunk_size: in bytes.
        tell: calls a method of the receiver, which gives no answer.
        ask: calls a method, and returns when the receiver has taken this call and those before.
        numbered: whether the receiver takes numbered chunks.
    """
    cache, heard = "services.built-in.message_cache", 0
    key, keeps_waiting = session or shortuuid.uuid(), bool(session)
    await tell(f"{cache}.create", [key, keeps_waiting])
    for number, start in enumerate(range(0, len(answer), chunk_size)):
        end = start + chunk_size
        step, which = ("set", [number]) if numbered else ("append", [])
        # Before the last step all is there: a JavaScript client is done earlier with the call that has fewer arguments.
        call = ask if end - heard >= _UNHEARD or end >= len(answer) else tell
        await call(f"{cache}.{step}", [key, *which, answer[start:end], keeps_waiting])
        if call is ask:
            heard = end
    await tell(f"{cache}.process", [key, keeps_waiting])


def frame(main: dict[str, Any], args: list[Any]) -> bytes:
    """A message with arguments, as both libraries have it."""
    return msgpack.packb(main) + msgpack.packb({"args": args})
