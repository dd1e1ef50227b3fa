"""What tests of the conversion share: settings with environments for it, and packages of TensorFlow."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from bioengine_server.settings import Settings
from bioengine_server.store.model_store import ModelStore

from tests.mirror import Mirror
from tests.stack.harness import ENVIRONMENTS, ROOT, RUNNER, Stack, python

needs_tensorflow = pytest.mark.skipif(
    not (ENVIRONMENTS / "tensorflow").exists(),
    reason="TensorFlow has 1.2 GB, and is not there: ./bioengine environments add tensorflow",
)


def converting_settings(folder: Path) -> Settings:
    """Settings with a home in `folder`.

    In place of the environment for PyTorch models, there is the model runner's for tests. It has onnx, too, which is all that
    networks without libraries of their own need.
    """
    environments = folder / "environments"
    environments.mkdir()
    for name, found in (("runner", "runner"), ("convert", "runner"), ("tensorflow", "tensorflow")):
        if (ENVIRONMENTS / found).exists():
            (environments / name).symlink_to((ENVIRONMENTS / found).resolve())
    return Settings(home=folder / "home", environments=environments)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return converting_settings(tmp_path)


@pytest.fixture
def store(settings: Settings) -> ModelStore:
    return ModelStore(settings.store)


def build_tensorflow_packages(folder: Path) -> Path:
    """Write all packages of `tests.packages.tensorflow_models` to a folder, one folder for each id."""
    run_with_tensorflow("-m", "tests.packages.tensorflow_models", str(folder))
    return folder


def run_with_tensorflow(*arguments: str) -> None:
    variables = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([python("tensorflow"), *arguments], cwd=ROOT, env=variables, check=True)


def check_first_request(packages: Path, id: str, home: Path) -> None:
    """A client's first request downloads a model from a collection of these packages, and converts it."""
    told = list[str]()
    with Mirror(packages) as mirror, Stack(home, **{**mirror.environment, "BIOENGINE_OFFLINE": "0"}) as stack:
        image = np.load(packages / id / "test_input.npy")
        with stack.client() as client:
            answer = client.triton.execute(
                inputs=[{"model_id": id, "inputs": [image]}],
                model_name=RUNNER,
                serialization="imjoy",
                progress=lambda event: told.append(event["state"]),
            )
        result = answer["result"]
    assert result["success"], result
    np.testing.assert_allclose(result["outputs"][0], np.load(packages / id / "test_output.npy"), atol=1e-5)
    assert "converting" in told and told.index("converting") < told.index("running")
