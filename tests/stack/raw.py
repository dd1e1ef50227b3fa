"""A client of either generation that sends any message that a test chooses, frame by frame."""

from __future__ import annotations

import contextlib
import itertools
import json
from types import TracebackType
from typing import Any

import msgpack
from websockets.sync.client import connect

from tests.stack.harness import Stack

GENERATIONS = ["imjoy-rpc", "hypha-rpc"]


class RawClient:
    """A connection; `call` as the libraries do it, `send` for anything else."""

    def __init__(
        self,
        stack: Stack,
        generation: str,
        client_id: str = "raw",
        token: str = "",
        headers: dict[str, str] | None = None,
        query: str = "",
        find: bool = True,
        reads: bool = True,
    ) -> None:
        """
        Args:
            stack: the server.
            generation: one of `GENERATIONS`.
            client_id: of the client.
            token: anonymous without.
            headers: further ones of the connection's request.
            query: of the address, for imjoy-rpc, instead of what follows from the others.
            find: whether the service is looked for, which a server without Triton has not.
            reads: whether answers are read. If not, any number may wait: or the end of the connection would wait behind them.
        """
        self._sessions = itertools.count()
        self._open = contextlib.ExitStack()
        options: dict[str, Any] = {"compression": None, "max_size": None, "max_queue": 16 if reads else None}
        address = f"ws://127.0.0.1:{stack.port}/ws"
        if generation == "imjoy-rpc":
            address = f"{address}?{query or f'client_id={client_id}' + (f'&token={token}' if token else '')}"
            self.socket = self._open.enter_context(connect(address, additional_headers=headers, **options))
            self.own_id, self.end, self.manager = client_id, "workspace-manager", ""
            if find:
                service = self.call("services.default.get_service", "triton-client")
                self.service = "services." + service["id"].split(":")[-1]
        else:
            self.socket = self._open.enter_context(connect(address, additional_headers=headers, **options))
            self.socket.send(json.dumps({"client_id": client_id, "token": token or None}))
            info = json.loads(self.socket.recv(10))
            self.own_id, self.manager = f"{info['workspace']}/{client_id}", f"*/{info['manager_id']}"
            # The end that the service is at.
            self.end, self.service = "public/bioengine", "services.triton-client"

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    def vanish(self) -> None:
        """Be gone without a word."""
        self.socket.socket.close()

    def frame(self, method: str, *args: Any, session: str = "", **more: Any) -> bytes:
        """The frame of a call."""
        keywords = more.pop("with_kwargs", None)
        main = {"type": "method", "from": self.own_id, "to": self.end, "method": method, **more}
        if session:
            main["session"] = session
        extra: dict[str, Any] = {"args": list(args), **({} if keywords is None else {"with_kwargs": keywords})}
        if session:
            extra["promise"] = {
                name: {"_rtype": "method", "_rtarget": self.own_id, "_rmethod": f"{session}.{name}", "_rpromise": False}
                for name in ("resolve", "reject")
            }
        packed: bytes = msgpack.packb(main) + msgpack.packb(extra)
        return packed

    def send(self, frame: bytes) -> None:
        self.socket.send(frame)

    def call(self, method: str, *args: Any, timeout: float = 30, to: str = "", **keywords: Any) -> Any:
        """The answer of a call; RuntimeError with the text that the server answers when it refuses."""
        session = f"session{next(self._sessions)}"
        more: dict[str, Any] = {**({"with_kwargs": True} if keywords else {}), **({"to": to} if to else {})}
        self.send(self.frame(method, *args, *([keywords] if keywords else []), session=session, **more))
        while True:
            unpacker = msgpack.Unpacker(strict_map_key=False)
            data = self.socket.recv(timeout)
            if isinstance(data, str):  # Hypha's last word, why it ends the connection next
                continue
            unpacker.feed(data)
            main = unpacker.unpack()
            if main.get("method") not in (f"{session}.resolve", f"{session}.reject"):
                continue
            answer = unpacker.unpack().get("args", [None])[0]
            if main["method"].endswith("reject"):
                raise RuntimeError(f"{answer['_rvalue']}\n{answer['_rtrace']}")  # both, as the libraries show it
            return answer

    def execute(self, *inputs: Any, model_id: str = "conscientious-seashell") -> dict[str, Any]:
        """The result of a run."""
        answer = self.call(
            f"{self.service}.execute",
            inputs=[{"model_id": model_id, "inputs": list(inputs)}],
            model_name="bioengine-model-runner",
            serialization="imjoy",
        )
        return dict(answer["result"])
