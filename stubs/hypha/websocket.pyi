from typing import Any

__version__: str

class AuthenticationError(Exception): ...

class WebsocketServer:
    check_client: Any
    authenticate_user: Any
