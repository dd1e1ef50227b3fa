"""How the server authenticates itself to Triton's closed APIs, such as loading models, and asks for a restart of Triton."""

from __future__ import annotations

SECRET_HEADER = "bioengine-secret"
"""The HTTP header with the secret for the closed APIs."""

RESTART_FILE = "restart"
"""A file beside that of the shared secret; the server changes it to ask for a restart of Triton."""

MIN_SECRET = 32
"""The secret has at least this many characters."""
