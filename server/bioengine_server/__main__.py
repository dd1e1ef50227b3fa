"""`python -m bioengine_server`: the command line."""

from bioengine_server.cli import app

app(prog_name="bioengine")
