from collections.abc import Callable
from typing import Any

create_queue_service: Callable[[Any], dict[str, Any]]
