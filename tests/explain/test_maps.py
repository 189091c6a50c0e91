"""The one form of maps and boxes: enlarging against a scalar loop, boxes against a flood fill, what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from chexjax.explain import cam, maps

MAP = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
SMALL = arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 5).map(float))


def bilinear(values: np.ndarray, x: float, y: float) -> float:
    """The map at a point in shares of the film, border cells carried on."""
    rows, columns = values.shape
    x, y = min(max(x * columns - 0.5, 0), columns - 1), min(max(y * rows - 0.5, 0), rows - 1)
    i, j = min(int(y), max(rows - 2, 0)), min(int(x), max(columns - 2, 0))
    below, right = min(i + 1, rows - 1), min(j + 1, columns - 1)
    upper = values[i, j] * (1 - x + j) + values[i, right] * (x - j)
    lower = values[below, j] * (1 - x + j) + values[below, right] * (x - j)
    return upper * (1 - y + i) + lower * (y - i)


@pytest.mark.parametrize("size", [(40, 30), (29, 13), (7, 5)])
def test_enlarging_is_bilinear_on_the_host_and_on_the_device(size: tuple[int, int]) -> None:
    width, height = size
    found = maps.enlarge(MAP, width, height)
    expected = [[bilinear(MAP, (x + 0.5) / width, (y + 0.5) / height) for x in range(width)] for y in range(height)]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(maps.enlarge_all(MAP[None, ..., None], height, width)[0, ..., 0], expected, atol=1e-5)


def test_a_region_has_the_colours_of_the_whole() -> None:
    whole = maps.heat(MAP, 140, 100)
    part = maps.heat(MAP, 70, 50, region=(0.5, 0.25, 1.0, 0.75))
    np.testing.assert_allclose(part, whole[25:75, 70:], atol=1e-5)
    assert whole.min() >= 0
    assert whole.max() <= 1


def test_a_peak_stays_where_it_is() -> None:
    values = np.zeros((8, 8), np.float32)
    values[2, 5] = 3.0
    drawn = maps.heat(values, 320, 160)
    row, column = np.unravel_index(drawn.argmax(), drawn.shape)
    assert abs(row - 2.5 * 20) <= 1
    assert abs(column - 5.5 * 40) <= 1
    assert maps.peak_point(values) == (5.5 / 8, 2.5 / 8)
    (box,) = maps.boxes_on_film(values, 320, 160)
    assert (box.left, box.left + box.width) == pytest.approx((200, 240), abs=2)  # half of the peak, half a cell away
    assert (box.top, box.top + box.height) == pytest.approx((40, 60), abs=2)


def test_boxes_cover_the_places_above_the_share() -> None:
    values = np.zeros((4, 4), np.float32)
    values[1:3, 1:3] = 1.0
    for share in (0.3, 0.6):
        (box,) = maps.boxes_on_film(values, 1000, 500, share)
        rows, columns = np.nonzero(maps.heat(values, 1000, 500) >= share)
        assert box.left <= columns.min() <= box.left + 5
        assert box.left + box.width - 5 <= columns.max() < box.left + box.width
        assert box.top <= rows.min() <= box.top + 5
        assert box.top + box.height - 5 <= rows.max() < box.top + box.height


@pytest.mark.parametrize(
    "values",
    [np.zeros((4, 4)), np.full((7, 7), -3.0), 5 + 1e-7 * MAP, np.full((3, 3), np.nan), np.ones((1, 1))],
    ids=["zero", "constant", "rounding", "not a number", "one cell"],
)
def test_a_flat_map_has_no_box_no_peak_and_no_colour(values: np.ndarray) -> None:
    assert maps.boxes_on_film(values, 100, 100) == []
    assert maps.peak_point(values) is None
    assert not (maps.heat(values, 9, 9) > 0).any()


@settings(max_examples=100, deadline=None)
@given(SMALL, st.integers(20, 1200), st.integers(20, 1200))
def test_the_first_box_holds_the_highest_cell_and_every_box_lies_on_the_film(
    values: np.ndarray, width: int, height: int
) -> None:
    boxes = maps.boxes_on_film(values, width, height)
    peak = maps.peak_point(values)
    assert (peak is None) == (not boxes) == (np.ptp(values) == 0)
    for box in boxes:
        assert 0 <= box.left < box.left + box.width <= width
        assert 0 <= box.top < box.top + box.height <= height
        assert 0.5 <= box.peak <= 1
    if peak is not None:
        first = boxes[0]
        assert first.peak == 1
        assert first.left <= peak[0] * width <= first.left + first.width
        assert first.top <= peak[1] * height <= first.top + first.height
    # Whatever the film's size, it is the same box, rounded outwards to whole pixels.
    for box, exact in zip(boxes, maps.boxes_on_film(values, 2**20, 2**20), strict=True):
        for low, extent, sure, share, size in (
            (box.left, box.width, exact.left, exact.width, width),
            (box.top, box.height, exact.top, exact.height, height),
        ):
            assert low <= sure / 2**20 * size + 0.01 < low + 1.02
            assert low + extent - 1.02 < (sure + share) / 2**20 * size - 0.01 <= low + extent


def test_an_ensemble_averages_at_the_finest_resolution() -> None:
    rng = np.random.default_rng(0)
    fine, coarse = (jnp.asarray(rng.normal(size=(1, side, side, 2)), jnp.float32) for side in (4, 2))
    np.testing.assert_allclose(maps.average_maps([fine, 3 * fine]), 2 * fine, rtol=1e-6)
    mixed = maps.average_maps([fine, coarse])
    larger = jax.image.resize(coarse, fine.shape, "bilinear")
    np.testing.assert_allclose(mixed, (fine + larger) / 2, rtol=1e-5)


def test_unit_range_stretches_each_map_alone() -> None:
    several = np.stack([np.arange(6.0).reshape(2, 3), np.full((2, 3), 5.0), -np.arange(6.0).reshape(2, 3)], -1)[None]
    found = maps.unit_range(several)
    np.testing.assert_allclose(found[0, ..., 0], np.arange(6).reshape(2, 3) / 5)
    assert not found[0, ..., 1].any()
    np.testing.assert_allclose(found[0, ..., 2], 1 - np.arange(6).reshape(2, 3) / 5)


def flood(values: np.ndarray, threshold: float) -> list[tuple[int, int, int, int, float]]:
    """Boxes by a plain flood fill over the eight neighbours."""
    left = {(int(i), int(j)) for i, j in np.argwhere(values >= threshold)}
    boxes = []
    while left:
        waiting, region = [left.pop()], []
        while waiting:
            i, j = waiting.pop()
            region.append((i, j))
            near = {(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            waiting += near
        rows, columns = zip(*region, strict=True)
        extent = (max(columns) - min(columns) + 1, max(rows) - min(rows) + 1)
        boxes.append((min(columns), min(rows), *extent, float(max(values[cell] for cell in region))))
    return boxes


@settings(max_examples=150, deadline=None)
@given(SMALL, st.integers(0, 6).map(float))
def test_boxes_are_those_of_a_flood_fill(values: np.ndarray, threshold: float) -> None:
    found = maps.boxes_from_map(values, threshold)
    assert sorted(found) == sorted(flood(values, threshold))
    assert [box.peak for box in found] == sorted((box.peak for box in found), reverse=True)


def test_a_box_by_hand() -> None:
    values = np.zeros((6, 8))
    values[1:3, 2:6], values[2, 4], values[5, 0] = 0.6, 0.9, 0.7
    assert maps.boxes_from_map(values, 0.5) == [(2, 1, 4, 2, 0.9), (0, 5, 1, 1, 0.7)]
    assert maps.boxes_from_map(values, 2.0) == []
    assert cam.boxes_from_map is maps.boxes_from_map  # the public name
