"""Services that clients offer to each other: found by every form of their id, and gone when their client disconnects."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.clients.browser import installed, run_page
from tests.clients.libraries import CLIENTS
from tests.stack.harness import ROOT, Stack, python, wait_for
from tests.stack.raw import RawClient

ALL = [f"{environment.removeprefix('client-')}-{mode}" for environment, _, mode in CLIENTS]
ASYNC = [name for name in ALL if name.endswith("-async")]
SIGNED = "imjoy-async"  # of those that send a function's signature
GONE = 5  # seconds


class Told(Exception):
    """The error that a call of a puppet ended with."""


class Puppet:
    """A client in a process of its own that does what it is told. Its client id is its name in `ALL`, and what was added."""

    def __init__(self, stack: Stack, kind: str, client_id: str, token: str = "") -> None:
        environment, _, mode = f"client-{kind}".rpartition("-")
        library = "hypha" if "hypha" in environment else "imjoy"
        script = str(ROOT / "tests" / "clients" / "puppet.py")
        self.process = subprocess.Popen(
            [python(environment), script, library, mode, stack.url, client_id, token],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.kind, self.client_id = kind, client_id

    def began(self) -> Puppet:
        """When it is connected."""
        assert self.process.stdout
        said = json.loads(self.process.stdout.readline())
        if "raised" in said:
            self.vanish()
            raise Told(said["raised"])
        self.workspace, self.token = said["workspace"], said["token"]
        return self

    def __call__(self, command: str, *args: Any, **kwargs: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([command, args, kwargs]) + "\n")
        self.process.stdin.flush()
        said = json.loads(self.process.stdout.readline())
        if "raised" in said:
            raise Told(said["raised"])
        return said["result"]

    def id(self, service: str) -> str:
        return f"{self.workspace}/{self.client_id}:{service}"

    def vanish(self) -> None:
        """Be gone without a word."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def lab(stack: Stack) -> Iterator[dict[str, Puppet]]:
    """One client of each kind in one workspace, each with services of its own."""
    first = Puppet(stack, ALL[0], ALL[0]).began()
    others = [Puppet(stack, kind, kind, first.token) for kind in ALL[1:]]
    with ExitStack() as life:
        for puppet in (first, *others):
            life.callback(puppet.vanish)
        clients = {puppet.kind: puppet for puppet in (first, *(other.began() for other in others))}
        for puppet in clients.values():
            puppet("export")
            assert puppet("register", f"{puppet.kind}-calculator") == puppet.id(f"{puppet.kind}-calculator")
            puppet("register", f"{puppet.kind}-open", "public", True)
        yield clients


@pytest.fixture(scope="module")
def outsiders(stack: Stack) -> Iterator[dict[str, Puppet]]:
    """Clients of both generations, each in a workspace of its own."""
    with ExitStack() as life:
        puppets = [Puppet(stack, kind, f"outside-{kind}") for kind in ("imjoy-sync", "hypha-async")]
        for puppet in puppets:
            life.callback(puppet.vanish)
        yield {puppet.kind: puppet.began() for puppet in puppets}


@pytest.mark.parametrize("caller", ALL)
@pytest.mark.parametrize("owner", ALL)
def test_they_are_found_by_every_id_and_called(lab: dict[str, Puppet], owner: str, caller: str) -> None:
    offers, asks = lab[owner], lab[caller]
    for service in ("default", f"{owner}-calculator"):
        for id in (f"{owner}:{service}", offers.id(service)):
            assert asks("get", id), id
            assert asks("call", id, "greet", "Ada", greeting="Hi", times=2) == "Hi Ada, Hi Ada"
    assert asks("get", f"{owner}-calculator"), "by its name alone"
    id = f"{owner}:default"
    assert asks("call", id, "nested.twice", 21) == 42
    with pytest.raises(Told, match="no luck"):
        asks("call", id, "fail", "luck")
    if owner in ASYNC:
        assert asks("call_back", id) == [2, 4, 6]
    assert {offers.id("default"), offers.id(f"{owner}-calculator")} <= set(asks("listed"))


@pytest.mark.parametrize("caller", [name for name in ALL if "early" not in name])
@pytest.mark.parametrize("owner", ["imjoy-async", "imjoy-sync", "hypha-async"])
def test_a_function_keeps_its_documentation_and_signature(lab: dict[str, Puppet], owner: str, caller: str) -> None:
    lab[caller]("get", f"{owner}:default")
    told = lab[caller]("describe", f"{owner}:default", "greet")
    assert told["doc"] == "Greet somebody, politely."
    if owner.startswith("imjoy") and caller.startswith("imjoy"):  # hypha-rpc sends none
        assert told["signature"] == "(name, greeting='Hello', times=1)"
        lab[caller]("get", f"{owner}-open")
        assert lab[caller]("describe", f"{owner}-open", "whoami")["signature"] == "(greeting='You are')"


@pytest.mark.parametrize("caller", ["imjoy-sync", "hypha-async"])
@pytest.mark.parametrize("owner", ALL)
def test_others_find_what_is_public_and_are_told_apart(
    lab: dict[str, Puppet], outsiders: dict[str, Puppet], owner: str, caller: str
) -> None:
    offers, asks = lab[owner], outsiders[caller]
    for service in ("default", f"{owner}-calculator"):
        with pytest.raises(Told, match="Permission denied"):
            asks("get", offers.id(service))
    id = offers.id(f"{owner}-open")
    assert asks("get", id)
    told = asks("call", id, "whoami", greeting="I see")
    assert told == {"user": told["user"], "workspace": asks.workspace, "greeting": "I see"}
    assert told["user"].startswith("anonymouz") and told["user"] in asks.workspace


@pytest.mark.parametrize("owner", ["imjoy-async", "hypha-async", pytest.param("imjoy-early-async", marks=pytest.mark.extended)])
def test_they_are_back_when_their_client_is(lab: dict[str, Puppet], owner: str) -> None:
    offers, services = lab[owner], ("default", f"{owner}-calculator")
    callers = [lab["imjoy-sync"], lab["hypha-async" if owner != "hypha-async" else "imjoy-async"]]
    for caller in callers:
        assert all(caller("get", offers.id(service)) for service in services)
    offers("break_connection")

    def is_back() -> bool:
        """Its program goes on: the early library may connect again only for what is called then, and lose a call for 10 s."""
        try:
            return offers("get", f"{owner}-calculator") and all(
                caller("get", offers.id(service)) for caller in callers for service in services
            )
        except Told:
            return False

    wait_for(is_back, 90, "its services are there again, for itself and for others")
    for caller in callers:
        assert caller("call", offers.id("default"), "greet", "Ada") == "Hello Ada"
        assert {offers.id(service) for service in services} <= set(caller("listed"))


@pytest.mark.parametrize("owner", ["imjoy-async", "imjoy-early-sync", "hypha-async"])
def test_they_are_gone_with_their_client(stack: Stack, lab: dict[str, Puppet], outsiders: dict[str, Puppet], owner: str) -> None:
    """Those that wait for an answer of it, and those that call it later, are told; nobody waits for one that is not there."""
    leaving = Puppet(stack, owner, f"leaving-{owner}", lab[ALL[0]].token).began()
    leaving("export")
    leaving("register", f"leaving-{owner}", "public")
    id = leaving.id(f"leaving-{owner}")
    callers = [lab["imjoy-async"], lab["hypha-async"], *outsiders.values()]
    assert all(caller("get", id) for caller in callers)
    ends: dict[str, str] = {}

    def wait(caller: Puppet) -> None:
        with pytest.raises(Told) as told:
            caller("call", id, "sleep", 3600)
        ends[caller.client_id] = str(told.value)

    # Hypha tells hypha-rpc's clients of other workspaces nothing of a client of hypha-rpc: its library gives up after 30 s.
    waiting = [
        threading.Thread(target=wait, args=[caller])
        for caller in callers
        if owner in ASYNC and not (owner == caller.kind == "hypha-async" and caller in outsiders.values())
    ]
    for thread in waiting:
        thread.start()
    time.sleep(0.5)
    leaving.vanish()
    for thread in waiting:
        thread.join(GONE)
    assert len(ends) == len(waiting) and all("left" in end or "disconnected" in end for end in ends.values()), ends
    wait_for(lambda: leaving.client_id not in str(callers[0]("listed")), GONE, "its services are not listed any more")
    for caller in callers:
        started = time.monotonic()
        with pytest.raises(Told, match=r"has left|not connected|disconnected"):
            caller("call", id, "greet", "Ada")
        for asked in (id, leaving.id("default")):
            assert caller("get", asked) is False
        assert time.monotonic() - started < GONE


@pytest.mark.parametrize("kind", ["imjoy-async", "hypha-async"])
def test_a_second_client_of_one_id_is_refused_and_the_first_goes_on(stack: Stack, lab: dict[str, Puppet], kind: str) -> None:
    for other in ("imjoy-async", "hypha-async"):
        with pytest.raises(Told, match=f"(?s)(client_id '{kind}' is taken|already exists)"):
            Puppet(stack, other, kind, lab[kind].token).began()
    assert lab["imjoy-sync"]("get", lab[kind].id("default"))
    assert lab["imjoy-sync"]("call", lab[kind].id("default"), "greet", "Ada") == "Hello Ada"


@pytest.mark.parametrize("kind", ["imjoy-async", "imjoy-early-sync", "hypha-sync"])
def test_a_client_withdraws_its_own_of_a_name(lab: dict[str, Puppet], kind: str) -> None:
    one, other = lab[kind], lab["imjoy-sync"]
    one("register", "shared")
    other("register", "shared")
    one("unregister", "shared")
    listed = other("listed")
    assert one.id("shared") not in listed and other.id("shared") in listed
    other("unregister", "shared")


def test_what_a_client_of_imjoy_rpc_has_no_more_is_offered_no_more(lab: dict[str, Puppet]) -> None:
    client = lab["imjoy-async"]
    client("register", "short-lived")
    assert client.id("short-lived") in client("listed")
    client("unregister_locally", "short-lived")
    assert client.id("short-lived") not in client("listed") and client.id("default") in client("listed")


@pytest.mark.parametrize("kind", [kind for kind in ALL if "imjoy" in kind])
def test_what_programs_call_of_the_manager(lab: dict[str, Puppet], kind: str) -> None:
    client = lab[kind]
    assert client("manager", "echo", {"a": [1, "b"]}) == {"a": [1, "b"]}
    for level in ("log", "info", "warning", "error", "critical"):
        assert client("manager", level, "something happened") is None
    told = client("manager", "get_connection_info")
    assert (told["workspace"], told["client_id"]) == (client.workspace, kind)
    assert set(ALL) <= set(client("manager", "list_clients"))
    assert client("manager", "get_workspace_info")["id"] == client.workspace
    for config in ({}, {"expires_in": 60.0, "scopes": [client.workspace]}):
        assert client("manager", "generate_token", config).count(".") == 2


def test_a_connection_that_a_newer_one_replaces_stays_open_and_silent(stack: Stack) -> None:
    """The libraries open another for each that is closed, and so would never come to an end."""
    with RawClient(stack, "imjoy-rpc", "twice") as first:
        token = first.call("services.default.get_connection_info")["reconnection_token"]
        with RawClient(stack, "imjoy-rpc", "twice", query=f"client_id=twice&reconnection_token={token}") as second:
            assert second.call("services.default.list_clients") == ["twice"]
            with pytest.raises(TimeoutError):
                first.socket.recv(0.5)
        with pytest.raises(ConnectionClosed):
            while True:
                first.socket.recv(GONE)


@pytest.mark.parametrize("kind", ["imjoy-async", "hypha-async"])
def test_no_other_program_comes_in_the_place_of_a_client(stack: Stack, lab: dict[str, Puppet], kind: str) -> None:
    """Nor with a token for its id, which an admin of its workspace makes, or with another's for coming again."""
    host, imjoy = lab[kind], lab["imjoy-async"]
    tokens = [imjoy("manager", "generate_token", config) for config in ({"client_id": kind}, {})]
    with RawClient(stack, "imjoy-rpc", "guest", token=tokens[1], find=False) as guest:
        tokens.append(guest.call("services.default.get_connection_info")["reconnection_token"])
    for token in tokens:
        query = f"client_id={kind}&workspace={host.workspace}&reconnection_token={token}"
        with pytest.raises(InvalidStatus, match="403"):
            RawClient(stack, "imjoy-rpc", query=query, find=False)
        with connect(f"ws://127.0.0.1:{stack.port}/ws") as other:
            other.send(json.dumps({"client_id": kind, "workspace": host.workspace, "reconnection_token": token}))
            with pytest.raises(ConnectionClosed, match=r"(?i)already exists|client.id"):
                while True:
                    assert "connection_info" not in str(other.recv(30))
    assert lab["imjoy-sync"]("get", host.id("default"))
    assert lab["imjoy-sync"]("call", host.id("default"), "greet", "Ada") == "Hello Ada"


NONSENSE: list[Any] = [None, [], {"services": 3}, {"services": [3, {}, {"id": None}, {"id": ["x"]}, {"id": ":"}, {"id": "x:_y"}]}]


@pytest.mark.parametrize("info", NONSENSE, ids=str)
def test_an_announcement_of_nothing_changes_nothing(stack: Stack, info: Any) -> None:
    with RawClient(stack, "imjoy-rpc", "announcing", find=False) as client:
        assert client.call("services.default.update_client_info", info) is None
        assert [service["id"].rpartition(":")[2] for service in client.call("services.default.list_services")] == ["built-in"]


PAGE = """<!doctype html>
<script src="https://cdn.jsdelivr.net/npm/{name}@{version}/dist/hypha-rpc-websocket.min.js"></script>
<script>
  async function main() {
    const owner = await hyphaWebsocketClient.connectToServer({ server_url: "URL", client_id: "page", name: "page" })
    await owner.export({ greet: async (name) => "Hello " + name })
    const token = await (owner.generate_token || owner.generateToken)()
    const workspace = owner.config.workspace
    const other = await hyphaWebsocketClient.connectToServer({ server_url: "URL", client_id: "asks", token, workspace })
    const find = other.get_service || other.getService
    const answers = []
    for (const id of ["page:default", workspace + "/page:default"]) {
      answers.push(await (await find(id)).greet("Ada"))
    }
    return answers
  }
  main().then((answers) => { window.report = answers }, (error) => { window.report = String(error?.message ?? error) })
</script>
"""


@pytest.mark.parametrize(
    "library",
    ["imjoy-rpc-newest", *(pytest.param(name, marks=pytest.mark.extended) for name in ("imjoy-rpc-oldest", "hypha-rpc"))],
)
def test_what_a_page_exports(stack: Stack, library: str) -> None:
    name, version = installed(library)
    report = run_page(PAGE.replace("{name}", name).replace("{version}", version).replace("URL", stack.url), stack)
    assert report["result"] == ["Hello Ada", "Hello Ada"], report
