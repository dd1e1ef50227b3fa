"""`token create`, `list`, `revoke`: manage access. They work on the home, whether the server runs or not."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Annotated, Optional

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.table import Table

from bioengine_server.access.registry import Token, TokenRegistry
from bioengine_server.commands.shared import HomeOption, console, keep_files_private, load_home_settings, told

app = typer.Typer(help="Tokens, with which others may use this server.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="The name of its user, such as ada or napari-room-2.")]


def _size(text: str) -> int:
    try:
        size: int = TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        size = 0
    if size < 1:
        raise typer.BadParameter(f"{text!r} is not a size. Expected a number of bytes, such as 2GB, 500MB or 1048576.")
    return size


@app.command()
def create(
    name: NameArgument,
    days: Annotated[float, typer.Option(min=0.0001, max=3650, help="How long it is valid.")] = 365.0,
    requests: Annotated[
        Optional[int], typer.Option(min=1, help="How many requests may be in progress at once. [BIOENGINE_TOKEN_REQUESTS]")
    ] = None,
    max_size: Annotated[
        Optional[int],
        typer.Option(
            parser=_size,
            metavar="SIZE",
            help="Largest size of a request's inputs, such as 2GB. [BIOENGINE_TOKEN_MAX_REQUEST_SIZE]",
        ),
    ] = None,
    worker: Annotated[
        bool, typer.Option("--worker", help="A token for `./bioengine worker`: workers join with it. Clients cannot use it.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Create a token and print it. It is shown only once; nothing else is written to stdout."""
    from bioengine_server.hypha.secrets import JWT_SECRET, home_secret
    from bioengine_server.hypha.tokens import sign, use_secret

    settings = load_home_settings(home=home)
    keep_files_private()
    with told():
        use_secret(home_secret(settings.home, JWT_SECRET))
        token = TokenRegistry(settings.home).create(name, days, requests, max_size, worker)
        print(sign(token))
    print(f"The token '{name}' is valid until {_minute(token.expires)}. It is not shown again.", file=sys.stderr)


@app.command("list")
def list_tokens(home: HomeOption = None) -> None:
    """List all tokens."""
    settings = load_home_settings(home=home)
    with told():
        tokens = TokenRegistry(settings.home).all()
    if not tokens:
        console.print("There are no tokens. `./bioengine token create NAME` creates one.")
        return
    table = Table("name", "for", "created", "expires", "state", "requests at once", "largest input", box=None)
    for token in tokens:
        size = token.max_size or settings.token_max_request_size or settings.max_request_size
        table.add_row(
            token.name,
            _purpose(token),
            _minute(token.created),
            _minute(token.expires),
            token.state,
            str(token.requests or settings.token_requests or "no limit"),
            ByteSize(size).human_readable(decimal=True),
        )
    console.print(table)


@app.command()
def revoke(name: NameArgument, home: HomeOption = None) -> None:
    """Revoke a token at once, also for clients that are connected with it."""
    with told():
        TokenRegistry(load_home_settings(home=home).home).revoke(name)
    console.print(f"Revoked {name}. A running server no longer accepts it, and closes its connections.", markup=False)


def _purpose(token: Token) -> str:
    if token.worker:
        return "workers"
    return "nothing any more (registration)" if token.registration else "clients"


def _minute(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC"
