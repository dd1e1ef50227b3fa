"""A GPU that was asked for and is not there. What happens on one that is there has not been tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.stack.harness import ENVIRONMENTS, PROGRAM, Stack, get, wait_for

pytestmark = pytest.mark.extended


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")
def test_a_server_that_should_use_a_gpu_and_has_none_says_so(tmp_path: Path) -> None:
    """It starts, is not ready, and tells the admin why; no model computes on the CPU instead."""
    # Not through the executable, which would build the environments anew, for a GPU.
    settings: Any = {"BIOENGINE_ENVIRONMENTS": str(ENVIRONMENTS), "BIOENGINE_ACCELERATOR": "cuda"}
    with Stack(tmp_path / "home", program=PROGRAM, wait=False, **settings) as stack:
        wait_for(lambda: "BIOENGINE_ACCELERATOR=cuda" in str(get(f"{stack.url}/health/readiness")), 60, "the reason")
        status, answer = get(f"{stack.url}/health/readiness")
        assert status == 503
        for text in (
            "was not loaded: its onnx weights would compute on the device cpu",
            "nvidia-smi",
            "BIOENGINE_ACCELERATOR=cpu",
        ):
            assert text in answer["reason"] and text in stack.log
