"""Charts: what lies in a picture, read back from its SVG and its pixels, against the curves it was drawn from."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_curve

from chexjax.evaluation import charts

LABELS = np.array([[1, 0], [0, 0], [1, 0], [0, 0], [1, 0], [0, 0], [0, 0], [1, 0]])
SCORES = np.array([0.9, 0.8, 0.7, 0.4, 0.35, 0.3, 0.2, 0.6])
MODELS = {"_a $\\frac{$": np.stack([SCORES, SCORES], axis=1), "<b>": np.stack([1 - SCORES, SCORES], axis=1)}


def lines(svg: str, colour: str) -> list[np.ndarray]:
    """The points (x, y) of each line of a colour, y upwards."""
    root = ET.fromstring(svg.replace("xlink:href", "href"))
    found = []
    for path in root.iter("path"):
        if f"stroke: {colour}" in path.get("style", "") and "clip-path" in path.attrib:
            numbers = np.array(re.findall(r"-?\d+\.?\d*", path.get("d", "")), float).reshape(-1, 2)
            found.append(numbers * [1, -1])
    return found


def unit(points: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Points in shares of a frame, which goes from (0, 0) to (1, 1)."""
    low, high = frame.min(axis=0), frame.max(axis=0)
    return (points - low) / (high - low)


def test_a_roc_curve_in_a_page_is_the_roc_curve() -> None:
    svgs = charts.as_svg(charts.by_finding(charts.draw_roc, LABELS, MODELS, ["Mass", "Hernia"]))
    assert list(svgs) == ["Mass", "Hernia: n/a, no film has it"]
    (diagonal,) = lines(svgs["Mass"], "var(--dim)")
    for k, scores in enumerate((SCORES, 1 - SCORES)):
        (line,) = lines(svgs["Mass"], f"var(--c{k})")
        alarms, hits, _ = roc_curve(LABELS[:, 0], scores)  # without the points on a straight line, as the drawing is
        for point in zip(alarms, hits, strict=True):
            assert np.abs(unit(line, diagonal) - point).sum(axis=1).min() < 0.01
    assert not any(lines(svgs["Hernia: n/a, no film has it"], f"var(--c{k})") for k in range(2))


def test_reliability_is_found_against_predicted() -> None:
    labels = np.array([0, 0, 0, 1, 1, 0, 1, 1])[:, None]
    probabilities = np.array([0.1, 0.1, 0.1, 0.1, 0.5, 0.5, 0.5, 0.5])[:, None]
    svgs = charts.as_svg(charts.by_finding(charts.draw_reliability, labels, {"a": probabilities}, ["Mass"]))
    (diagonal,) = lines(svgs["Mass"], "var(--dim)")  # to 0.8, the first tenth above the highest point
    (line,) = lines(svgs["Mass"], "var(--c0)")
    np.testing.assert_allclose(0.8 * unit(line, diagonal), [[0.1, 0.25], [0.5, 0.75]], atol=0.01)


def test_charts_of_a_page_have_its_colours_and_no_text_of_others() -> None:
    for svg in charts.as_svg(charts.by_finding(charts.draw_roc, LABELS, MODELS, ["Mass"])).values():
        assert not re.search(r"#[0-9a-fA-F]{6}|https?:|<script|frac", svg)
        assert svg.startswith("<svg viewBox=")
    again = charts.as_svg(charts.by_finding(charts.draw_roc, LABELS, MODELS, ["Mass"]))
    assert again == {"Mass": svg}  # no date, no random identifiers


def test_all_charts_are_on_one_picture(tmp_path: Path) -> None:
    charts.write_png(tmp_path / "roc.png", charts.by_finding(charts.draw_roc, LABELS, MODELS, ["Mass", "Hernia"]))
    with Image.open(tmp_path / "roc.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    halves = pixels[:, : pixels.shape[1] // 2], pixels[:, pixels.shape[1] // 2 :]
    for k, area in ((0, 30), (1, 30)):  # a legend in either half, curves in the left one alone
        colour = [int(charts.COLOURS[k][i : i + 2], 16) for i in (1, 3, 5)]
        counts = [(half == colour).all(axis=-1).sum() for half in halves]
        assert counts[0] > counts[1] + area
        assert counts[1] > 0


def test_curves_of_a_training() -> None:
    history = [
        {"epoch": 1.0, "train/net1/cross_entropy": 0.5, "val/net1/loss": 0.6, "val/net1/auroc": 0.5},
        {"epoch": 2.0, "val/net1/loss": 0.3, "val/net1/auroc": 0.7},  # nothing was trained in between
    ]
    losses, aurocs = charts.as_svg(charts.curves(history, ["net1"])).values()
    assert sorted(len(line) for line in lines(losses, "var(--c0)")) == [1, 2]  # training has one point
    (line,) = lines(aurocs, "var(--c0)")
    assert line[1][1] > line[0][1]


@pytest.mark.parametrize("names", [["net1"], [f"net{k}" for k in range(8)]])
def test_a_picture_of_curves_may_have_any_number_of_networks(names: list[str], tmp_path: Path) -> None:
    entry = {"epoch": 1.0} | {f"val/{name}/{key}": 0.5 for name in names for key in ("loss", "auroc")}
    charts.write_png(tmp_path / "curves.png", charts.curves([entry], names))
    assert Image.open(tmp_path / "curves.png").size[0] > 500
