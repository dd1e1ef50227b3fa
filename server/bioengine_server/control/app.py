"""The control room's HTTP, for whoever can open its socket: the server's own user.

GET    /status               what the server is doing
GET    /requests             what is under way
GET    /models/<id>          how it is computed
DELETE /requests/<task_id>   cancel it
DELETE /models/<id>          unload it
GET    /workers              the workers, and what there is to do
DELETE /workers/<name>       drain it
"""

from __future__ import annotations

import logging

from bioengine_contract.errors import BioEngineError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bioengine_server.control.overview import ADMIN, Overview

logger = logging.getLogger(__name__)


def control_app(overview: Overview) -> Starlette:
    """The ASGI application; what goes wrong is answered with `error` and `code`."""

    async def status(_: Request) -> JSONResponse:
        return JSONResponse(overview.status())

    async def requests(_: Request) -> JSONResponse:
        return JSONResponse(overview.requests())

    async def cancel(request: Request) -> JSONResponse:
        overview.cancel(request.path_params["task_id"])
        return JSONResponse({})

    async def model(request: Request) -> JSONResponse:
        return JSONResponse(overview.model(request.path_params["id"]))

    async def unload(request: Request) -> JSONResponse:
        names = await overview.unload(request.path_params["id"])
        logger.info("Unloaded for %s: %s", ADMIN, ", ".join(names))
        return JSONResponse({"unloaded": names})

    async def workers(_: Request) -> JSONResponse:
        return JSONResponse(overview.workers())

    async def drain(request: Request) -> JSONResponse:
        overview.drain(request.path_params["name"])
        return JSONResponse({})

    async def refuse(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, BioEngineError)
        return JSONResponse({"error": str(error), "code": error.code}, status_code=error.status)

    async def fail(_: Request, error: Exception) -> JSONResponse:
        text = f"The server failed ({type(error).__name__}); its log says more: `./bioengine logs`."
        return JSONResponse({"error": text, "code": "server_failed"}, status_code=500)

    routes = [
        Route("/status", status),
        Route("/requests", requests),
        Route("/requests/{task_id:path}", cancel, methods=["DELETE"]),
        Route("/models/{id:path}", model),
        Route("/models/{id:path}", unload, methods=["DELETE"]),
        Route("/workers", workers),
        Route("/workers/{name:path}", drain, methods=["DELETE"]),
    ]
    return Starlette(routes=routes, exception_handlers={BioEngineError: refuse, Exception: fail})
