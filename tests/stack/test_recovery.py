"""How fast a server without work recovers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from bioengine_contract.version import VERSION

from tests.stack.harness import Stack, example_input, get, wait_for


def test_health_routes_and_recovery_of_triton(own_home: Path, packages: Path) -> None:
    with Stack(own_home, wait=False) as stack:
        wait_for(lambda: get(f"{stack.url}/health/liveness") == (200, {"status": "OK", "version": VERSION}), 20, "alive")
        if not stack.is_ready():
            status, answer = get(f"{stack.url}/health/readiness")
            assert status == 503 and answer["reason"]
        stack.wait_until_ready()
        triton = stack.triton()
        triton.kill()
        wait_for(lambda: get(f"{stack.url}/health/readiness")[0] == 503, 10, "not ready")
        assert get(f"{stack.url}/health/readiness")[1]["reason"]
        assert get(f"{stack.url}/health/liveness")[0] == 200
        seconds = stack.wait_until_ready(10)
        print(f"Triton was killed; ready again {seconds:.1f} s after readiness had told of it")
        assert stack.triton().pid != triton.pid
        with stack.client() as client:
            result = client.run("old-otter", example_input(packages, "old-otter"))
            np.testing.assert_allclose(result["outputs"][0], np.load(packages / "old-otter" / "test_output.npy"), atol=1e-3)
