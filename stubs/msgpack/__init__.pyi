from collections.abc import Callable
from typing import Any

class UnpackException(Exception): ...
class OutOfData(UnpackException): ...

class ExtType:
    code: int
    data: bytes
    def __init__(self, code: int, data: bytes) -> None: ...

class Timestamp:
    def __init__(self, seconds: int, nanoseconds: int = ...) -> None: ...

class Unpacker:
    def __init__(
        self,
        file_like: Any = ...,
        *,
        max_buffer_size: int = ...,
        strict_map_key: bool = ...,
        raw: bool = ...,
        use_list: bool = ...,
    ) -> None: ...
    def feed(self, next_bytes: bytes | bytearray | memoryview) -> None: ...
    def unpack(self) -> Any: ...
    def skip(self) -> None: ...
    def tell(self) -> int: ...

def packb(o: Any, *, default: Callable[[Any], Any] | None = ..., use_bin_type: bool = ...) -> bytes: ...
def unpackb(
    packed: bytes | bytearray | memoryview,
    *,
    strict_map_key: bool = ...,
    object_hook: Callable[[dict[Any, Any]], Any] | None = ...,
    raw: bool = ...,
    use_list: bool = ...,
    max_str_len: int = ...,
    max_bin_len: int = ...,
    max_array_len: int = ...,
    max_map_len: int = ...,
) -> Any: ...
