"""What an environment is known by: the digest of what builds it, and the packages that its lock names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from tests.unit.server.test_environments import deploy

__all__ = ["deploy"]


def test_a_digest_is_of_what_is_done_and_not_of_the_words_about_it(deploy: SimpleNamespace) -> None:
    done = deploy.recipes.what_is_done
    source = Path(deploy.recipes.__file__).read_text()
    assert done(source) == done(source.replace('"""How', '"""So: how').replace("# From wheels", "# So: from wheels"))
    assert done(source) != done(source.replace("--require-hashes", "--no-hashes"))


def test_a_lock_names_what_is_installed(deploy: SimpleNamespace, tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    lock.write_text(
        "# a comment\nNum_Py==2.1 ; python_full_version < '3.12' \\\n    --hash=sha256:1\n"
        "num-py==2.2 ; python_full_version >= '3.12'\n"
        "torch==2.13.0\nolder==1.0 ; python_full_version < '3.11.3'\n"
    )
    packages = tmp_path / "env" / "lib" / "python3.11" / "site-packages"

    def has(*names: str) -> bool:
        for name in names:
            (packages / f"{name}.dist-info").mkdir(parents=True)
        return bool(deploy.layout.has_what_is_named(tmp_path / "env", (lock,)))

    assert not has("torch-2.13.0+cpu")
    assert has("num_py-2.2")
    (packages / "torch-2.13.0+cpu.dist-info").rename(packages / "torch-2.14.0+cpu.dist-info")
    assert not has()
