"""What the server and the model runner do together, beside what is in the contract that both import."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

from bioengine_contract.store import resolve
from bioengine_contract.trust import trust_entry
from bioengine_server.triton.restart import ask_for_restart

from tests.stack.harness import ENVIRONMENTS, ROOT, python


def in_runner(code: str, data: bytes = b"") -> bytes:
    """What a program in the runner's environment prints."""
    return subprocess.run([python("runner"), "-c", code], input=data, capture_output=True, check=True).stdout


def test_the_runner_s_environment_has_what_the_commands_about_models_import(filled_home: Path) -> None:
    """Triton's image has them, with that environment."""
    home = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "server"),
        "BIOENGINE_HOME": str(filled_home),
        "BIOENGINE_ENVIRONMENTS": str(ENVIRONMENTS),
    }
    for arguments in (["list"], ["show", "old-otter"], ["test", "old-otter"]):
        command = [python("runner"), "-m", "bioengine_server", "models", *arguments]
        done = subprocess.run(command, env=home, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_runner_resolves_what_the_server_resolves(filled_home: Path) -> None:
    """With the NumPy of either environment, from the same store."""
    store = filled_home / "models"
    code = f"""
import json
from pathlib import Path
from bioengine_contract.store import read_aliases, resolve
from bioengine_contract.trust import trust_entry
store = Path({str(store)!r})
packages = [(name, resolve(store, name)) for name in read_aliases(store)]
print(json.dumps({{name: [str(package.key), package.fingerprint, trust_entry(package.manifest)] for name, package in packages}}))
"""
    found: dict[str, list[str]] = json.loads(in_runner(code))
    assert found and found["10.5281/zenodo.1234567"][0].startswith("conscientious-seashell/")
    for name, read in found.items():
        package = resolve(store, name)
        assert read == [str(package.key), package.fingerprint, trust_entry(package.manifest)]


def test_the_restart_that_the_server_asks_for_is_the_one_that_the_runner_sees(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from bioengine_runner.restart import end_on_request
import time
end_on_request(Path({str(tmp_path / "secret")!r}))
print("watched", flush=True)
time.sleep(60)
"""
    watched = subprocess.Popen([python("runner"), "-c", code], stdout=subprocess.PIPE)
    assert watched.stdout is not None and watched.stdout.readline() == b"watched\n"
    assert watched.poll() is None
    ask_for_restart(tmp_path / "secret")
    assert watched.wait(30) == -signal.SIGKILL
