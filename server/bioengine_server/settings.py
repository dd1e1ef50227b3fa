"""The server's settings: environment variables with the prefix `BIOENGINE_`, some of which are also flags of the command line.
Commands read all others from files (`settings_files`).

docs/settings.md and .env.example list each of them; a test fails if one is missing there.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Any, Literal, Self

from bioengine_contract.ids import WORKER_NAME
from bioengine_contract.trust import parse_trusted
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from bioengine_server.amounts import Duration, Size
from bioengine_server.network.hosts import EVERY_ADDRESS, Hosts, parse_hosts
from bioengine_server.network.origins import DEFAULT_ORIGINS, parse_origins
from bioengine_server.project import usual_environments


class Settings(BaseSettings):
    """The settings of the server and the command line."""

    model_config = SettingsConfigDict(env_prefix="BIOENGINE_", use_attribute_docstrings=True, extra="ignore")

    host: str = "127.0.0.1"
    """Address to listen on. Loopback: only programs on this machine. `0.0.0.0`: everybody who can reach it."""

    listen: str = ""
    """Address to bind, if it is not the one that clients use, as in a container. Empty: `host`."""

    public_url: str = ""
    """URL by which clients reach the server, if it is not host and port, such as https://bioengine.lab behind a proxy. Clients
    get it as the server's URL."""

    port: int = Field(default=9520, ge=1, le=65535)
    """The port for all clients."""

    home: Path = Path("~/.bioengine")
    """Folder of the model store and the secrets."""

    access: Literal["auto", "open", "token"] = "auto"
    """Who may run models. `open`: everybody who can reach the server. `token`: only clients with a token from
    `bioengine token create`. `auto`: clients behind a proxy need a token, and so do all clients if the host is not loopback."""

    token_requests: int = Field(default=128, ge=0)
    """Requests that a token may have under way at once, running or waiting; 0: as many as the server takes. A token's own
    limit (`token create --requests`) wins."""

    token_max_request_size: int = Field(default=0, ge=0)
    """Largest size of one request's inputs with a token, in bytes; 0: the server's. A token's own limit (`--max-size`) wins."""

    anonymous_requests: int = Field(default=0, ge=0)
    """Requests that all clients without a token together may have under way at once; 0: as many as the server takes."""

    anonymous_max_request_size: int = Field(default=0, ge=0)
    """Largest size of one request's inputs without a token, in bytes; 0: the server's limit."""

    offline: bool = False
    """Never use the internet: use only models in the store."""

    collection_url: str = "https://hypha.aicell.io/bioimage-io/artifacts/{id}/files/rdf.yaml"
    """Where the description of a model that is not stored is found; `{id}` stands for its id."""

    collection_listing_url: str = "https://hypha.aicell.io/bioimage-io/artifacts/bioimage.io/children?limit=10000"
    """JSON list of the collection's models, for `models search`. Empty: the collection has none."""

    id_map_url: str = "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/id_map.json"
    """JSON object from ids, such as DOIs, to `{"source": URL of the description}`. Empty: there is none."""

    download: Literal["anyone", "token", "admin", "never"] = "anyone"
    """Who may cause a download: every client, clients with a token from `bioengine token create`, only the command line, or
    nobody."""

    download_timeout: float = Field(default=3600.0, gt=0)
    """Seconds that one file of a download may take."""

    max_package_size: int = Field(default=20 * 1024**3, ge=1024**2)
    """Largest size of a file in a download, and of a whole package, in bytes."""

    store: Path = Path()
    """Folder of the models, if it is not `models` in the home: such as one that a worker shares with its server, read-only."""

    run_dir: Path | None = None
    """Node-local folder for what the running stack shares, never on a network file system. Default: a folder of the
    user's own in the system's temporary folder, one for each home."""

    debug: bool = False
    """Show tracebacks in the errors that clients get, and log more."""

    log_format: Literal["text", "json"] = "text"
    """Of the server's log: a line of text for each record, or a JSON object."""

    concurrency: int = Field(default=16, ge=1, le=256)
    """Requests that run at the same time, in all."""

    model_concurrency: int = Field(default=4, ge=1)
    """Requests that run at the same time for one model, so that a slow or stuck model never takes all places."""

    queue_size: int = Field(default=256, ge=1)
    """How many requests may wait, in total; further ones are answered at once with an error that asks to try again later."""

    max_request_size: int = Field(default=4 * 1024**3, ge=1024)
    """Largest size of one request's inputs, in bytes."""

    client_timeout: float = Field(default=60.0, gt=0)
    """Seconds that an HTTP client may send nothing of a request that it has begun, or take nothing of an answer, before it
    counts as gone."""

    allow_hosts: str = ""
    """Further names and addresses by which clients reach the server, separated by commas: those of a proxy in front, aliases.
    `*.lab.example`: every name below that one. `*`: any, so that web pages can use the server by DNS rebinding."""

    allow_origins: str = DEFAULT_ORIGINS
    """Origins, separated by commas, whose web pages may use the server, beside its own. `loopback`: pages that are served from
    this machine. `https://*.imjoy.io`: all below a host; `http://lab.example:*`: of any port. `*`: any page. Empty: none."""

    peer_connections: int = Field(default=2000, ge=16)
    """Connections that one address may have open at once. A proxy in front counts as one."""

    peer_requests: int = Field(default=0, ge=0)
    """HTTP requests a second that one address may send, five times as many at once; further ones get 429. 0: any number. A proxy
    in front counts as one; RPC clients' calls do not count."""

    run_timeout: float = Field(default=3000.0, gt=0)
    """Seconds that one run of a model may take before it is ended."""

    trusted_models: str = ""
    """Packages that may run Python code of their own: entries `id@hash`, separated by commas, as `models show ID` prints
    them. Nothing else that is imported under the id is trusted."""

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """`cuda`: models compute on the GPU, or are not loaded. `auto`: on a GPU where there is one. `cpu`: never on one. Read
    when the environments are built, too."""

    precision: Literal["exact", "fast"] = "exact"
    """How models compute on a GPU. `exact`: in 32-bit floats. `fast`: their products may be rounded to TensorFloat-32; `models
    test` says by how much results differ."""

    memory_limit: Size = 0
    """Bytes of memory that all loaded models together may hold, also as `8GB` or `50%` of the machine's; the model that was used
    longest ago is unloaded when another one needs room. 0: three quarters of the machine's."""

    gpu_memory_limit: Size = 0
    """The same of the GPUs' memory. 0: nine tenths of what they have."""

    keep_loaded: Duration = 1800.0
    """How long a model stays loaded after its last use: seconds, or with a unit, such as `30m` or `2h`. `0`: it is unloaded at
    once. `-1`: until its memory is needed."""

    devices: str = ""
    """Numbers of the GPUs that models may use, separated by commas, as `nvidia-smi` shows them. Empty: all."""

    preload: str = ""
    """Ids of models, separated by commas, that are loaded when the server starts and never unloaded."""

    probe_interval: float = Field(default=3.0, gt=0)
    """Seconds between two checks of the stack's health."""

    triton: str = "embedded"
    """`embedded`: start Triton too. `workers`: start none; models run on workers that join (`bioengine worker`). A URL such as
    `http://triton:8000` or `unix:/path/of/the/socket`: use that Triton."""

    triton_secret: SecretStr | None = None
    """Secret of a Triton that is not embedded (at least 32 characters); the embedded one gets a new one at each start."""

    triton_secret_file: Path | None = None
    """File with that secret, in a folder that both sides share; the server creates it if it does not exist yet."""

    triton_port: int | None = None
    """HTTP port of the embedded Triton, on loopback, where other users of the machine reach it. Default: none, it listens on a
    Unix socket that they cannot open."""

    server_url: str = ""
    """Of a worker: the URL of the server that it works for, such as https://bioengine.lab."""

    worker_token_file: Path | None = None
    """File with the token with which workers join. Of a worker: what `bioengine token create NAME --worker` has printed. Of a
    server: a secret of at least 32 characters that its workers have as well, accepted beside such tokens."""

    worker_name: str = ""
    """Of a worker: the name by which its server knows it. Empty: the machine's, in a Slurm job with the job's number."""

    worker_wait: Duration = 120.0
    """How long a request waits for a worker where none is there: seconds, or with a unit, such as `2m`."""

    places: int = Field(default=4, ge=1, le=256)
    """Of a worker, and of the server's own Triton: requests that run there at once before others go to another worker."""

    confine: Literal["auto", "require", "off"] = "auto"
    """Whether Triton and its models are kept from the rest of the machine by Landlock and seccomp. `auto`: as far as the kernel
    can. `require`: or it does not start. `off`: not at all."""

    shared_tensors: Path | None = None
    """Folder in memory that a Triton which is not embedded sees under the same name, for tensors by reference. Without it they go
    as bytes. The embedded one has a folder of its own."""

    environments: Path = usual_environments()
    """Folder of the Python environments and the Triton installation."""

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Treat empty settings as not set, except some texts. An empty path would otherwise be the working folder."""
        texts = {name for name, field in cls.model_fields.items() if field.annotation is str}
        return {name: value for name, value in values.items() if value != "" or name in texts}

    @field_validator("home", "store", "run_dir", "shared_tensors", "environments", "triton_secret_file", "worker_token_file")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        try:
            return path if path in (None, Path()) else Path(os.path.abspath(path.expanduser()))
        except RuntimeError:
            raise ValueError("there is no home folder for ~ here; give the path from / on") from None

    @model_validator(mode="after")
    def _with_store(self) -> Self:
        if self.store == Path():
            self.store = self.home / "models"
        return self

    @field_validator("collection_url")
    @classmethod
    def _pattern(cls, value: str) -> str:
        if value.startswith(("http://", "https://")) and "{id}" in value:
            return value
        raise ValueError("expected a URL with {id} in it, such as https://collection.example/{id}/rdf.yaml")

    @field_validator("worker_name")
    @classmethod
    def _known_name(cls, value: str) -> str:
        if value and not re.fullmatch(WORKER_NAME, value):
            raise ValueError("expected letters, digits, '-', '_' and '.', at most 60, such as gpu-box-2")
        return value

    @field_validator("public_url", "server_url")
    @classmethod
    def _known_url(cls, value: str) -> str:
        if not value or value.startswith(("http://", "https://")):
            return value.rstrip("/")
        raise ValueError("expected a URL such as https://bioengine.lab")

    @field_validator("trusted_models")
    @classmethod
    def _entries(cls, value: str) -> str:
        parse_trusted(value)
        return value

    @field_validator("allow_hosts")
    @classmethod
    def _hosts(cls, value: str) -> str:
        parse_hosts(value)
        return value

    @field_validator("allow_origins")
    @classmethod
    def _origins(cls, value: str) -> str:
        parse_origins(value)
        return value

    @field_validator("devices")
    @classmethod
    def _numbers(cls, value: str) -> str:
        if not all(number.strip().isdecimal() for number in value.split(",")) and value.strip():
            raise ValueError("expected numbers of GPUs separated by commas, such as 0,1")
        return value

    @field_validator("accelerator", "precision", mode="before")
    @classmethod
    def _lower_case(cls, value: str) -> str:
        return value.lower()

    @field_validator("triton")
    @classmethod
    def _known_triton(cls, value: str) -> str:
        if value in ("embedded", "workers") or value.startswith(("http://", "https://", "unix:/")):
            return value.rstrip("/")
        if value == "none":
            raise ValueError("`none` was replaced by `workers`: models run on workers that join with `./bioengine worker`")
        raise ValueError("expected embedded, workers or a URL such as http://triton:8000 or unix:/path")

    @property
    def triton_is_elsewhere(self) -> bool:
        """Whether `triton` is the URL of one that this server does not start."""
        return self.triton not in ("embedded", "workers")

    @functools.cached_property
    def trusted(self) -> frozenset[str]:
        """The entries of `trusted_models`."""
        return parse_trusted(self.trusted_models)

    @property
    def cards(self) -> frozenset[int]:
        """The numbers of `devices`; empty: all."""
        return frozenset(int(number) for number in self.devices.split(",") if number.strip())

    @property
    def triton_models(self) -> Path:
        """The admin's own Triton models."""
        return self.home / "triton-models"

    @property
    def bind_address(self) -> str:
        """The address to listen on."""
        return self.listen or self.host

    @property
    def url(self) -> str:
        """The server's URL for clients on this machine, or in this container."""
        return self._url_at(self.bind_address)

    def known_hosts(self) -> Hosts:
        """The names that this server answers to."""
        return Hosts(self.advertised_url, self.host, self.bind_address, self.allow_hosts, is_in_container=bool(self.listen))

    @property
    def advertised_url(self) -> str:
        """The URL that clients get as the server's address."""
        return self.public_url or self._url_at(self.host)

    @property
    def tells_others_loopback(self) -> bool:
        """Whether clients on other machines get a loopback address, because the address that they use is not known."""
        return not self.public_url and self.host in EVERY_ADDRESS

    def _url_at(self, host: str) -> str:
        host = "127.0.0.1" if host in EVERY_ADDRESS else host
        return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{self.port}"

    @property
    def home_digest(self) -> str:
        """Identifies what belongs to this home and user outside of the home: the run dir, shared memory segments."""
        return hashlib.sha256(f"{os.getuid()}:{self.home.resolve()}".encode()).hexdigest()[:12]

    @property
    def node_folder(self) -> Path:
        """The run dir: the configured one, or the default."""
        return self.run_dir or self.usual_node_folder

    @property
    def usual_node_folder(self) -> Path:
        """The default run dir."""
        return Path(tempfile.gettempdir()) / f"bioengine-{self.home_digest}"

    @property
    def plain_names(self) -> Path:
        """Begin of the paths of folders of links with plain names, to folders whose own Triton cannot take
        (`triton.plain_names`)."""
        return Path("/tmp") / f"bioengine-{self.home_digest}-names"

    @property
    def shm_prefix(self) -> str:
        """Prefix of Triton's shared memory segments of this home."""
        return f"bioengine-{self.home_digest}-"

    @property
    def triton_sockets(self) -> Path:
        """Folder of the embedded Triton's Unix sockets, `http` and `metrics`: a short path, which a socket's has to be."""
        return Path("/dev/shm") / f"{self.shm_prefix}triton"

    @property
    def tensor_folder(self) -> Path | None:
        """Where tensors are shared with Triton, if they are."""
        return Path("/dev/shm") / f"{self.shm_prefix}tensors" if self.triton == "embedded" else self.shared_tensors
