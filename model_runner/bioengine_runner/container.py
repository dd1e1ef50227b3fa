"""Triton as a container's main process: it is started after checks, and killed if it hangs and the server asks for it.

python -P -m bioengine_runner.container
"""

from __future__ import annotations

import sys

from bioengine_runner.checks import StartError, check_container
from bioengine_runner.launch import read_settings, start
from bioengine_runner.restart import end_on_request


def main() -> None:
    try:
        settings = read_settings()
        check_container(settings)
        if settings.triton_secret_file is not None:
            end_on_request(settings.triton_secret_file)
        start(settings)
    except StartError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
