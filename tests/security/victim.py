"""Another client on the same server, which shows whether an attack had any effect."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypha_rpc.sync import connect_to_server

from tests.stack.harness import Stack

IMAGE = np.arange(3 * 16 * 16, dtype=np.uint8).reshape(1, 3, 16, 16)


class Victim:
    """A client with a workspace, a token, two services, and images that go to `triton-client`."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        assert stack.process is not None
        self._pids = {stack.process.pid, stack.triton().pid}
        self.calls: list[str] = []
        self.server = connect_to_server({"server_url": stack.url, "client_id": "victim"})
        self.id = f"{self.server.config['workspace']}/victim"
        config = {"visibility": "public", "require_context": True}
        self.server.register_service({"id": "open", "config": config, "call": self._called})
        self.server.register_service({"id": "closed", "config": {"visibility": "protected"}, "secret": self._secret})
        self.token = self.server.generate_token({"expires_in": 3600})
        self.triton = self.server.get_service("triton-client")
        self._result = self._run()
        self._services = self._listed()

    def close(self) -> None:
        self.server.disconnect()

    def check(self, calls: list[str] | None = None) -> None:
        """Nothing of it has changed, and nobody called what is its own.

        Args:
            calls: of the open service, as which users it has been called; nobody where it is None.
        """
        assert self.calls == (calls or []), self.calls
        self.calls.clear()
        assert self._listed() == self._services
        np.testing.assert_array_equal(self._run(), self._result)
        again = connect_to_server({"server_url": self._stack.url, "token": self.token, "client_id": "victim-again"})
        assert again.config["workspace"] == self.server.config["workspace"]
        again.disconnect()
        assert self._stack.process is not None and {self._stack.process.pid, self._stack.triton().pid} == self._pids
        assert self._stack.is_ready()

    def _called(self, *arguments: Any, context: dict[str, Any]) -> str:
        self.calls.append(str(context["user"]["id"]))
        return "called"

    def _secret(self, *arguments: Any) -> str:
        self.calls.append("the closed one")
        return "secret"

    def _run(self) -> np.ndarray:
        """By the service that the name means now, which is ours whatever others have registered."""
        triton = self.server.get_service("triton-client")
        assert str(triton["id"]).startswith("public/bioengine:"), triton["id"]
        answer = triton.execute(
            inputs=[{"model_id": "conscientious-seashell", "inputs": [IMAGE]}],
            model_name="bioengine-model-runner",
            serialization="imjoy",
        )
        assert answer["result"]["success"], answer
        return np.asarray(answer["result"]["outputs"][0])

    def _listed(self) -> list[str]:
        return sorted(str(service["id"]) for query in (None, "public") for service in self.server.list_services(query))
