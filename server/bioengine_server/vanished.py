"""Do not log errors about clients that have disappeared: messages to them cannot be sent, and nobody waits for the result."""

from __future__ import annotations

import logging

# The messages of hypha-rpc 0.21 and imjoy-rpc 0.5 for calls whose result nobody awaits, such as those of `progress`.
_WORDS = ("Failed to send the request when calling method", "Connection lost", "Connection closed", "connection is closed")


def is_of_vanished_client(error: BaseException | None) -> bool:
    return isinstance(error, ConnectionError) or (error is not None and any(word in str(error) for word in _WORDS))


class VanishedClients(logging.Filter):
    """Drops asyncio's log records about the exceptions of such calls."""

    def filter(self, record: logging.LogRecord) -> bool:
        is_thrown_away = record.name == "asyncio" and "never retrieved" in record.getMessage()
        return not (is_thrown_away and record.exc_info and is_of_vanished_client(record.exc_info[1]))
