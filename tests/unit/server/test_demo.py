"""The demo: what it draws, what it shows of it, and whose server it uses."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bioengine_server.demo import session, show
from bioengine_server.demo.nuclei import dice, draw
from bioengine_server.demo.session import running_server
from bioengine_server.demo.show import PICTURES, displayed, outline, segment_drawing
from bioengine_server.home_in_use import HEADER, announced
from bioengine_server.images.client import Answer
from bioengine_server.images.errors import NotABioEngine
from bioengine_server.images.files import read_image
from bioengine_server.network.ports import free_ports
from bioengine_server.output_file import OutputExists
from bioengine_server.settings import Settings


def test_the_same_seed_draws_the_same_image_and_another_another() -> None:
    one, again, other = draw(3, 128), draw(3, 128), draw(4, 128)
    np.testing.assert_array_equal(one.image, again.image)
    np.testing.assert_array_equal(one.labels, again.labels)
    assert (one.image != other.image).mean() > 0.9


def test_nuclei_are_numbered_brighter_than_around_them_and_of_a_nucleus_size() -> None:
    drawn = draw(0)
    assert drawn.image.shape == drawn.labels.shape == (256, 256)
    assert drawn.image.dtype == np.uint16 and drawn.labels.dtype == np.int32
    sizes = np.bincount(drawn.labels.ravel())[1:]
    sizes = sizes[sizes > 0]
    assert len(sizes) > 15 and 100 < np.median(sizes) < 800, "pixels: of 7 to 15 in radius"
    assert drawn.image[drawn.labels > 0].mean() > drawn.image[drawn.labels == 0].mean() + 20


def test_dice_is_of_what_both_have() -> None:
    left, whole, nothing = np.eye(4, dtype=bool), np.ones((4, 4), bool), np.zeros((4, 4), bool)
    assert dice(left, left) == 1 and dice(left, nothing) == 0 and dice(left, whole) == 2 * 4 / 20
    assert dice(nothing, nothing) == 1


def test_an_outline_is_the_mask_without_its_inside() -> None:
    mask = np.zeros((6, 7), bool)
    mask[1:5, 0:4] = True
    inside = np.zeros_like(mask)
    inside[2:4, 1:3] = True
    np.testing.assert_array_equal(outline(mask), mask & ~inside)


def test_an_image_is_shown_from_black_to_white_whatever_its_counts() -> None:
    shown = displayed(np.linspace(100, 4000, 10_000).reshape(100, 100))
    assert shown.dtype == np.uint8 and shown.min() == 0 and shown.max() == 255
    assert (displayed(np.full((4, 4), 7)) == 0).all(), "and where all pixels are the same"


class TruthfulModel:
    """In place of a client and its server: gives the nuclei that were drawn, but for the left half."""

    def __init__(self, url: str, timeout: float) -> None:
        pass

    def __enter__(self) -> TruthfulModel:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, id: str, inputs: list[np.ndarray]) -> Answer:
        assert id == "drawn-nuclei" and inputs[0].shape == (1, 1, 256, 256)
        probability = (draw(7).labels > 0).astype(np.float32)
        probability[:, :128] = 0
        return Answer([probability[None, None]], 0.0, [])


def test_the_pictures_show_what_the_model_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "ModelClient", TruthfulModel)
    score = segment_drawing("http://nowhere", tmp_path)
    assert 0.3 < score < 0.9, "half of the nuclei"
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(PICTURES)
    gray, mask, overlay = (read_image(tmp_path / name) for name in PICTURES)
    assert gray.data.shape == mask.data.shape == (256, 256) and overlay.axes == "yxc"
    edge = outline(mask.data > 0)
    assert edge.any() and not edge[:, :128].any()
    assert (overlay.data[edge] == (255, 196, 0)).all()
    np.testing.assert_array_equal(overlay.data[~edge], np.repeat(gray.data[~edge][:, None], 3, 1))
    with pytest.raises(OutputExists):
        segment_drawing("http://nowhere", tmp_path)
    assert segment_drawing("http://nowhere", tmp_path, overwrite=True) == score


@contextmanager
def bioengine_that_is(status: int, names: Sequence[str] = (), **about: Any) -> Iterator[str]:
    """The URL of a server whose readiness route answers so. `names`: its name, once it has one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ready = self.path == "/health/readiness"
            self.send_response(status if ready else 200)
            for name in names:
                self.send_header(HEADER, name)
            self.end_headers()
            self.wfile.write(json.dumps(about if ready else {}).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.02]).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_a_server_that_is_named_must_be_ready() -> None:
    with bioengine_that_is(200) as url, running_server(Settings(), f"{url}/") as used:
        assert used == url
    with bioengine_that_is(503, reason="Triton is starting") as url:
        with pytest.raises(NotABioEngine, match=r"it is not ready \(Triton is starting\)"), running_server(Settings(), url):
            pass


def test_the_usual_server_is_used_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "own_server", None)  # nothing is started
    with bioengine_that_is(200) as url, running_server(Settings(port=int(url.rpartition(":")[2]))) as used:
        assert used == url


def test_the_server_of_the_home_is_used_whatever_its_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "own_server", None)  # nothing is started
    (unused,) = free_ports(1)
    names: list[str] = []
    with bioengine_that_is(200, names) as url, announced(Settings(home=tmp_path, port=int(url.rpartition(":")[2]))) as name:
        names.append(name)
        with running_server(Settings(home=tmp_path, port=unused)) as used:
            assert used == url


def test_a_server_of_its_own_is_open_to_this_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Settings] = []

    @contextmanager
    def own_server(settings: Settings) -> Iterator[None]:
        started.append(settings)
        yield

    monkeypatch.setattr(session, "own_server", own_server)
    (port,) = free_ports(1)
    with running_server(Settings(host="0.0.0.0", port=port, access="token")) as url:
        (settings,) = started
        assert url == settings.url == f"http://127.0.0.1:{settings.port}" and settings.port != port
        assert (settings.host, settings.access) == ("127.0.0.1", "auto")
