"""Boxes and peaks by hand, by counting pixels, and on boxes that are given; the controls by probability."""

from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chexjax.data.sources.nih import read_boxes
from chexjax.evaluation.localization import (
    CENTRE,
    RANDOM,
    centre_prior,
    enlarge,
    judge,
    localize,
    peak_box,
    peak_point,
)

LEFT_TOP = np.array([[0.0, 0.0, 0.5, 0.5]])


def spot(row: int, column: int, size: int = 8) -> np.ndarray:
    values = np.zeros((size, size))
    values[row, column] = 1.0
    return values


def test_a_map_in_the_right_quarter_and_one_in_the_wrong() -> None:
    quarter = np.zeros((64, 64))
    quarter[:32, :32] = 1.0
    found = judge([quarter, quarter[::-1]], [LEFT_TOP, LEFT_TOP])
    np.testing.assert_array_equal(found.iou, [1.0, 0.0])
    np.testing.assert_array_equal(found.iobb, [1.0, 0.0])
    np.testing.assert_array_equal(found.pointing, [1.0, 0.0])


def test_a_small_box_inside_a_large_one_has_all_of_the_iobb_and_little_iou() -> None:
    values = np.zeros((64, 64))
    values[8:16, 8:16] = 1.0
    found = judge([values], [np.array([[0.6, 0.6, 0.1, 0.1], [0.0, 0.0, 0.5, 0.5]])])  # the better box counts
    assert found.iou[0] == pytest.approx((8 / 64) ** 2 / 0.25)
    assert found.iobb[0] == 1.0


QUARTERS = st.integers(0, 15)


@given(QUARTERS, QUARTERS, QUARTERS, QUARTERS, QUARTERS, QUARTERS, QUARTERS, QUARTERS)
def test_overlap_is_a_count_of_pixels(a: int, b: int, c: int, d: int, e: int, f: int, g: int, h: int) -> None:
    """Two boxes on the pixels of a 64 x 64 map."""

    def corners(x0: int, x1: int, y0: int, y1: int) -> tuple[int, int, int, int]:
        return 4 * min(x0, x1), 4 * max(x0, x1) + 4, 4 * min(y0, y1), 4 * max(y0, y1) + 4

    mine, truth = np.zeros((64, 64)), np.zeros((64, 64), bool)
    x0, x1, y0, y1 = corners(a, b, c, d)
    mine[y0:y1, x0:x1] = 1.0
    if mine.all():
        return  # flat
    x0, x1, y0, y1 = corners(e, f, g, h)
    truth[y0:y1, x0:x1] = True
    found = judge([mine], [np.array([[x0, y0, x1 - x0, y1 - y0]]) / 64])
    both = (mine > 0) & truth
    assert found.iou[0] == pytest.approx(both.sum() / ((mine > 0) | truth).sum())
    assert found.iobb[0] == pytest.approx(both.sum() / (mine > 0).sum())


def test_the_box_is_of_the_region_with_the_peak() -> None:
    values = np.zeros((64, 64))
    values[4:12, 4:12], values[40:60, 40:60], values[8, 8] = 0.9, 0.9, 1.0
    assert peak_box(values) == pytest.approx((4 / 64, 4 / 64, 8 / 64, 8 / 64))


def test_a_coarse_map_is_enlarged_about_its_cells() -> None:
    assert peak_point(spot(6, 1)) == (1.5 / 8, 6.5 / 8)
    left, top, width, height = peak_box(spot(6, 1))
    assert (left + width / 2, top + height / 2) == pytest.approx((1.5 / 8, 6.5 / 8))
    assert width == pytest.approx(1 / 8, abs=1 / 64)  # half of the peak is reached half a cell away
    values = np.random.default_rng(0).random((7, 5))
    expected = jax.image.resize(values.astype(np.float32), (64, 64), "linear", antialias=False)
    np.testing.assert_allclose(enlarge(values, 64), expected, atol=1e-5)


def test_a_flat_map_hits_nothing() -> None:
    assert peak_box(np.ones((7, 7))) is peak_point(np.ones((7, 7))) is None
    assert judge([np.ones((7, 7))], [np.array([[0.0, 0.0, 1.0, 1.0]])]) == (0.0, 0.0, 0.0)


def test_random_maps_point_into_a_box_as_often_as_it_is_large() -> None:
    rng = np.random.default_rng(1)
    corners = rng.integers(0, 4, (400, 2)) / 8
    boxes = [np.array([[*corner, 0.5, 0.25]]) for corner in corners]  # whole cells of an 8 x 8 map: one eighth of them
    found = localize({"right": [spot(int(8 * b[0, 1]), int(8 * b[0, 0])) for b in boxes]}, boxes, ["Mass"] * 400)
    sources = found["groups"]["Mass"]["sources"]
    assert set(sources) == {"right", RANDOM, CENTRE}
    assert sources["right"]["pointing"] == 1.0
    # 400 cases x 20 draws: a standard error of 0.0037
    assert sources[RANDOM]["pointing"] == pytest.approx(1 / 8, abs=0.012)
    held = np.mean([(b[0, 0] <= 0.5 <= b[0, 0] + 0.5) and (b[0, 1] <= 0.5 <= b[0, 1] + 0.25) for b in boxes])
    assert sources[CENTRE]["pointing"] == held
    assert localize({"right": [spot(0, 0)]}, [LEFT_TOP], ["Mass"]) == localize(
        {"right": [spot(0, 0)]}, [LEFT_TOP], ["Mass"]
    )


def test_shares_per_finding_and_of_all() -> None:
    found = localize({"net": [spot(0, 0), spot(7, 7), spot(1, 1)]}, [LEFT_TOP] * 3, ["Mass", "Mass", "Nodule"])
    assert found["cases"] == 3
    assert {name: group["cases"] for name, group in found["groups"].items()} == {"all": 3, "Mass": 2, "Nodule": 1}
    assert found["groups"]["all"]["sources"]["net"]["pointing"] == pytest.approx(2 / 3)
    low, high = found["groups"]["all"]["sources"]["net"]["pointing_interval"]
    assert (low, high) == pytest.approx((0.2077, 0.9385), abs=1e-4)  # Wilson, 2 of 3
    iou = found["groups"]["Mass"]["sources"]["net"]["iou"]
    assert list(iou.values()) == sorted(iou.values(), reverse=True)
    assert localize({"net": []}, [], []) == {**found, "cases": 0, "groups": {}}


def test_the_centre_prior_is_highest_in_the_middle() -> None:
    assert peak_point(centre_prior()) == (0.5, 0.5)
    left, top, width, height = peak_box(centre_prior())
    assert (left + width / 2, top + height / 2) == pytest.approx((0.5, 0.5))


def test_real_boxes(real_data: Path) -> None:
    """The 86 boxes of the NIH's list: the truth hits itself, and hearts are where the centre prior looks."""
    found = [box for boxes in read_boxes(real_data / "nih-128" / "BBox_List_2017.csv").values() for box in boxes]
    boxes = [np.array([[b.left, b.top, b.width, b.height]]) for b in found]
    places = (np.arange(256) + 0.5) / 256
    truth = [
        np.outer((b.top <= places) & (places < b.top + b.height), (b.left <= places) & (places < b.left + b.width))
        for b in found
    ]
    judged = localize({"truth": truth}, boxes, [box.finding for box in found])
    assert judged["cases"] == 86
    assert judged["groups"]["Infiltration"]["cases"] == 7
    assert judged["groups"]["all"]["sources"]["truth"]["iou"]["0.7"] == 1.0
    assert judged["groups"]["Cardiomegaly"]["sources"][CENTRE]["pointing"] > 0.5
    assert judged["groups"]["all"]["sources"][RANDOM]["pointing"] < 0.3
