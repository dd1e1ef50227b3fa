"""`GET /health/liveness` and `GET /health/readiness`: 200, or 503 with the reason; and the project's version."""

from __future__ import annotations

from collections.abc import Callable

from bioengine_contract.version import VERSION
from starlette.requests import Request
from starlette.responses import JSONResponse

from bioengine_server.home_in_use import HEADER
from bioengine_server.service.readiness import Liveness, Readiness

_RETRY_AFTER = "5"  # seconds


class Health:
    """The two health routes of one server."""

    def __init__(self, readiness: Readiness, liveness: Liveness, name: str, workers: Callable[[], int]) -> None:
        """
        Args:
            readiness, liveness: of the server.
            name: of the server, from `home_in_use`.
            workers: how many workers are ready.
        """
        self._readiness = readiness
        self._liveness = liveness
        self._name = name
        self._workers = workers

    async def alive(self, _: Request) -> JSONResponse:
        return self._answer("DEAD", self._liveness.reason)

    async def ready(self, _: Request) -> JSONResponse:
        return self._answer("NOT READY", self._liveness.reason or self._readiness.reason, workers=self._workers())

    def _answer(self, status: str, reason: str | None, **more: int) -> JSONResponse:
        if reason is None:
            return JSONResponse({"status": "OK", "version": VERSION, **more}, headers={HEADER: self._name})
        headers = {HEADER: self._name, "Retry-After": _RETRY_AFTER}
        answer = {"status": status, "reason": reason, "version": VERSION, **more}
        return JSONResponse(answer, status_code=503, headers=headers)
