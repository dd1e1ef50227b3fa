"""In place of a Triton, where a server has none of its own: models run on workers that join."""

from __future__ import annotations

import json
from typing import Any

from bioengine_server.triton.api import InferResult, TritonApi
from bioengine_server.triton.errors import TritonError
from bioengine_server.triton.held_answer import HeldAnswer

_ABOUT = {"name": "bioengine", "extensions": ["model_configuration", "binary_tensor_data", "parameters"], "version": ""}


class AbsentTriton(TritonApi):
    """Has no models: an admin's own Triton models run in a server's own Triton alone."""

    def __init__(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def is_ready(self, model_name: str) -> bool:
        return False

    async def model_config(self, model_name: str, model_version: str = "", from_cache: bool = False) -> dict[str, Any]:
        """Raises TritonError."""
        raise TritonError(f"this server has no Triton of its own, and so no model {model_name[:80]!r}", 404)

    async def infer(self, model_name: str, *_: Any, **__: Any) -> InferResult:
        """Raises TritonError."""
        await self.model_config(model_name)
        raise AssertionError

    async def open(self, method: str, path: str, *_: Any) -> Any:
        """What a Triton without models answers about itself."""
        return HeldAnswer(200, {"content-type": "application/json"}, json.dumps(_ABOUT).encode() if path == "/v2" else b"")
