from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any

from pydantic import BaseModel

class UserPermission(str, Enum):  # noqa: UP042  # as the library has it
    list = "n"
    read = "r"
    read_write = "rw"
    admin = "a"

class ScopeInfo(BaseModel):
    current_workspace: str | None = None
    workspaces: dict[str, UserPermission] = ...
    client_id: str | None = None
    extra_scopes: list[str] = ...

class UserInfo(BaseModel):
    id: str
    roles: list[str]
    is_anonymous: bool
    email: str | None = None
    parent: str | None = None
    scope: ScopeInfo | None = None
    expires_at: float | None = None
    def get_workspace(self) -> str: ...
    def get_permission(self, workspace: str) -> UserPermission | None: ...
    def check_permission(self, workspace: str, minimal_permission: UserPermission) -> bool: ...
    @classmethod
    def from_context(cls, context: Any) -> UserInfo: ...

class WorkspaceInfo(BaseModel):
    id: str

class RedisEventBus:
    is_recently_disconnected: Callable[[RedisEventBus, str, str], bool]
    def is_local_client(self, workspace: str, client_id: str) -> bool: ...

class RedisRPCConnection:
    _connections: dict[str, RedisRPCConnection]
    _user_info: dict[str, Any]
    def emit_message(self, data: Any) -> Awaitable[None]: ...
