"""`python -m bioengine_server`: the command line."""

import sys

from bioengine_contract.lean_import import lean_import

try:
    with lean_import():
        from bioengine_server.cli import app
except KeyboardInterrupt:  # Ctrl-C during the imports
    sys.exit(130)

app(prog_name="bioengine")
