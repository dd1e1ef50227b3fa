from typing import Any

RPC: type

class WorkspaceManager:
    _rpc: Any
    _redis: Any
    get_service_info: Any
    _create_rpc: Any
    create_service: Any
    register_service: Any
    get_service: Any
    list_services: Any
    delete_client: Any
    generate_token: Any
    subscribe: Any
    ping_client: Any
