"""What Triton is started with."""

from __future__ import annotations

import os
from pathlib import Path

from bioengine_runner.launch import own_links


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
