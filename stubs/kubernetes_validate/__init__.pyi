from typing import Any

from kubernetes_validate import utils as utils

class ValidationError(Exception): ...

def validate(data: dict[str, Any], desired_version: str, strict: bool = ...) -> str: ...
