"""Triton's own protocol through the server's `/triton`, against asking Triton itself."""

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
        # Triton itself loads nothing.
        user.echo(side=16)
        cases = {"direct": partial(direct.echo, _SIDE), "proxied": partial(proxied.echo, _SIDE)}
        values = interleaved(cases, rounds, _WARM_UP)
    reference = Measurement("Triton 16 MB, asked directly", "ms", values["direct"])
    return [
        reference,
        Measurement("Triton 16 MB, through /triton", "ms", values["proxied"], reference, ratio_limit=_RATIO_LIMIT),
    ]
