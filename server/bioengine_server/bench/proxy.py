"""Triton's own protocol: through the server's `/triton`, compared with requests to Triton itself."""

from __future__ import annotations

from functools import partial

from bioengine_server.bench.measurement import Measurement, interleaved
from bioengine_server.bench.stack import LIBRARIES, BenchStack

_WARM_UP = 2
_SIDE = 2048  # pixels: 16 MB
_RATIO_LIMIT = 1.3


def proxy(stack: BenchStack, rounds: int) -> list[Measurement]:
    settings = stack.settings
    with (
        stack.user(LIBRARIES[-1]) as user,
        stack.triton_user(stack.triton_address) as direct,
        stack.triton_user(f"127.0.0.1:{settings.port}/triton") as proxied,
    ):
        # Triton itself does not load models on demand.
        user.echo(side=16)
        cases = {
            name: stack.watched(partial(client.echo, _SIDE), client)
            for name, client in {"direct": direct, "proxied": proxied}.items()
        }
        values = interleaved(cases, rounds, _WARM_UP)
    cpu = {name: case.cpu(rounds) for name, case in cases.items()}
    asked = Measurement("Triton 16 MB, asked directly", "ms", values["direct"], cpu=cpu["direct"])
    through = Measurement(
        "Triton 16 MB, through /triton", "ms", values["proxied"], asked, ratio_limit=_RATIO_LIMIT, cpu=cpu["proxied"]
    )
    return [asked, through]
