"""Hypha's own ASGI application, in this process, with this server's limits.

Hypha's command has no options for these limits: with its default limit of messages, a client that sends a few large images would
be disconnected.
"""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI
from hypha.core.store import RedisStore
from hypha.server import create_application, get_argparser

from bioengine_server.access.rules import Access
from bioengine_server.foreign import hypha as border
from bioengine_server.hypha.first_client import keep_first_client
from bioengine_server.hypha.isolation import confine_clients
from bioengine_server.hypha.login import replace_login
from bioengine_server.hypha.rpc_limits import is_own_end, use_limited_rpc
from bioengine_server.hypha.tokens import check_scopes, use_secret
from bioengine_server.hypha.workspaces import make_workspaces_once
from bioengine_server.settings import Settings

# How many messages one client may send per second, and in a burst: an image of 1 GB is 4,000 messages.
_MESSAGE_RATE = 20_000
_MESSAGE_BURST = 200_000

_MAX_SERVICES = 100  # services that one client may offer; Hypha keeps them in memory


def create_hypha(settings: Settings, access: Access, jwt_secret: str) -> FastAPI:
    """Hypha's ASGI application; its store is `app.state.store` and is ready when the application has started.

    Raises LibraryChanged.
    """
    border.check()
    border.use_rpc(use_limited_rpc(access.size_limit, access.refusals))
    border.know_who_is_there()
    keep_first_client(is_own_end)
    make_workspaces_once()
    replace_login()
    confine_clients()
    check_scopes()
    border.hide_version()
    border.hide_prints()
    os.environ.update(
        HYPHA_WS_MSG_RATE_LIMIT=str(_MESSAGE_RATE),
        HYPHA_WS_MSG_BURST_LIMIT=str(_MESSAGE_BURST),
        HYPHA_MAX_SERVICES_PER_CLIENT=str(_MAX_SERVICES),
    )
    use_secret(jwt_secret)
    database = settings.node_folder / "hypha.sqlite"
    database.unlink(missing_ok=True)  # for event logs and the like of this run only
    arguments = get_argparser().parse_args(
        [
            f"--host={settings.bind_address}",
            f"--port={settings.port}",
            f"--public-base-url={settings.advertised_url}",
            f"--database-uri=sqlite+aiosqlite:///{database}",
            "--disable-agent-skills",
        ]
    )
    app: FastAPI = create_application(arguments)
    border.drop_rate_limit(app)
    return app


def hypha_store(app: FastAPI) -> RedisStore:
    store: RedisStore = app.state.store
    return store


def share_service(store: RedisStore, service_id: str) -> None:
    """Make the service ids that clients of the public server use lead to the public service, if no other service has such an id.

    These are the bare `service_id`, which Hypha 0.21 looks up only in the client's own workspace (anonymous users have one each),
    and the id that an old web page uses.
    """
    manager: Any = border.manager_of(store)
    find = manager.get_service_info
    shared = (service_id, f"public/workspace-manager:{service_id}")

    async def find_or_shared(service_id_asked: str, config: dict[str, Any] | None = None, context: Any = None) -> Any:
        try:
            return await find(service_id_asked, config, context=context)
        except KeyError:
            if service_id_asked not in shared:
                raise
            return await find(f"public/{service_id}", config, context=context)

    manager.get_service_info = find_or_shared
