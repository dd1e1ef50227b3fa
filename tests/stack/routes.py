"""Write down every route of the running application, as JSON: `[{"path", "methods", "kind"}]`.

python -m tests.stack.routes HOME FILE
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bioengine_server.access.registry import TokenRegistry
from bioengine_server.access.rules import Access
from bioengine_server.control.callers import CallerNames
from bioengine_server.control.metrics import Metrics
from bioengine_server.control.overview import Overview
from bioengine_server.http.health import Health
from bioengine_server.http.routes import add_web
from bioengine_server.http.server import HttpServer, listen
from bioengine_server.hypha.application import create_hypha
from bioengine_server.hypha.authenticator import Authenticator
from bioengine_server.hypha.secrets import new_secret
from bioengine_server.network.ports import free_ports
from bioengine_server.service.readiness import Liveness, Readiness
from bioengine_server.settings import Settings
from bioengine_server.workers.links import Links

from tests.unit.server.tables import service


def routes_below(routes: Any, prefix: str = "") -> Iterator[dict[str, Any]]:
    """All of them, those of mounted applications and included routers too."""
    for route in routes:
        path = prefix + getattr(route, "path", "")
        nested = getattr(route, "routes", None) or getattr(getattr(route, "app", None), "routes", None)
        if nested:
            yield from routes_below(nested, path)
        methods = getattr(route, "methods", None)
        yield {"path": path, "methods": sorted(methods) if methods else None, "kind": type(route).__name__}


async def main(home: Path, file: Path) -> None:
    (port,) = free_ports(1)
    settings = Settings(home=home, port=port, run_dir=home)
    registry = TokenRegistry(home)
    authenticator = Authenticator(Access(settings, registry), registry)
    app = create_hypha(settings, authenticator.access, new_secret())
    names = CallerNames(registry)
    metrics = Metrics(settings, names, Overview(settings, names, lambda: None))
    health = Health(Readiness(), Liveness(), "name", lambda: 0)
    links = Links(authenticator.verifier.check_worker)
    with contextlib.closing(listen(settings.host, port)) as listener:
        web = add_web(app, settings, authenticator, health, metrics, service(settings, authenticator.access), links)
        server = HttpServer(web, listener, settings.peer_connections)
        await server.start()  # Hypha adds most of its routes when it starts
        file.write_text(json.dumps(list(routes_below(app.routes))))
        await server.stop()


if __name__ == "__main__":
    asyncio.run(main(*map(Path, sys.argv[1:])))
