"""Instances of the model runner that were replaced: Triton 2.51 leaves those running that were alive when another one had died.

Without this, each repair would leave up to two processes behind until Triton itself ends.
"""

from __future__ import annotations

import logging
import threading
import time

from bioengine_contract.processes import Process

from bioengine_runner.loading.records import Record

logger = logging.getLogger(__name__)

# A replaced instance may still be working on a request that it had received before.
GRACE = 10.0  # seconds


def end_replaced(record: Record, grace: float = GRACE) -> threading.Thread:
    """End the earlier processes of an instance, in a thread of its own.

    Args:
        record: of this process.
        grace: seconds that they have left.
    """

    def end() -> None:
        time.sleep(grace)
        for pid, started in record.before:
            process = Process(pid, started)
            if process.is_alive():
                logger.info("Ending process %d of a replaced instance of the model runner", pid)
                process.end(timeout=0)

    thread = threading.Thread(target=end, name="end-replaced", daemon=True)
    thread.start()
    return thread
