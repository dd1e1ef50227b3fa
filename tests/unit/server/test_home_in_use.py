"""Which server a command uses that is told none."""

from __future__ import annotations

from pathlib import Path

from bioengine_server.home_in_use import announced, usual_url
from bioengine_server.network.ports import free_ports
from bioengine_server.settings import Settings

from tests.unit.server.test_demo import bioengine_that_is


def at(url: str, home: Path) -> Settings:
    return Settings(home=home, port=int(url.rpartition(":")[2]))


def test_the_settings_decide_where_a_server_answers_there(tmp_path: Path) -> None:
    names: list[str] = []
    with bioengine_that_is(200, ["another"]) as other, bioengine_that_is(200, names) as own:
        with announced(at(own, tmp_path)) as name:
            names.append(name)
            assert usual_url(at(other, tmp_path)) == other
            assert usual_url(at(own, tmp_path)) == own


def test_else_the_home_does(tmp_path: Path) -> None:
    (unused,) = free_ports(1)
    settings, names = Settings(home=tmp_path, port=unused), list[str]()
    assert usual_url(settings) == settings.url
    with bioengine_that_is(200, names) as own, announced(at(own, tmp_path)) as name:
        assert usual_url(settings) == settings.url, "what answers at the home's address is somebody else's"
        names.append(name)
        assert usual_url(settings) == own
