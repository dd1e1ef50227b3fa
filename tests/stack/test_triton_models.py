"""The admin's own models of Triton, beside those of the store."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.stack.harness import Stack, example_input, get

pytestmark = pytest.mark.extended


def test_broken_ones_leave_the_others_alone(own_home: Path, packages: Path) -> None:
    folder = own_home / "triton-models"
    (folder / "without-config" / "1").mkdir(parents=True)
    for name in ("no name!", "bioengine-model-runner", "old-otter", "broken"):
        shutil.copytree(folder / "counter", folder / name)
    config = (folder / "counter" / "config.pbtxt").read_text()
    (folder / "broken" / "config.pbtxt").write_text(config.replace('"counter"', '"broken"'))
    (folder / "broken" / "1" / "model.py").write_text("raise RuntimeError('this one is broken')\n")
    with Stack(own_home) as stack, stack.client() as client:
        answer = client.triton.execute(
            inputs=[np.array([[5]], np.float32)], model_name="counter", sequence_id=1, sequence_start=True, sequence_end=True
        )
        assert answer["sum"].item() == 5
        assert client.run("conscientious-seashell", example_input(packages, "conscientious-seashell"))["success"]
        with pytest.raises(Exception, match="has no model 'broken'"):
            client.triton.execute(inputs=[np.array([[5]], np.float32)], model_name="broken")
        assert get(f"{stack.url}/health/readiness")[0] == 200
        log = (stack.settings.node_folder / "triton.log").read_text()
        for line in (
            "without-config. It has no config.pbtxt",
            "no name!. Use letters",
            "old-otter. The store has",
            "this one is broken",
        ):
            assert line in log, log
