"""The registration service as a process of its own: a Hypha here, a Triton elsewhere that shares no file system."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from hypha_rpc.sync import connect_to_server

from tests.stack.harness import ROOT, RUNNER, Stack, bioengine, example_input, get, wait_for


def hub_answers(url: str, inputs: list[np.ndarray], token: str) -> dict[str, Any] | None:
    """What a client of the hub gets from the model; None where there is no service."""
    try:
        server = connect_to_server({"server_url": url, "method_timeout": 20, "token": token})
    except Exception:
        return None
    try:
        triton = server.get_service("triton-client")
        request = {"model_id": "old-otter", "inputs": inputs}
        return dict(triton.execute(inputs=[request], model_name=RUNNER, serialization="imjoy")["result"])
    except Exception:
        return None
    finally:
        server.disconnect()


def test_a_home_without_models_offers_none(tmp_path: Path) -> None:
    arguments = ("register", "http://127.0.0.1:9", "--triton", "unix:/nowhere")
    home, secret = str(tmp_path / "nothing"), secrets.token_urlsafe(48)
    done = bioengine(*arguments, BIOENGINE_HOME=home, BIOENGINE_TOKEN="x", BIOENGINE_TRITON_SECRET=secret)
    assert done.returncode == 1 and "Set BIOENGINE_HOME to the home of the Triton that is offered" in done.stderr
    assert not (tmp_path / "nothing").exists()


@pytest.mark.extended
def test_registration_from_a_process_of_its_own(own_home: Path, packages: Path, tmp_path: Path) -> None:
    """It offers a remote Triton, and offers it again after the Hypha server was started anew; until its token is revoked."""
    secret = secrets.token_urlsafe(48)
    hub_home = tmp_path / "hub"
    hub = Stack(hub_home, "--triton", "none", "--access", "token", wait=False)
    mine = hub.token("client")
    remote = Stack(own_home, command="triton", wait=False, BIOENGINE_TRITON_SECRET=secret)
    triton = f"unix:{remote.settings.triton_sockets / 'http'}"
    registration: subprocess.Popen[bytes] | None = None
    inputs, expected = example_input(packages, "old-otter"), np.load(packages / "old-otter" / "test_output.npy")
    log = tmp_path / "registration.log"
    try:
        hub.start()
        remote.start()
        wait_for(lambda: get(f"{hub.url}/health/liveness")[0] == 200, 30, "hub alive")
        wait_for(lambda: f"Triton on {triton}" in remote.log, 30, "its address is printed")
        assert hub_answers(hub.url, inputs, mine) is None
        assert get(f"{hub.url}/health/readiness")[0] == 503
        token = bioengine("token", "create", "gpu-box", "--registration", "--home", str(hub_home)).stdout.strip()
        with open(log, "wb") as output:
            registration = subprocess.Popen(
                [str(ROOT / "bioengine"), "register", hub.url, "--triton", triton],
                env={
                    **os.environ,
                    "BIOENGINE_TOKEN": token,
                    "BIOENGINE_TRITON_SECRET": secret,
                    "BIOENGINE_HOME": str(own_home),
                },
                stdout=output,
                stderr=output,
            )

        def answered() -> bool:
            result = hub_answers(hub.url, inputs, mine)
            if result is None:
                return False
            assert result["success"], result
            np.testing.assert_allclose(result["outputs"][0], expected, atol=1e-3)
            return True

        wait_for(answered, 40, f"registered; its log: {log.read_text()}")
        wait_for(hub.is_ready, 20, "the hub's readiness runs its probe through the remote Triton")
        with pytest.raises(ConnectionAbortedError, match="needs a token"):
            connect_to_server({"server_url": hub.url})
        config = f"{hub.url}/public/services/triton-client/get_config?model_name=old-otter"
        assert requests.get(config).status_code == 401
        assert requests.get(config, headers={"Authorization": f"Bearer {mine}"}).json()["name"] == "old-otter"
        hub.stop()
        time.sleep(2)
        hub.start()
        seconds = wait_for(answered, 40, f"registered again; its log: {log.read_text()}")
        print(f"registered again {seconds:.1f} s after Hypha was started anew")
        wait_for(hub.is_ready, 20, "ready again")
        assert bioengine("token", "revoke", "gpu-box", "--home", str(hub_home)).returncode == 0
        wait_for(lambda: hub_answers(hub.url, inputs, mine) is None, 20, "its service is gone with its token")
        registration.send_signal(signal.SIGTERM)
        assert registration.wait(10) == 0, log.read_text()
    finally:
        if registration is not None and registration.poll() is None:
            registration.kill()
        remote.stop()
        hub.stop()
    assert remote.leftovers() == [] and hub.leftovers() == []


@pytest.mark.extended
def test_register_says_what_is_missing(tmp_path: Path) -> None:
    def register(**environment: Any) -> str:
        return bioengine("register", "http://127.0.0.1:1", BIOENGINE_HOME=str(tmp_path), **environment).stderr

    assert "BIOENGINE_TOKEN is not set" in register()
    assert "--triton URL" in register(BIOENGINE_TOKEN="x")
    elsewhere = {"BIOENGINE_TOKEN": "x", "BIOENGINE_TRITON": "http://127.0.0.1:1"}
    assert "BIOENGINE_TRITON_SECRET is missing" in register(**elsewhere)
    assert "There are no models in the home" in register(**elsewhere, BIOENGINE_TRITON_SECRET=secrets.token_urlsafe(32))


def test_a_token_that_is_not_the_servers_is_refused(stack: Stack) -> None:
    with pytest.raises(Exception, match=r"(?i)auth|token|signature"):
        connect_to_server({"server_url": stack.url, "token": "not.a.token", "workspace": "public"})


def test_clients_cannot_take_the_services_name(stack: Stack) -> None:
    """A client may register in its own workspace only, with a token or without; `public` goes on being the server's."""
    with stack.client() as client:
        with pytest.raises(Exception, match=r"(?i)permission"):
            connect_to_server({"server_url": stack.url, "workspace": "public"}).register_service(
                {"id": "triton-client", "config": {"visibility": "public"}, "execute": lambda: "taken"}
            )
        with pytest.raises(Exception, match=r"(?i)permission|wrong workspace"):
            connect_to_server(
                {"server_url": stack.url, "workspace": "public", "token": stack.token("ordinary")}
            ).register_service(
                {"id": "triton-client", "config": {"visibility": "public", "workspace": "public"}, "execute": lambda: "taken"}
            )
        client.server.register_service({"id": "triton-client", "config": {"visibility": "public"}, "execute": lambda: "mine"})
        assert client.server.get_service("triton-client").execute() == "mine", "a user's own workspace wins"
        with stack.client() as other:
            assert other.run("bioengine-probe", None)["rdf"]
