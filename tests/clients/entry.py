"""Where a program of a user begins: `connect_to_server` and `login` of a library. Runs in the library's environment."""

import importlib
import inspect

MODULES = {"imjoy": "imjoy_rpc.hypha", "hypha": "hypha_rpc"}


def entry(library, mode):
    """`connect_to_server` and `login`; LIBRARY is imjoy or hypha, MODE async or sync."""
    name = MODULES[library]
    module = importlib.import_module(name)
    if mode == "async":
        return module.connect_to_server, module.login
    try:
        module = importlib.import_module(f"{name}.sync")
    except ModuleNotFoundError:  # the early imjoy-rpc has them under names of their own
        return module.connect_to_server_sync, module.login_sync
    return module.connect_to_server, module.login


async def settled(value):
    """The result of a call: awaited with the async clients, there at once with the sync ones."""
    return await value if inspect.isawaitable(value) else value
