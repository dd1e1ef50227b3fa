"""`python -m bioengine_server`: the command line."""

import sys

try:
    from bioengine_server.cli import app
except KeyboardInterrupt:  # Ctrl-C during the imports
    sys.exit(130)

app(prog_name="bioengine")
