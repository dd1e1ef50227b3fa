"""What the server and the Triton that it is given agree on, beside tensors: how the server opens Triton's closed APIs."""

from __future__ import annotations

SECRET_HEADER = "bioengine-secret"
"""The HTTP header that opens the closed APIs."""

RESTART_FILE = "restart"
"""Beside the file of the secret that both share: it changes when the server asks for another Triton."""

MIN_SECRET = 32
"""Characters of the secret, at least."""
