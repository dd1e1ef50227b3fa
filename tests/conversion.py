"""What tests of the conversion share: settings with an environment for it."""

from __future__ import annotations

from pathlib import Path

from bioengine_server.settings import Settings

from tests.stack.harness import ENVIRONMENTS


def converting_settings(folder: Path) -> Settings:
    """Settings with a home in `folder`.

    In place of the environment for conversions, there is the model runner's for tests. It has onnx, too, which is all that
    networks without libraries of their own need.
    """
    environments = folder / "environments"
    environments.mkdir()
    for name in ("runner", "convert"):
        (environments / name).symlink_to((ENVIRONMENTS / "runner").resolve())
    return Settings(home=folder / "home", environments=environments)
