"""The admin's commands, as they ask the server of a home."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bioengine_contract.errors import BioEngineError, RemoteError

from bioengine_server.control.errors import NoServer, NotYourServer, ServerSilent
from bioengine_server.control.socket import NAME, connect
from bioengine_server.home_in_use import run_dir_of
from bioengine_server.private_folder import is_ours
from bioengine_server.settings import Settings

# To unload a model may wait for its process to end.
_PATIENCE = 30.0  # seconds


class ControlClient:
    """Asks the server that uses a home. Each method raises NoServer, NotYourServer, ServerSilent, and what the server answers."""

    def __init__(self, settings: Settings) -> None:
        self._home = settings.home
        self._folder = run_dir_of(settings)

    def status(self) -> dict[str, Any]:
        """What the server is doing (`Overview.status`)."""
        status: dict[str, Any] = self._ask("GET", "/status")
        return status

    def requests(self) -> list[dict[str, Any]]:
        """What is under way (`Overview.requests`)."""
        requests: list[dict[str, Any]] = self._ask("GET", "/requests")
        return requests

    def model(self, model_id: str) -> list[dict[str, Any]]:
        """How a model is computed (`Overview.model`)."""
        models: list[dict[str, Any]] = self._ask("GET", f"/models/{quote(model_id)}")
        return models

    def cancel(self, task_id: str) -> None:
        """Cancel a request."""
        self._ask("DELETE", f"/requests/{quote(task_id, safe='')}")

    def unload(self, model_id: str) -> list[str]:
        """Unload a model; its names in Triton."""
        names: list[str] = self._ask("DELETE", f"/models/{quote(model_id)}")["unloaded"]
        return names

    def workers(self) -> dict[str, Any]:
        """The workers, and what there is to do (`Dispatcher.workers`)."""
        workers: dict[str, Any] = self._ask("GET", "/workers")
        return workers

    def drain(self, name: str) -> None:
        """Have a worker finish, leave and end."""
        self._ask("DELETE", f"/workers/{quote(name, safe='')}")

    def _ask(self, method: str, path: str) -> Any:
        with contextlib.closing(_Connection(self._folder)) as connection:
            try:
                connection.request(method, path)
                response = connection.getresponse()
                answer = json.loads(response.read())
            except TimeoutError:
                raise ServerSilent(_PATIENCE) from None
            except PermissionError:
                raise NotYourServer(self._folder / NAME) from None
            except (OSError, ValueError, http.client.HTTPException):
                raise NoServer(self._home) from None
        if response.status != 200:
            raise _error(answer)
        return answer


def _error(answer: Any) -> BioEngineError:
    return RemoteError(str(answer.get("error")), str(answer.get("code")))


class _Connection(http.client.HTTPConnection):
    def __init__(self, folder: Path) -> None:
        super().__init__("control", timeout=_PATIENCE)
        self._folder = folder

    def connect(self) -> None:
        # In the system's temporary folder anybody can make a folder of that name, while no server of ours runs.
        if os.getuid() != 0 and not is_ours(self._folder):
            raise PermissionError
        self.sock: socket.socket = connect(self._folder, _PATIENCE)
