"""What Triton is started with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bioengine_contract.ids import RUNNER
from bioengine_runner.launch import own_folders, own_links, prepare
from bioengine_runner.loading.records import INSTANCES, MODELS, Records
from bioengine_runner.settings import Settings
from pydantic import SecretStr

ROOT = Path(__file__).resolve().parents[3]


def test_models_may_read_the_links_only_in_a_folder_of_our_own(tmp_path: Path) -> None:
    """Landlock follows a link that somebody else has made in its place, and would open what it leads to."""
    own, link, opened = tmp_path / "own", tmp_path / "link", tmp_path / "open"
    own.mkdir(mode=0o700)
    link.symlink_to(own)
    opened.mkdir(mode=0o755)
    assert own_links(own) == (own,)
    assert own_links(link) == own_links(opened) == own_links(tmp_path / "none") == own_links(None) == ()
    if os.getuid() == 0:
        os.chown(own, 4321, 4321)
        assert own_links(own) == ()


def settings_of(folder: Path, **more: Any) -> Settings:
    return Settings(
        tritonserver=folder / "tritonserver",
        backends=folder,
        store=folder / "store",
        run_dir=folder / "run",
        triton_secret=SecretStr("x" * 32),
        shm_prefix="x",
        **more,
    )


def test_an_own_model_may_use_the_environment_that_lies_beside_its_config(tmp_path: Path) -> None:
    models, environment = tmp_path / "models", tmp_path / "environments" / "labels-1"
    environment.mkdir(parents=True)
    (tmp_path / "environments" / "labels").symlink_to("labels-1")
    for name in ("linked", "plain", "dangling", "without-config"):
        (models / name).mkdir(parents=True)
        (models / name / "config.pbtxt").touch()
    (models / "linked" / "environment").symlink_to(tmp_path / "environments" / "labels")
    (models / "dangling" / "environment").symlink_to(tmp_path / "nowhere")
    (models / "without-config" / "environment").symlink_to(tmp_path)
    (models / "without-config" / "config.pbtxt").unlink()
    boot = prepare(settings_of(tmp_path, triton_models=models))
    assert set(own_folders(boot)) == {models / "linked", environment, models / "plain", models / "dangling"}


def test_what_the_processes_share_is_there_before_triton(tmp_path: Path) -> None:
    boot = prepare(settings_of(tmp_path))
    assert (boot.runner_repository / RUNNER / "config.pbtxt").is_file()
    assert Records(boot, MODELS).all() == Records(boot, INSTANCES).all() == {}
    assert Records(boot, INSTANCES).begin("one").is_usable
