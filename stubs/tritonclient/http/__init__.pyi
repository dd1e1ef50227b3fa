from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from geventhttpclient import HTTPClient
from tritonclient.utils import InferenceServerException as InferenceServerException

class InferInput:
    def __init__(self, name: str, shape: Sequence[int], datatype: str) -> None: ...
    def set_data_from_numpy(self, input_tensor: np.ndarray, binary_data: bool = ...) -> Self: ...
    def set_shared_memory(self, region_name: str, byte_size: int, offset: int = ...) -> Self: ...

class InferRequestedOutput:
    def __init__(self, name: str, binary_data: bool = ..., class_count: int = ...) -> None: ...

class InferResult:
    def as_numpy(self, name: str) -> np.ndarray | None: ...
    def get_response(self) -> dict[str, Any]: ...

class InferenceServerClient:
    _client_stub: HTTPClient

    def __init__(
        self,
        url: str,
        verbose: bool = ...,
        concurrency: int = ...,
        connection_timeout: float = ...,
        network_timeout: float = ...,
    ) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, type: object, value: object, traceback: object) -> None: ...
    def close(self) -> None: ...
    def is_server_live(self, headers: Mapping[str, str] | None = ...) -> bool: ...
    def is_server_ready(self, headers: Mapping[str, str] | None = ...) -> bool: ...
    def is_model_ready(self, model_name: str, model_version: str = ..., headers: Mapping[str, str] | None = ...) -> bool: ...
    def get_server_metadata(self, headers: Mapping[str, str] | None = ...) -> dict[str, Any]: ...
    def get_model_metadata(
        self, model_name: str, model_version: str = ..., headers: Mapping[str, str] | None = ...
    ) -> dict[str, Any]: ...
    def get_model_config(
        self, model_name: str, model_version: str = ..., headers: Mapping[str, str] | None = ...
    ) -> dict[str, Any]: ...
    def infer(
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
    @staticmethod
    def generate_request_body(
        inputs: Sequence[InferInput],
        outputs: Sequence[InferRequestedOutput] | None = ...,
        request_id: str = ...,
        sequence_id: int | str = ...,
        sequence_start: bool = ...,
        sequence_end: bool = ...,
        priority: int = ...,
        timeout: int | None = ...,
        parameters: Mapping[str, Any] | None = ...,
    ) -> tuple[bytes, int | None]: ...
