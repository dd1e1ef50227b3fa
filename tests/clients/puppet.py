"""A client that follows the tests' commands: it offers services, and calls those of others. Runs in the library's environment.

    python puppet.py LIBRARY MODE URL [CLIENT_ID [TOKEN]]

LIBRARY is imjoy or hypha, MODE async or sync. Prints `{"workspace", "token"}`, the latter for others who are to come to its
workspace. Then, for each line on stdin, `[command below, arguments, keyword arguments]` in JSON, prints `{"result"}` or
`{"raised"}`.
"""

import asyncio
import inspect
import json
import logging
import os
import sys

from entry import entry, settled

logging.disable(logging.CRITICAL)

LIBRARY, MODE, URL, *NAMES = sys.argv[1:]
CONNECT, *_ = entry(LIBRARY, MODE)
COMMANDS: dict = {}


def command(function):
    COMMANDS[function.__name__] = function
    return function


def service():
    """Functions of its own for each service: imjoy-rpc knows a function as that of one."""

    def greet(name, greeting="Hello", times=1):
        """Greet somebody, politely."""
        return ", ".join([f"{greeting} {name}"] * times)

    def fail(text):
        raise ValueError(f"no {text}")

    async def sleep(seconds):
        await asyncio.sleep(seconds)

    async def each(values, function):
        return [await function(value) for value in values]

    offered = {"greet": greet, "fail": fail, "nested": {"twice": lambda value: value * 2}}
    # The sync libraries run plain functions in threads of their own.
    return {**offered, "sleep": sleep, "each": each} if MODE == "async" else offered


def service_that_knows_its_callers():
    async def whoami(greeting="You are", context=None):
        """Who calls."""
        return {"user": context["user"]["id"], "workspace": context["ws"], "greeting": greeting}

    return {"whoami": whoami}


async def abort(transport):
    transport.abort()


class Puppet:
    def __init__(self, server):
        self.server = server
        self.handles = {}

    @command
    async def export(self):
        await settled(self.server.export(service()))

    @command
    async def register(self, id, visibility="protected", require_context=False):
        config = {"visibility": visibility, "require_context": require_context}
        functions = service_that_knows_its_callers() if require_context else service()
        definition = {"id": id, "name": id, "config": config, **functions}
        return (await settled(self.server.register_service(definition)))["id"]

    @command
    async def unregister(self, id):
        await settled(self.server.unregister_service(id))

    @command
    async def unregister_locally(self, id):
        """As programs of imjoy-rpc did where the manager had no function for it."""
        await settled(self.server.rpc.unregister_service(id))

    @command
    async def get(self, id):
        """Whether the service is there; its functions are called by `call`."""
        try:
            found = await settled(self.server.get_service(id))
        except Exception as error:
            if "not found" not in str(error):
                raise
            found = None
        self.handles[id] = found
        return found is not None

    @command
    async def call(self, id, name, *args, **kwargs):
        function = self.handles[id]
        for part in name.split("."):
            function = function[part]
        return await settled(function(*args, **kwargs))

    @command
    async def call_back(self, id):
        """Have a function of this client's own called there."""

        async def double(value):
            return value * 2

        return await settled(self.handles[id]["each"]([1, 2, 3], double if MODE == "async" else lambda value: value * 2))

    @command
    async def describe(self, id, name):
        function = self.handles[id][name]
        try:
            signature = str(inspect.signature(function))
        except (TypeError, ValueError):
            signature = None
        return {"doc": function.__doc__, "name": function.__name__, "signature": signature}

    @command
    async def listed(self, query=None):
        found = await settled(self.server.list_services(query) if query else self.server.list_services())
        return sorted(each["id"] for each in found if not each["id"].endswith(":built-in"))

    @command
    async def manager(self, name, *args, **kwargs):
        """What a function of the manager answers."""
        return await settled(getattr(self.server, name)(*args, **kwargs))

    @command
    async def break_connection(self):
        """Without a closing handshake; the library connects again."""
        rpc = self.server.rpc
        done = asyncio.run_coroutine_threadsafe(abort(rpc._connection._websocket.transport), rpc.loop)
        await asyncio.wrap_future(done)

    @command
    async def disconnect(self):
        await settled(self.server.disconnect())


def say(said):
    print(json.dumps(said, default=str), flush=True)


async def main():
    names = dict(zip(("client_id", "token"), NAMES))
    try:
        server = await settled(CONNECT({"name": "puppet", "server_url": URL, **{k: v for k, v in names.items() if v}}))
    except Exception as error:
        say({"raised": f"{type(error).__name__}: {error}"})
        os._exit(1)
    puppet = Puppet(server)
    say({"workspace": server.config["workspace"], "token": await settled(server.generate_token())})
    while line := await asyncio.to_thread(sys.stdin.readline):
        name, args, kwargs = json.loads(line)
        try:
            say({"result": await COMMANDS[name](puppet, *args, **kwargs)})
        except BaseException as error:
            say({"raised": f"{type(error).__name__}: {error}"})
    # Not by the end of the program: the libraries' own threads and tasks may go on for ever.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
