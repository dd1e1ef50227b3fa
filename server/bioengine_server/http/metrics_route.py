"""`GET /metrics`: figures for Prometheus, for programs on this machine and for whoever has a token."""

from __future__ import annotations

from bioengine_contract.errors import BioEngineError
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from bioengine_server.control.metrics import CONTENT_TYPE, Metrics
from bioengine_server.http.error_responses import refusal
from bioengine_server.hypha.authenticator import Authenticator, bearer


class MetricsRoute:
    """The answer of one server."""

    path = "/metrics"

    def __init__(self, authenticator: Authenticator, metrics: Metrics) -> None:
        self._authenticator = authenticator
        self._metrics = metrics

    async def answer(self, request: Request) -> Response:
        try:
            self._authenticator.admit_to_metrics(request.scope, bearer(Headers(scope=request.scope)))
        except BioEngineError as error:
            return refusal(error)
        return Response(self._metrics.text(), headers={"content-type": CONTENT_TYPE})
