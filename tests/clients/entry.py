"""The first calls of a user's program: `connect_to_server` and `login` of a client library. Runs in the library's environment."""

import importlib
import inspect

MODULES = {"imjoy": "imjoy_rpc.hypha", "hypha": "hypha_rpc"}


def entry(library, mode):
    """`connect_to_server`, `login`, and the name of the distribution that is tested.

    LIBRARY is imjoy or hypha, MODE async or sync; or a module beside this one with `connect_to_server` and `DISTRIBUTION`.
    """
    name = MODULES.get(library, library)
    module = importlib.import_module(name)
    distribution = getattr(module, "DISTRIBUTION", f"{library}-rpc")
    if mode == "sync":
        try:
            module = importlib.import_module(f"{name}.sync")
        except ModuleNotFoundError:  # the early imjoy-rpc has them under names of their own
            return module.connect_to_server_sync, module.login_sync, distribution
    return module.connect_to_server, getattr(module, "login", None), distribution


async def settled(value):
    """The result of a call: awaited with the async clients, there at once with the sync ones."""
    return await value if inspect.isawaitable(value) else value
