"""Does a map lie where the finding is? Maps and true boxes in, shares of hits out, always beside two controls.

A case is one finding on one film: a map (height, width), higher where the film speaks for the finding, and the true
boxes. Boxes are (left, top, width, height) in shares of the film. Of a map, two things are judged:

- its box: of the smoothly enlarged map, the region around the peak that lies above the middle of the map's range. It
  hits where its IoU (or IoBB, the share of it that lies inside) with a true box is at least a threshold (Wang et al.,
  "ChestX-ray8", CVPR 2017, section 4.3). One box a case, so that many boxes cannot buy hits;
- its peak: the pointing game, which is won where the centre of the highest cell lies in a true box (Zhang et al.,
  "Top-down neural attention by excitation backprop", ECCV 2016; without a margin).

A large box is hit by accident. So the same is always told of random maps of the same resolution, and of a map that
knows only that findings lie near the middle of a film.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from scipy import ndimage, stats

RANDOM: Final = "random map"
CENTRE: Final = "centre prior"
THRESHOLDS: Final = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7)
_GRID: Final = 64  # maps are enlarged to at least this before a box is cut out of them
_DRAWS: Final = 20  # random maps a case
_SPREAD: Final = 0.25  # of the centre prior, a normal distribution, in shares of the film


class Judged(NamedTuple):
    """How each case came out, float64 (cases,) each: the box's best IoU and IoBB, 1 where the peak lies in a box."""

    iou: np.ndarray
    iobb: np.ndarray
    pointing: np.ndarray


def judge(maps: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> Judged:
    """Judges a map (height, width) a case against its true boxes (boxes, 4).

    A flat map points nowhere and hits nothing.
    """
    rows = []
    for values, truth in zip(maps, boxes, strict=True):
        box, peak = peak_box(values), peak_point(values)
        if box is None or peak is None:
            rows.append((0.0, 0.0, 0.0))
            continue
        inside = _intersections(box, truth)
        area, areas = box[2] * box[3], truth[:, 2] * truth[:, 3]
        left, top, width, height = truth.T
        held = (left <= peak[0]) & (peak[0] <= left + width) & (top <= peak[1]) & (peak[1] <= top + height)
        rows.append(((inside / (area + areas - inside)).max(), inside.max() / area, float(held.any())))
    return Judged(*np.array(rows, np.float64).reshape(-1, 3).T)


def localize(
    maps: Mapping[str, Sequence[np.ndarray]], boxes: Sequence[np.ndarray], findings: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Shares of hits of each source of maps and of the two controls, over all cases and per finding.

    Args:
      maps: name -> a map a case, e.g. of each network. All sources judge the same cases.
      boxes: the true boxes of each case, float (boxes, 4).
      findings: of each case.
      seed: of the random maps.

    Returns:
      As `metrics.json` holds it: "cases", and for "all" and each finding its cases and, per name, "pointing", "iou" and
      "iobb" (threshold -> share of cases hit) and the 95 % Wilson interval of the pointing share.
    """
    if not len(boxes):
        return {"cases": 0, "random_maps_per_case": _DRAWS, "groups": {}}
    random = np.random.default_rng(seed)
    shape = np.shape(next(iter(maps.values()))[0])
    judged = {name: [judge(own, boxes)] for name, own in maps.items()}
    judged[RANDOM] = [judge([*random.random((len(boxes), *shape))], boxes) for _ in range(_DRAWS)]
    judged[CENTRE] = [judge([centre_prior()] * len(boxes), boxes)]
    groups = {"all": np.ones(len(boxes), bool)}
    groups |= {finding: np.array([each == finding for each in findings]) for finding in dict.fromkeys(findings)}
    return {
        "cases": len(boxes),
        "random_maps_per_case": _DRAWS,
        "groups": {
            group: {
                "cases": int(cases.sum()),
                "sources": {name: _shares(draws, cases) for name, draws in judged.items()},
            }
            for group, cases in groups.items()
        },
    }


def _shares(draws: Sequence[Judged], cases: np.ndarray) -> dict[str, Any]:
    """The shares of `cases` (bool) hit, averaged over the draws."""
    count = int(cases.sum())
    pointing = float(np.mean([draw.pointing[cases] for draw in draws]))
    shares = {
        kind: {f"{t:g}": float(np.mean([getattr(draw, kind)[cases] >= t for draw in draws])) for t in THRESHOLDS}
        for kind in ("iou", "iobb")
    }
    interval = stats.binomtest(round(pointing * count), count).proportion_ci(method="wilson")
    return {"pointing": pointing, "pointing_interval": [interval.low, interval.high], **shares}


def peak_point(values: np.ndarray) -> tuple[float, float] | None:
    """The centre (x, y) of a map's highest cell, in shares of the film; None of a flat map."""
    values = np.asarray(values, np.float64)
    if values.max() == values.min():
        return None
    row, column = np.unravel_index(values.argmax(), values.shape)
    return (float(column) + 0.5) / values.shape[1], (float(row) + 0.5) / values.shape[0]


def peak_box(values: np.ndarray, share: float = 0.5) -> tuple[float, float, float, float] | None:
    """The box of the region around a map's peak that lies above `share` of the map's range; None of a flat map."""
    fine = enlarge(values, max(_GRID, *np.shape(values)))
    low, high = fine.min(), fine.max()
    if low == high:
        return None
    regions, _ = ndimage.label(fine >= low + share * (high - low), structure=np.ones((3, 3)))
    rows, columns = np.nonzero(regions == regions[np.unravel_index(fine.argmax(), fine.shape)])
    height, width = fine.shape
    left, top = columns.min() / width, rows.min() / height
    return left, top, (columns.max() + 1) / width - left, (rows.max() + 1) / height - top


def enlarge(values: np.ndarray, size: int) -> np.ndarray:
    """A map (height, width) at (size, size), bilinear, its cells' centres in place, its border cells carried on."""
    values = np.asarray(values, np.float64)
    rows, columns = (_weights(extent, size) for extent in values.shape)
    return rows @ values @ columns.T


def _weights(extent: int, size: int) -> np.ndarray:
    """What each of `extent` cells adds to each of `size` places: (size, extent)."""
    places = np.clip((np.arange(size) + 0.5) * extent / size - 0.5, 0, extent - 1)
    return np.maximum(1.0 - np.abs(places[:, None] - np.arange(extent)), 0.0)


def centre_prior() -> np.ndarray:
    """A map that is highest in the middle of any film, float64 (65, 65): odd, so that one cell is the middle."""
    cells = _GRID + 1
    away = ((np.arange(cells) + 0.5) / cells - 0.5) / _SPREAD
    return np.exp(-0.5 * (away[:, None] ** 2 + away**2))


def _intersections(box: Sequence[float], truth: np.ndarray) -> np.ndarray:
    """The area that a box shares with each of (boxes, 4)."""
    left, top = np.maximum(box[0], truth[:, 0]), np.maximum(box[1], truth[:, 1])
    right = np.minimum(box[0] + box[2], truth[:, 0] + truth[:, 2])
    bottom = np.minimum(box[1] + box[3], truth[:, 1] + truth[:, 3])
    return np.maximum(right - left, 0.0) * np.maximum(bottom - top, 0.0)
