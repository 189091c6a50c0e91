"""Hits by hand, by counting pixels, on boxes that are given, on the boxes that prediction writes; the controls."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict
from PIL import Image

from chexjax.data.pipeline import Records
from chexjax.data.prepared import Part
from chexjax.data.recipe import shrink
from chexjax.data.sources.nih import read_boxes
from chexjax.data.sources.phantom import plan_films, render_film
from chexjax.evaluation.evaluator import Predictions
from chexjax.evaluation.localization import (
    CENTRE,
    RANDOM,
    centre_prior,
    choose_examples,
    judge,
    localize,
    locate,
    map_films,
)
from chexjax.findings import FINDINGS
from chexjax.predict import Classifier, predict_files
from chexjax.workdir.restore import restore_best
from tests.untrained import save_untrained

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
    assert locate(values) == ((4 / 64, 4 / 64, 8 / 64, 8 / 64), (8.5 / 64, 8.5 / 64))


def test_a_flat_map_hits_nothing() -> None:
    assert locate(np.ones((7, 7))) is None
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
    inside_share = np.mean([(b[0, 0] <= 0.5 <= b[0, 0] + 0.5) and (b[0, 1] <= 0.5 <= b[0, 1] + 0.25) for b in boxes])
    assert sources[CENTRE]["pointing"] == inside_share
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
    (left, top, width, height), peak = locate(centre_prior())
    assert peak == (0.5, 0.5)
    assert (left + width / 2, top + height / 2) == (0.5, 0.5)


def test_examples_are_the_surest_and_the_most_missed() -> None:
    labels = np.zeros((5, 14), np.uint8)
    labels[[0, 2, 3], 4] = 1
    labels[1, 5] = 1
    scores = np.tile(np.array([0.5, 0.9, 0.2, 0.7, 0.1])[:, None], 14)
    films = Part(tuple("abcde"), tuple("abcde"), labels)
    chosen = choose_examples(Predictions(films, {"net1": scores, "ensemble": 1 - scores}, {}), FINDINGS)
    assert chosen == [(2, "Mass", "surest"), (3, "Mass", "missed most"), (1, "Nodule", "surest")]


class Source:
    """Prepared records of some films."""

    def __init__(self, films: list[np.ndarray]):
        self._films = films

    def __len__(self) -> int:
        return len(self._films)

    def __getitem__(self, film: int) -> dict[str, Any]:
        buffer = io.BytesIO()
        Image.fromarray(self._films[film]).save(buffer, "png")
        return {"image": buffer.getvalue(), "label": np.zeros(14, np.uint8)}


def test_the_boxes_that_prediction_writes_are_those_that_are_judged(small_dml: ConfigDict, tmp_path: Path) -> None:
    """Films of 1024 px through both doors; a box in `boxes.csv`, taken for the truth, has an IoU of exactly 1."""
    workdir = save_untrained(small_dml, tmp_path / "run")
    thresholds = {finding: {"youden": 1e-6} for finding in FINDINGS}
    (workdir / "metrics.json").write_text(json.dumps({"step": 1, "networks": {"ensemble": {"thresholds": thresholds}}}))
    films = {f"{k}.png": render_film(film, 1024)[0] for k, film in enumerate(plan_films(3, seed=8))}
    (tmp_path / "films").mkdir()
    for name, pixels in films.items():
        Image.fromarray(pixels).save(tmp_path / "films" / name)
    classifier = Classifier.from_checkpoint(workdir, batch_size=2)
    paths = {name: tmp_path / "films" / name for name in films}
    assert not predict_files(classifier, paths, tmp_path / "out", progress=False)
    with (tmp_path / "out" / "boxes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    first = {(row["Image Index"], row["Finding Label"]): row for row in reversed(rows)}
    assert len(first) == 3 * 14

    records = Records(Source([shrink(film, 32) for film in films.values()]))
    _, maps = map_films(restore_best(workdir), records, range(3), 14)
    own = [maps["ensemble"][[*films].index(name), ..., FINDINGS.index(finding)] for name, finding in first]
    truth = [np.array([[float(row[key]) / 1024 for key in "xywh"]]) for row in first.values()]
    judged = judge(own, truth)
    np.testing.assert_array_equal(judged.iou, 1.0)
    np.testing.assert_array_equal(judged.pointing, 1.0)


def test_real_boxes(real_data: Path) -> None:
    """The 86 boxes of the NIH's list: the truth hits itself, and hearts are where the centre prior looks."""
    found = [box for boxes in read_boxes(real_data / "nih-128" / "BBox_List_2017.csv").values() for box in boxes]
    boxes = [np.array([[b.left, b.top, b.width, b.height]]) for b in found]
    centres = (np.arange(256) + 0.5) / 256
    truth = [
        np.outer((b.top <= centres) & (centres < b.top + b.height), (b.left <= centres) & (centres < b.left + b.width))
        for b in found
    ]
    judged = localize({"truth": truth}, boxes, [box.finding for box in found])
    assert judged["cases"] == 86
    assert judged["groups"]["Infiltration"]["cases"] == 7
    assert judged["groups"]["all"]["sources"]["truth"]["iou"]["0.7"] == 1.0
    assert judged["groups"]["Cardiomegaly"]["sources"][CENTRE]["pointing"] > 0.5
    assert judged["groups"]["all"]["sources"][RANDOM]["pointing"] < 0.3
