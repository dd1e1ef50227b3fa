"""Plans for images of any size, without a model: every pixel comes once, and from far enough within its tile."""

from __future__ import annotations

import ast
import math
import re
import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from bioengine_contract.following import Follows
from bioengine_runner.errors import CannotTile, TileNotPossible, TooManyTiles
from bioengine_runner.tiling.geometry import Geometry, InputAxis, OutputAxis
from bioengine_runner.tiling.groups import Group, groups_of
from bioengine_runner.tiling.memory import HostMemory, available, watched
from bioengine_runner.tiling.plan import MAX_PASSES, Planner
from bioengine_runner.tiling.spans import count_spans, smallest_block, spans
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(0, 20), st.integers(1, 8), st.integers(0, 30), st.integers(0, 40))
def test_spans_cover_everything_once(halo: int, align: int, more: int, blocks: int) -> None:
    block = smallest_block(halo, align) + more
    size = block + blocks * align
    cut = spans(size, block, halo, align)
    kept = [pixel for span in cut for pixel in range(span.keep_start, span.keep_stop)]
    assert kept == list(range(size))
    for span in cut:
        assert span.stop - span.start == block and 0 <= span.start and span.stop <= size
        assert span.start % align == 0 and span.keep_start % align == 0
        assert span.start == 0 or span.keep_start - span.start >= halo
        assert span.stop == size or span.stop - span.keep_stop >= halo


@given(st.integers(0, 20), st.integers(1, 8), st.sampled_from([2, 4, 16, 32]), st.integers(0, 40), st.integers(0, 40))
def test_spans_begin_on_a_grid(halo: int, align: int, grid: int, more: int, blocks: int) -> None:
    """Where they begin; what is kept of them is as fine as without."""
    step = math.lcm(align, grid)
    block = 2 * halo + align + step + more
    cut = spans(block + blocks * step, block, halo, align, grid)
    assert [pixel for span in cut for pixel in range(span.keep_start, span.keep_stop)] == list(range(block + blocks * step))
    assert all(span.start % step == 0 and span.stop - span.start == block for span in cut)
    assert all(span.start == 0 or halo <= span.keep_start - span.start < halo + align for span in cut)
    assert count_spans(block + blocks * step, block, halo, align, grid) == len(cut)


def model(least: int, step: int, halo: int, scale: Fraction = Fraction(1), offset: int = 0) -> Geometry:
    """One image in and one out, both with batch, channel, y and x."""
    fixed = (InputAxis("batch", "batch", 1, 1), InputAxis("channel", "channel", 1, 0))
    image = tuple(InputAxis(name, "space", least, step) for name in "yx")
    out = tuple(OutputAxis(name, "space", Follows("in", name, scale, offset), halo) for name in "yx")
    return Geometry(
        {"in": (*fixed, *image)},
        {"out": (OutputAxis("batch", "batch", None, 0), OutputAxis("channel", "channel", None, 0), *out)},
    )


def put_together(geometry: Geometry, image: np.ndarray, most: float, tile: dict[str, int] | None) -> tuple[np.ndarray, int]:
    """What comes out where the model repeats, or leaves out, pixels, by its scale, and loses its offset at the borders."""
    follows = geometry.outputs["out"][2].follows
    assert follows is not None
    plan = Planner("x", geometry).plan({"in": {"batch": 1, "channel": 1, "y": image.shape[0], "x": image.shape[1]}}, most, tile)
    sizes = plan.output_sizes()
    whole = np.full([sizes["out", name] for name in "yx"], np.nan)
    for piece in plan.tiles():
        ins, outs = plan.inputs(piece), plan.outputs(piece)
        parts = [ins["in", name] for name in "yx"]
        cut = image[tuple(slice(part.start, part.stop) for part in parts)]
        cut = np.pad(cut, [(0, part.stop - part.start - size) for part, size in zip(parts, cut.shape)], mode="edge")
        made = scaled(cut, follows)
        place = tuple(outs["out", name].place for name in "yx")
        assert np.isnan(whole[place]).all(), "no pixel comes twice"
        whole[place] = made[tuple(outs["out", name].keep for name in "yx")]
    return whole, len(plan)


def scaled(image: np.ndarray, follows: Follows) -> np.ndarray:
    made = image.repeat(follows.scale.numerator, 0).repeat(follows.scale.numerator, 1)
    made = made[:: follows.scale.denominator, :: follows.scale.denominator]
    lost = -follows.offset // 2
    return made[lost : len(made) - lost, lost : made.shape[1] - lost]


@given(
    size=st.tuples(st.integers(1, 100), st.integers(1, 100)),  # no more tiles than a request may have
    least=st.integers(1, 40),
    step=st.integers(1, 8),
    halo=st.integers(0, 8),
    scale=st.sampled_from([Fraction(1), Fraction(2), Fraction(1, 2)]),
    most=st.sampled_from([1.0, 500.0, 3000.0, float("inf")]),
)
def test_tiles_make_the_whole(size: tuple[int, int], least: int, step: int, halo: int, scale: Fraction, most: float) -> None:
    image = np.random.default_rng(0).random(size)
    whole, _ = put_together(model(least, step, halo, scale), image, most, None)
    y, x = ((np.arange(length) / float(scale)).astype(int) for length in whole.shape)
    assert whole.shape == tuple(int(length * scale) for length in size)
    np.testing.assert_array_equal(whole, image[np.ix_(y, x)])


@given(size=st.integers(30, 120), offset=st.sampled_from([-2, -4, -10]), tile=st.integers(24, 60))
def test_tiles_of_a_model_that_makes_images_smaller(size: int, offset: int, tile: int) -> None:
    image = np.random.default_rng(0).random((size, size))
    whole, _ = put_together(model(16, 1, 2, offset=offset), image, float("inf"), {"y": tile, "x": tile})
    np.testing.assert_array_equal(whole, scaled(image, Follows("in", "y", offset=offset)))


@given(size=st.tuples(st.integers(1, 200), st.integers(1, 200)), fixed=st.integers(8, 64), halo=st.integers(0, 3))
def test_a_model_of_one_size_takes_images_of_any(size: tuple[int, int], fixed: int, halo: int) -> None:
    image = np.random.default_rng(0).random(size)
    whole, tiles = put_together(model(fixed, 0, halo), image, float("inf"), None)
    np.testing.assert_array_equal(whole, image)
    assert (tiles == 1) == (max(size) <= fixed)


def group(size: int, step: int = 0, halo: int = 0, measured: int | None = None, scale: Fraction = Fraction(1)) -> Group:
    """The axis y of a model for images of `size` pixels, for an image of 1000."""
    geometry = model(size, step, halo, scale)
    axes = tuple(replace(axis, measured_halo=measured) if axis.type == "space" else axis for axis in geometry.inputs["in"])
    return groups_of(replace(geometry, inputs={"in": axes}), sizes_of(1, 1000, 999))[0]


@pytest.mark.parametrize(
    ("size", "halo"), [(1024, 32), (256, 32), (128, 32), (100, 25), (64, 16), (20, 5), (16, 4), (4, 1), (3, 0)]
)
def test_without_a_declaration_tiles_overlap_by_a_quarter_up_to_32(size: int, halo: int) -> None:
    assert group(size).halo_for(size) == halo
    assert group(16, step=1).halo_for(size) == halo, "of a free size as well"
    cut = group(size).cut(size).spans
    assert all(span.keep_start - span.start >= halo and span.stop - span.keep_stop >= halo for span in cut[1:-1])


@pytest.mark.parametrize(("step", "block", "halo"), [(64, 256, 32), (128, 256, 0), (128, 384, 32), (48, 144, 32), (64, 128, 0)])
def test_tiles_of_models_with_large_steps_overlap_too(step: int, block: int, halo: int) -> None:
    """The steps are larger than the halo: all tiles overlap that are large enough for it."""
    cut = group(step, step=step).cut(block)
    assert group(step, step=step).halo_for(block) == halo and len(cut.spans) > 2
    assert all(before.keep_stop <= before.stop - halo for before in cut.spans[:-1])
    assert all(after.keep_start >= after.start + halo and after.start % step == 0 for after in cut.spans[1:])


def test_which_halo_counts() -> None:
    """The declared one, then the measured one, which may be 0."""
    assert group(256, halo=8, measured=50).halo_for(256) == 8
    assert group(256, measured=50).halo_for(256) == 50 and group(256, measured=0).halo_for(256) == 0
    assert len(group(256, measured=0).cut(256).spans) == 4 and len(group(256, measured=50).cut(256).spans) == 7
    assert group(256, halo=8, scale=Fraction(1, 2)).halo_for(256) == 16


@pytest.mark.parametrize(("size", "grid"), [(256, 32), (96, 32), (100, 4), (64, 32), (32, 16), (20, 4), (15, 1), (250, 2)])
def test_tiles_of_one_size_begin_at_multiples_of_what_networks_halve_by(size: int, grid: int) -> None:
    cut = group(size).cut(size)
    assert all(span.start % grid == 0 for span in cut.spans) and group(size).grid_for(size) == grid
    assert cut.size == 1000 <= cut.spans[-1].stop < 1000 + grid
    assert group(16, step=3).grid_for(40) == 3, "the steps of a free size say it themselves"


def test_outputs_that_can_be_put_together() -> None:
    geometry = model(32, 0, 0)
    score: dict[str, tuple[OutputAxis, ...]] = {"score": (OutputAxis("batch", "batch", None, 0),)}
    both = Planner("x", replace(geometry, outputs={**geometry.outputs, **score}))
    assert both.images(sizes_of(1, 40, 32)) == [*geometry.outputs]
    with pytest.raises(CannotTile, match=r"ask for them with `outputs`: \[\"out\"\]\."):
        both.plan(sizes_of(1, 40, 32), float("inf"))
    assert Planner("x", replace(geometry, outputs=score)).images(sizes_of(1, 40, 32)) == []


def test_less_memory_makes_smaller_tiles() -> None:
    image = np.zeros((400, 300))
    counts = [put_together(model(16, 16, 8), image, most, None)[1] for most in (float("inf"), 40_000, 10_000, 1)]
    assert counts[0] == 1 and counts == sorted(counts) and len(set(counts)) == 4


@pytest.mark.parametrize(
    ("tile", "problem"),
    [({"y": 8}, "A tile of 8 along y is not possible for model 'x': it can be 40 or more"), ({"x": 31}, "along x")],
)
def test_tiles_that_leave_nothing_beside_the_halo(tile: dict[str, int], problem: str) -> None:
    with pytest.raises(TileNotPossible, match=problem):
        put_together(model(8, 8, 10), np.zeros((100, 100)), float("inf"), tile)


@given(size=st.tuples(st.integers(1, 110), st.integers(1, 110)), step=st.integers(1, 8), halo=st.integers(0, 12))
def test_the_smallest_tiles(size: tuple[int, int], step: int, halo: int) -> None:
    """They are several, and no smaller ones are possible; where there are none, the reason names the sizes."""
    geometry, image = model(16, step, halo), np.random.default_rng(0).random(size)
    sizes = {"in": {"batch": 1, "channel": 1, "y": size[0], "x": size[1]}}
    try:
        tile = Planner("x", geometry).smallest_tile(sizes)
    except CannotTile as error:
        assert f"x is {size[1]}, and the smallest of several tiles is" in error.reason
        assert max(size) <= geometry.inputs["in"][2].valid(smallest_block(halo, step))
        return
    whole, tiles = put_together(geometry, image, float("inf"), tile)
    np.testing.assert_array_equal(whole, image)
    assert tiles > 1
    for axis in tile:
        with pytest.raises(TileNotPossible):
            put_together(geometry, image, float("inf"), {**tile, axis: tile[axis] - 1})


def test_what_has_no_tiles() -> None:
    sizes = {"in": {"batch": 1, "channel": 1, "y": 32, "x": 32}}
    with pytest.raises(CannotTile, match="y is always 32; x is always 32"):
        Planner("x", model(32, 0, 0)).smallest_tile(sizes)
    classes = Geometry(model(16, 1, 0).inputs, {"class": (OutputAxis("channel", "channel", None, 0),)})
    with pytest.raises(CannotTile, match="not all of its outputs are images"):
        Planner("x", classes).smallest_tile(sizes)


@pytest.mark.parametrize(("least", "step"), [(572, 0), (188, 16)])
@pytest.mark.parametrize("size", [1, 100, 184])
def test_images_of_which_a_model_leaves_nothing(least: int, step: int, size: int) -> None:
    """The pixels that are padded are no result."""
    planner = Planner("x", model(least, step, 0, offset=-184))
    with pytest.raises(CannotTile, match=f"x is {size}, and its output 'out' lacks 184 pixels along it"):
        planner.plan(sizes_of(1, 400, size), float("inf"))
    assert planner.plan(sizes_of(1, 400, 185), float("inf")).output_sizes()["out", "x"] == 1


def test_what_cannot_be_cut() -> None:
    """A model of one size that gives no image, such as a class, takes no larger one; nor one whose halo is all there is."""
    axes = model(32, 0, 0).inputs
    classes = Geometry(axes, {"class": (OutputAxis("batch", "batch", None, 0), OutputAxis("channel", "channel", None, 0))})
    sizes = {"in": {"batch": 1, "channel": 1, "y": 40, "x": 32}}
    with pytest.raises(CannotTile, match="y is 40, and the model takes 32 in one piece"):
        Planner("x", classes).plan(sizes, float("inf"))
    with pytest.raises(CannotTile, match="leaves nothing of a tile"):
        Planner("x", model(32, 0, 16)).plan(sizes, float("inf"))
    unknown = Geometry(axes, {"out": (OutputAxis("y", "space", None, 0),)})
    with pytest.raises(CannotTile, match="no size that could be cut back"):
        Planner("x", unknown).plan({"in": {**sizes["in"], "y": 20}}, float("inf"))


@given(st.integers(1, 40), st.integers(1, 9), st.booleans())
def test_batches_are_split(batch: int, takes: int, is_free: bool) -> None:
    geometry = model(8, 8, 0)
    first = InputAxis("batch", "batch", 1 if is_free else takes, int(is_free))
    geometry = Geometry({"in": (first, *geometry.inputs["in"][1:])}, geometry.outputs)
    plan = Planner("x", geometry).plan({"in": {"batch": batch, "channel": 1, "y": 8, "x": 8}}, takes * 64.0)
    assert plan.chunk == (min(takes, batch) if is_free else takes)
    last = slice((len(plan) - 1) * plan.chunk, len(plan) * plan.chunk)
    assert last.start < batch <= last.stop
    assert plan.missing(last) == (0 if is_free else last.stop - batch)


def test_memory_is_measured() -> None:
    assert 10_000_000 < available() < 1e14
    with watched(HostMemory()) as peak:
        kept = np.ones(50_000_000, np.uint8)
    assert kept.nbytes * 0.8 < peak.bytes < 400_000_000
    with watched(HostMemory()) as peak:
        np.ones(200_000_000, np.uint8)
    assert peak.bytes == 0 or 20_000_000 < peak.bytes < 600_000_000, "gone before the end"


def sizes_of(batch: int, y: int, x: int) -> dict[str, dict[str, int]]:
    return {"in": {"batch": batch, "channel": 1, "y": y, "x": x}}


@pytest.mark.parametrize("tile", [{"y": 1, "x": 1}, {"y": 16, "x": 16}, {"y": 2, "x": 4096}, {"y": 8}])
def test_no_more_tiles_than_the_limit_which_the_error_names(tile: dict[str, int]) -> None:
    """Counted, not made: the answer comes at once. Whatever size it recommends is taken."""
    planner, sizes = Planner("x", model(1, 1, 0)), sizes_of(1, 4096 * 16, 4096)
    started = time.monotonic()
    with pytest.raises(TooManyTiles) as refused:
        planner.plan(sizes, float("inf"), tile)
    assert time.monotonic() - started < 0.1
    text = str(refused.value)
    assert "one request may have at most 10000" in text and "or send the image in parts" in text
    (recommended,) = re.findall(r"tile=(\{.*?\})", text)
    assert len(planner.plan(sizes, float("inf"), ast.literal_eval(recommended))) <= MAX_PASSES


def test_the_limit_is_for_the_batch_too_and_for_tiles_that_nobody_asked_for() -> None:
    one_size = Planner("x", model(64, 0, 0))
    with pytest.raises(TooManyTiles, match=r"would have to work on .* tiles, but one request may have at most 10000"):
        one_size.plan(sizes_of(1, 10**6, 10**6), float("inf"))
    fixed = model(64, 0, 0)
    fixed.inputs["in"] = (InputAxis("batch", "batch", 1, 0), *fixed.inputs["in"][1:])
    with pytest.raises(TooManyTiles, match=r"9 tiles for each of 5000 pieces of the batch.*Send the image in parts"):
        Planner("x", fixed).plan(sizes_of(5000, 100, 100), float("inf"))
    free = Planner("x", model(16, 16, 8))
    with pytest.raises(TooManyTiles, match="Ask for a larger tile"):
        free.plan(sizes_of(1, 10**5, 10**5), 2000)


@pytest.mark.parametrize("halo", [0, 16, 32])
def test_large_images_in_usual_tiles_are_far_below_the_limit(halo: int) -> None:
    whole_slide = sizes_of(1, 16_384, 16_384)
    assert len(Planner("x", model(64, 16, halo)).plan(whole_slide, 1_500_000)) < MAX_PASSES / 20
    assert len(Planner("x", model(256, 0, halo)).plan(whole_slide, float("inf"))) < MAX_PASSES


def test_the_smallest_tiles_are_no_more_than_the_limit() -> None:
    planner, sizes = Planner("x", model(1, 1, 0)), sizes_of(1, 1000, 1000)
    assert MAX_PASSES / 16 < len(planner.plan(sizes, float("inf"), planner.smallest_tile(sizes))) <= MAX_PASSES


@given(st.integers(0, 20), st.integers(1, 8), st.integers(0, 30), st.integers(0, 200))
def test_spans_are_counted_as_they_are_made(halo: int, align: int, more: int, blocks: int) -> None:
    block = smallest_block(halo, align) + more
    size = block + blocks * align
    assert count_spans(size, block, halo, align) == len(spans(size, block, halo, align))
