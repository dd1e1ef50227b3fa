"""Start Triton with the model runner: prepare the run dir, give up the rights that models do not need, become tritonserver.

    python -m bioengine_runner.launch

This module alone knows tritonserver's command line; `bioengine up` and the Triton container both use it. Settings come from the
environment (`bioengine_runner.settings`).
"""

from __future__ import annotations

import os
import stat
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from bioengine_contract.ids import RUNNER, is_triton_name
from bioengine_contract.removal import remove
from bioengine_contract.triton_protocol import SECRET_HEADER
from bioengine_contract.trust import parse_trusted
from pydantic import ValidationError

from bioengine_runner.checks import SecretMissing, StartError, check_numpy
from bioengine_runner.confinement.kernel import die_with_parent
from bioengine_runner.confinement.reach import of_triton
from bioengine_runner.confinement.start import confine_as_set, inherited_variables
from bioengine_runner.loading.records import INSTANCES, MODELS
from bioengine_runner.rundir import Boot
from bioengine_runner.settings import Settings

# How long Triton waits for running requests when it stops. If a model's process was killed, it always waits this long.
EXIT_TIMEOUT = 3  # seconds

# How long the server may take to create the secret that both share.
SECRET_PATIENCE = 60.0  # seconds

# The folder, or a link to it, in that of one of the admin's own models: a Python environment for its EXECUTION_ENV_PATH.
ENVIRONMENT = "environment"

# APIs that clients never need: loading and unloading models, mapping shared memory, tracing, changing the log file.
CLOSED_APIS = "model-repository,shared-memory,trace,logging"


def prepare(settings: Settings) -> Boot:
    """Make the run dir's folder for this start of Triton, and remove those of earlier starts."""
    for old in settings.run_dir.glob("boot-*"):
        remove(old)
    boot = Boot(
        folder=settings.run_dir / f"boot-{uuid.uuid4().hex[:12]}",
        store=settings.store,
        run_timeout=settings.run_timeout,
        debug=settings.debug,
        trusted=parse_trusted(settings.trusted_models),
        accelerator=settings.accelerator,
        precision=settings.precision,
        shared_tensors=settings.shared_tensors,
        labels=settings.labels_environment,
    )
    own = (boot.model_repository, boot.own_repository, boot.locks, boot.working_directory, boot.home, boot.temporary, boot.cache)
    for folder in (boot.folder, *own):
        folder.mkdir(parents=True)
    for kind in (MODELS, INSTANCES):
        (boot.processes / kind).mkdir(parents=True)
    for model in own_models(settings.triton_models, settings.store):
        (boot.own_repository / model.name).symlink_to(model.resolve())
    for file in ("config.pbtxt", "1/model.py"):
        copy = boot.runner_repository / RUNNER / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((settings.model_repository / RUNNER / file).read_bytes())  # without the file's mode
    return boot


def command(settings: Settings, boot: Boot, secret: str) -> list[str]:
    """tritonserver's command line. `secret`: the secret for the closed APIs."""
    own = sorted(model.name for model in boot.own_repository.iterdir())
    closed = f"{CLOSED_APIS}:{SECRET_HEADER}={secret}"
    return [
        str(settings.tritonserver),
        f"--model-repository={boot.runner_repository}",
        f"--model-repository={boot.model_repository}",
        f"--model-repository={boot.own_repository}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in (RUNNER, *own)),
        # If one of the admin's models cannot be loaded, Triton logs it and starts all the same.
        "--exit-on-error=false",
        "--strict-readiness=false",
        f"--backend-directory={settings.backends}",
        f"--backend-config=python,shm-region-prefix-name={settings.shm_prefix}",
        "--disable-auto-complete-config",
        *listens_on("http", settings, settings.triton_http_port),
        *listens_on("metrics", settings, settings.triton_metrics_port),
        "--allow-grpc=false",
        f"--http-restricted-api={closed}",
        f"--exit-timeout-secs={EXIT_TIMEOUT}",
        "--log-format=ISO8601",
    ]


def listens_on(what: str, settings: Settings, port: int) -> list[str]:
    """The options for where Triton listens for `what`: on a Unix socket, or on a TCP port."""
    if settings.triton_sockets is not None:
        return [f"--{what}-address=unix:{settings.triton_sockets / what}"]
    return [f"--{what}-address={settings.triton_host}", f"--{what}-port={port}"]


def own_models(folder: Path | None, store: Path) -> list[Path]:
    """The admin's own models: folders with a config.pbtxt. Other folders are reported on stdout, which is Triton's log.

    A name that another model already has is refused, because Triton would load neither of the two.
    """
    models = []
    for model in sorted(folder.iterdir()) if folder is not None and folder.is_dir() else ():
        if model.name.startswith(".") or not model.is_dir():
            continue
        if model.name == RUNNER or not is_triton_name(model.name):
            print(f"Not loaded, because of its name: {model}. Use letters, digits, '.', '_' or '-', not {RUNNER}.", flush=True)
        elif not (model / "config.pbtxt").is_file():
            print(f"Not loaded: {model}. It has no config.pbtxt.", flush=True)
        elif (store / model.name).exists():
            print(f"Not loaded, because of its name: {model}. The store has a model of this name: rename the folder.", flush=True)
        else:
            models.append(model)
    return models


def own_folders(boot: Boot) -> Iterator[Path]:
    """The folders of the admin's own models, and the environments that their links `environment` lead to."""
    for link in boot.own_repository.iterdir():
        model = link.resolve()
        yield model
        if (model / ENVIRONMENT).exists():
            yield (model / ENVIRONMENT).resolve()


def environment(settings: Settings, boot: Boot) -> dict[str, str]:
    """tritonserver's environment variables. Its Python processes use the packages of the first `python3` on PATH."""
    return {
        **inherited_variables(settings.accelerator),
        **boot.to_environment(),
        "PATH": f"{settings.python_environment / 'bin'}:{os.environ.get('PATH', '')}",
        "HOME": str(boot.home),
        "TMPDIR": str(boot.temporary),
        # bioimageio must never use the network: packages are complete in the store.
        "BIOIMAGEIO_CACHE_PATH": str(boot.cache),
    }


def read_settings() -> Settings:
    """Read the settings from the environment. Raises StartError."""
    try:
        return Settings()  # type: ignore[call-arg]  # from the environment
    except ValidationError as error:
        problems = [f"BIOENGINE_{str(item['loc'][0]).upper()}: {item['msg']}" for item in error.errors()]
        raise StartError(f"Triton cannot start because its settings are not valid: {'; '.join(problems)}") from None


def read_secret(settings: Settings) -> str:
    """The secret for the closed APIs; if it is in a file, wait until the server has written it. Raises SecretMissing."""
    if (file := settings.triton_secret_file) is None:
        if settings.triton_secret is None:
            raise SecretMissing("BIOENGINE_TRITON_SECRET and BIOENGINE_TRITON_SECRET_FILE are not set")
        return settings.triton_secret.get_secret_value()
    deadline = time.monotonic() + SECRET_PATIENCE
    while True:
        try:
            secret = file.read_text().strip()
        except FileNotFoundError:
            if time.monotonic() > deadline:
                raise SecretMissing(f"{file} does not exist after {SECRET_PATIENCE:.0f} s") from None
            time.sleep(0.2)
        except OSError as error:
            raise SecretMissing(f"{file} cannot be read ({error.strerror})") from None
        else:
            if len(secret) < 32:
                raise SecretMissing(f"{file} has less than 32 characters")
            return secret


def own_links(folder: Path | None) -> tuple[Path, ...]:
    """The folder of links, if this user owns it and nobody else can enter it: in /tmp, anybody may make a folder or a link."""
    try:
        found = None if folder is None else folder.lstat()
    except OSError:
        return ()
    if folder is None or found is None or not stat.S_ISDIR(found.st_mode):
        return ()
    return (folder,) if found.st_uid == os.getuid() and not found.st_mode & 0o077 else ()


def confine_triton(settings: Settings, boot: Boot) -> None:
    """Give up the rights that Triton, its processes and models do not need. Raises NotConfined."""
    accesses = of_triton(
        installation=(settings.tritonserver.parents[1], settings.tritonserver.resolve().parents[1], settings.backends),
        readable=(settings.store, *own_links(settings.plain_names)),
        own_models=(settings.triton_models or boot.own_repository, *own_folders(boot), *([boot.labels] if boot.labels else [])),
        writable=(boot.folder, *([settings.shared_tensors] if settings.shared_tensors else [])),
        sockets=settings.triton_sockets,
    )
    by_socket = settings.triton_sockets is not None
    ports = () if by_socket else (settings.triton_http_port, settings.triton_metrics_port)
    confine_as_set(settings.confine, accesses, ports, cuda_with=environment(settings, boot))


def start(settings: Settings) -> NoReturn:
    """Become tritonserver. Raises StartError."""
    # Other users cannot read files that this process, Triton and its processes make.
    os.umask(0o077)
    check_numpy(settings.tritonserver)
    secret = read_secret(settings)
    boot = prepare(settings)
    arguments = command(settings, boot, secret)
    variables = environment(settings, boot)
    os.chdir(boot.working_directory)
    confine_triton(settings, boot)
    os.execve(arguments[0], arguments, variables)


def main() -> None:
    if os.environ.get("BIOENGINE_DIE_WITH_PARENT") == "1":
        die_with_parent()
    try:
        start(read_settings())
    except StartError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
