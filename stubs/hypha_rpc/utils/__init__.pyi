from collections.abc import Callable
from typing import Any

munchify: Callable[..., Any]
unmunchify: Callable[..., Any]

class ObjectProxy(dict[str, Any]):
    @classmethod
    def fromDict(cls, d: Any) -> Any: ...
    def toDict(self) -> dict[str, Any]: ...
