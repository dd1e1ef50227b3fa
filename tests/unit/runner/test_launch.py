"""What Triton is started with."""

from __future__ import annotations

import os
from pathlib import Path

from bioengine_contract.ids import RUNNER
from bioengine_runner.launch import own_links, prepare
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


def test_what_the_processes_share_is_there_before_triton(tmp_path: Path) -> None:
    settings = Settings(
        tritonserver=tmp_path / "tritonserver",
        backends=tmp_path,
        store=tmp_path / "store",
        run_dir=tmp_path / "run",
        triton_secret=SecretStr("x" * 32),
        shm_prefix="x",
    )
    boot = prepare(settings)
    assert (boot.runner_repository / RUNNER / "config.pbtxt").is_file()
    assert Records(boot, MODELS).all() == Records(boot, INSTANCES).all() == {}
    assert Records(boot, INSTANCES).begin("one").is_usable
