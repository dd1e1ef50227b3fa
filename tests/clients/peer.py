"""A client that offers a service to others until its stdin is closed. Runs in the library's own environment.

    python peer.py LIBRARY URL SERVICE_ID

Prints `{"token": str, "service": str}`, the whole id of the service.
"""

import asyncio
import json
import logging
import sys

from entry import entry

logging.disable(logging.ERROR)


async def main(library, url, service_id):
    connect_to_server, *_ = entry(library, "async")
    server = await connect_to_server({"name": "peer", "server_url": url})

    async def each(values, callback):
        return sum([await callback(value) for value in values])

    info = await server.register_service(
        {
            "id": service_id,
            "name": "Peer",
            "config": {"visibility": "public"},
            "echo": lambda value: value,
            "each": each,
            "get_config": lambda model_name: {"model_name": f"not {model_name}, but the peer's"},
        }
    )
    id = info["id"] if "/" in info["id"] else f"{server.config['workspace']}/{info['id']}"
    print(json.dumps({"token": await server.generate_token(), "service": id}), flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
