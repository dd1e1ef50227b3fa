from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
from tritonclient.http import InferInput, InferRequestedOutput, InferResult

class InferenceServerClient:
    _conn: aiohttp.BaseConnector
    _stub: aiohttp.ClientSession

    def __init__(
        self,
        url: str,
        verbose: bool = ...,
        conn_limit: int = ...,
        conn_timeout: float = ...,
        ssl: bool = ...,
        ssl_context: Any = ...,
    ) -> None: ...
    async def close(self) -> None: ...
    async def is_server_live(self, headers: Mapping[str, str] | None = ...) -> bool: ...
    async def is_model_ready(
        self, model_name: str, model_version: str = ..., headers: Mapping[str, str] | None = ...
    ) -> bool: ...
    async def get_model_config(
        self, model_name: str, model_version: str = ..., headers: Mapping[str, str] | None = ...
    ) -> dict[str, Any]: ...
    async def load_model(
        self,
        model_name: str,
        headers: Mapping[str, str] | None = ...,
        query_params: Mapping[str, Any] | None = ...,
        config: str | None = ...,
    ) -> None: ...
    async def infer(
        self,
        model_name: str,
        inputs: Sequence[InferInput],
        model_version: str = ...,
        outputs: Sequence[InferRequestedOutput] | None = ...,
        request_id: str = ...,
        sequence_id: int | str = ...,
        sequence_start: bool = ...,
        sequence_end: bool = ...,
        priority: int = ...,
        timeout: int | None = ...,
        headers: Mapping[str, str] | None = ...,
        query_params: Mapping[str, Any] | None = ...,
        request_compression_algorithm: str | None = ...,
        response_compression_algorithm: str | None = ...,
        parameters: Mapping[str, Any] | None = ...,
    ) -> InferResult: ...
