"""Ask for a new Triton in another container: a file beside the secret that both share. The runner's side is
`bioengine_runner.restart`."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path

logger = logging.getLogger(__name__)

RESTART_FILE = "restart"


def ask_for_restart(secret_file: Path) -> None:
    """Have Triton's container end its stuck Triton; Docker starts the container again."""
    logger.error("Triton is stuck, asking its container to start again")
    try:
        secret_file.with_name(RESTART_FILE).write_text(uuid.uuid4().hex)
    except OSError as error:
        logger.error("That could not be asked for: %s. Restart Triton's container.", error)
