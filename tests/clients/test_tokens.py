"""A server that needs a token, and what it tells each client without a token, with a wrong one, and with an expired one."""

from __future__ import annotations

import base64
import functools
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import requests
from hypha_rpc.sync import connect_to_server

from tests.clients.ahead import ahead, selected
from tests.clients.browser import run_pages
from tests.clients.libraries import CLIENTS, calls
from tests.stack.harness import ROOT, USUAL_URL, Stack, bioengine, command, get, python, wait_for
from tests.tiers import cases

NEEDED = "This server needs a token: ask its admin"
REASONS = {
    "none": NEEDED,
    "wrong": "The token is not valid on this server",
    "expired": "The token 'expired' expired on 20",
    "revoked": "The token 'revoked' has been revoked",
    "own": NEEDED,
    "right": "",
}
"""What is said of each kind of token; `own`: an anonymous client made it for itself."""

IN_A_HEADER = {**REASONS, "wrong": "The token is not valid"}
IMAGE = np.zeros((1, 3, 16, 16), np.float32)


@pytest.fixture(scope="module")
def tokens(token_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A token of each kind."""
    made = {"none": "", "wrong": "not.a.token", "expired": token_stack.token("expired", "--days", "0.0001")}  # 8.6 s
    started = time.monotonic()
    made |= {name: token_stack.token(name) for name in ("right", "revoked")}
    revoke(token_stack, "revoked")
    made["own"] = made_by_an_anonymous_client(token_stack.home, tmp_path_factory.mktemp("open") / "home")
    time.sleep(max(0.0, 9 - (time.monotonic() - started)))
    return made


def revoke(stack: Stack, name: str) -> None:
    assert command("token", "revoke", name, "--home", str(stack.home)).exit_code == 0


def made_by_an_anonymous_client(home: Path, other: Path) -> str:
    """What `generate_token` gives to an anonymous client, in a server with the secret of `home` that lets it in."""
    shutil.copytree(home / "secrets", other / "secrets")
    with Stack(other, "--workers-only", wait=False) as hub:
        wait_for(lambda: get(f"{hub.url}/health/liveness")[0] == 200, 60, "hub alive")
        server = connect_to_server({"server_url": hub.url})
        token = str(server.generate_token())
        server.disconnect()
    return token


# The same code serves all modes of a library: in the core tier one of each is enough.
CORE = [("client-imjoy", "imjoy", "sync"), ("client-hypha", "hypha", "async")]
ALL_CLIENTS = cases(CLIENTS, CORE)


@pytest.fixture(scope="module")
def reports(
    request: pytest.FixtureRequest, token_stack: Stack, tokens: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., dict[str, dict[str, Any]]]]:
    """What a client came to with each kind of token, all in one program; `seconds` with those that it took to start and end."""
    cases = selected(request, "test_clients", "environment", "library", "mode", "kind")

    def report(*client: str) -> dict[str, dict[str, Any]]:
        environment, library, mode = client
        folders = {kind: tmp_path_factory.mktemp(f"{environment}-{mode}-{kind}") for *other, kind in cases if (*other,) == client}
        asked: dict[Path, dict[str, Any]] = {}
        for kind, folder in folders.items():
            np.save(folder / "image.npy", IMAGE)
            asked[folder] = {"model_id": "conscientious-seashell", "inputs": [str(folder / "image.npy")]}
            if tokens[kind]:
                asked[folder]["token"] = tokens[kind]
        started = time.monotonic()
        told = calls(library, mode, token_stack, asked, environment=environment)
        beside = time.monotonic() - started - sum(each["seconds"] for each in told.values())
        return {kind: {**told[folder], "seconds": told[folder]["seconds"] + beside} for kind, folder in folders.items()}

    with ahead(report, dict.fromkeys((*client,) for *client, _ in cases)) as outcome:
        yield outcome


@pytest.mark.parametrize("kind", REASONS)
@pytest.mark.parametrize(("environment", "library", "mode"), ALL_CLIENTS, ids=lambda value: value.removeprefix("client-"))
def test_clients(reports: Callable[..., dict[str, dict[str, Any]]], environment: str, library: str, mode: str, kind: str) -> None:
    report = reports(environment, library, mode)[kind]
    if kind == "right":
        assert report["success"] and report["outputs"][0].shape == (1, 1, 16, 16)
    else:
        assert REASONS[kind] in report["raised"] and "Traceback" not in report["raised"], report
        assert report["seconds"] < 60


@pytest.fixture(scope="module")
def triton_reports(token_stack: Stack, tokens: dict[str, str]) -> Callable[[str], dict[str, dict[str, Any]]]:
    """What one of Triton's clients came to with each kind of token."""

    @functools.cache
    def report(library: str) -> dict[str, dict[str, Any]]:
        script = str(ROOT / "tests" / "clients" / "triton_token.py")
        program = [python("client-pyotritonclient"), script, library, token_stack.url, *(tokens[kind] for kind in REASONS)]
        told = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True).stdout
        return dict(zip(REASONS, map(json.loads, told.splitlines()), strict=True))

    return report


@pytest.mark.parametrize("kind", REASONS)
@pytest.mark.parametrize("library", ["tritonclient", "pyotritonclient"])
def test_tritons_clients(triton_reports: Callable[[str], dict[str, dict[str, Any]]], library: str, kind: str) -> None:
    report = triton_reports(library)[kind]
    if kind == "right":
        assert report == {"shape": [1, 1, 16, 16]}
    else:
        assert report["raised"].startswith("InferenceServerException: ") and IN_A_HEADER[kind] in report["raised"], report


@pytest.mark.parametrize("kind", REASONS)
@pytest.mark.parametrize("form", ["msgpack", "json"])
def test_plain_http(token_stack: Stack, tokens: dict[str, str], form: str, kind: str) -> None:
    headers = {"Authorization": f"Bearer {tokens[kind]}"} if tokens[kind] else {}
    array = {"_rtype": "ndarray", "_rvalue": IMAGE.tobytes(), "_rshape": IMAGE.shape, "_rdtype": "float32"}
    if form == "json":
        array["_rvalue"] = base64.b64encode(IMAGE.tobytes()).decode()
    arguments = {
        "inputs": [{"model_id": "conscientious-seashell", "inputs": [array]}],
        "model_name": "bioengine-model-runner",
        "serialization": "imjoy",
    }
    url = f"{token_stack.url}/public/services/triton-client"
    body = {"json": arguments} if form == "json" else {"data": msgpack.packb(arguments)}
    headers["Content-Type"] = f"application/{form}"
    answers = [
        requests.post(f"{url}/execute", headers=headers, **body),
        requests.get(f"{url}/get_config", {"model_name": "conscientious-seashell"}, headers=headers),
        requests.get(f"{token_stack.url}/triton/v2/models/conscientious-seashell/config", headers=headers),
        requests.post(f"{token_stack.url}/triton/v2/models/conscientious-seashell/infer", headers=headers),
    ]
    if kind == "right":
        assert [answer.status_code for answer in answers] == [200, 200, 200, 400], "the last has no body"
        result = answers[0].json()["result"] if form == "json" else msgpack.unpackb(answers[0].content)["result"]
        assert result["success"] and result["outputs"][0]["_rshape"] == [1, 1, 16, 16]
        return
    for answer in answers:
        assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
        assert IN_A_HEADER[kind] in answer.json()["error"] and answer.json()["success"] is False


def test_a_refusal_arrives_also_where_an_image_was_sent(token_stack: Stack) -> None:
    for path in ("public/services/triton-client/execute", "triton/v2/models/conscientious-seashell/infer", "no/such/page"):
        answer = requests.post(f"{token_stack.url}/{path}", data=bytes(30_000_000), timeout=60)
        assert answer.status_code == (404 if "no" in path.split("/") else 401)


PAGE = """<!doctype html>
<script src="https://cdn.jsdelivr.net/npm/LIBRARY/dist/hypha-rpc-websocket.min.js"></script>
<script>
  async function main() {
    const server = await hyphaWebsocketClient.connectToServer({ server_url: "URL", token: TOKEN })
    const triton = await server.getService("triton-client")
    const image = { _rtype: "ndarray", _rvalue: new ArrayBuffer(768), _rshape: [1, 3, 16, 16], _rdtype: "uint8" }
    const inputs = [{ inputs: [image], model_id: "conscientious-seashell" }]
    const ret = await triton.execute({ inputs, model_name: "bioengine-model-runner", serialization: "imjoy", _rkwargs: true })
    return String(ret.result.outputs[0]._rshape)
  }
  main().then((shape) => { window.report = shape }, (error) => { window.report = String(error?.message ?? error) })
</script>
"""


@pytest.fixture(scope="module")
def pages(request: pytest.FixtureRequest, token_stack: Stack, tokens: dict[str, str]) -> Callable[[str], dict[str, Any]]:
    """What a library's pages came to, one with each kind of token, in one browser."""

    @functools.cache
    def report(library: str) -> dict[str, Any]:
        kinds = [kind for other, kind in selected(request, "test_pages", "library", "kind") if other == library]
        html = PAGE.replace("LIBRARY", library).replace("URL", USUAL_URL)
        return dict(
            zip(kinds, run_pages([html.replace("TOKEN", json.dumps(tokens[kind] or None)) for kind in kinds], token_stack))
        )

    return report


@pytest.mark.parametrize("kind", cases(["none", "wrong", "revoked", "right"], core=["none", "right"]))
@pytest.mark.parametrize(
    "library", ["imjoy-rpc@0.5.59", pytest.param("imjoy-rpc@0.5.9", marks=pytest.mark.extended), "hypha-rpc@0.21.40"]
)
def test_pages(pages: Callable[[str], dict[str, Any]], library: str, kind: str) -> None:
    report = pages(library)[kind]
    assert ("1,1,16,16" if kind == "right" else REASONS[kind]) in report["result"], report


@pytest.mark.parametrize("pause", cases([0, 3], core=[0]), ids=["at once", "a while after"])
@pytest.mark.parametrize(("environment", "library", "mode"), ALL_CLIENTS, ids=lambda value: value.removeprefix("client-"))
def test_a_token_that_is_revoked_while_its_client_is_connected(
    token_stack: Stack, environment: str, library: str, mode: str, pause: int
) -> None:
    """Its next call ends with an error at once, and with the reason where the library tells it."""
    name = f"{environment}-{mode}-{pause}"
    program = [python(environment), str(ROOT / "tests" / "clients" / "revoked.py"), library, mode, token_stack.url]
    client = subprocess.Popen([*program, token_stack.token(name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert client.stdin and client.stdout
    try:
        assert json.loads(client.stdout.readline())["success"]
        revoke(token_stack, name)
        time.sleep(pause)
        started = time.monotonic()
        client.stdin.write("\n")
        client.stdin.flush()
        after = json.loads(client.stdout.readline())
        assert time.monotonic() - started < 20
        # hypha-rpc connects again, is told the reason, which it logs, and is closed.
        reasons = [f"The token '{name}' has been revoked", *(["Connection is closed"] if library == "hypha" else [])]
        assert any(reason in after["raised"] for reason in reasons), after
    finally:
        client.kill()
        client.wait()


def test_what_was_made_of_a_token_dies_with_it(token_stack: Stack) -> None:
    with token_stack.client(token_stack.token("parent")) as parent:
        child = parent.server.generate_token({"expires_in": 10**8})
        with token_stack.client(child) as other:
            assert other.run("conscientious-seashell", [IMAGE])["success"]
        revoke(token_stack, "parent")
        with pytest.raises(Exception, match="The token 'parent' has been revoked"):
            token_stack.client(child)
        with pytest.raises(Exception, match=r"The token 'parent' has been revoked|Connection"):
            parent.run("conscientious-seashell", [IMAGE])


def test_commands_take_the_token_from_the_environment(token_stack: Stack, tokens: dict[str, str], tmp_path: Path) -> None:
    arguments = ["demo", "--server-url", token_stack.url, "-o", str(tmp_path)]
    refused = bioengine(*arguments, BIOENGINE_TOKEN="")
    assert refused.returncode == 1 and NEEDED in refused.stderr and "BIOENGINE_TOKEN" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert bioengine(*arguments, BIOENGINE_TOKEN=tokens["right"]).returncode == 0


def test_health_and_the_list_of_services_need_none(token_stack: Stack) -> None:
    for path in ("/health/liveness", "/health/readiness", "/public/services", "/public/services/"):
        assert get(token_stack.url + path)[0] == 200
