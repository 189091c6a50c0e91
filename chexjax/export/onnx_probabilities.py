"""From logits to calibrated probabilities as ONNX operators, in float64 as in `trust.calibration`."""

from typing import Final

import numpy as np

from chexjax.export.onnx_graph import Graph
from chexjax.trust.calibration import RISE, Calibration

ISOTONIC: Final = "isotonic"
LEAST: Final = np.float64(2.0**-1022)


def probabilities_of(graph: Graph, logits: str, calibration: Calibration | None) -> str:
    """float32 logits (networks, batch, findings) -> float32 (batch, findings): the mean of the sigmoids, calibrated."""
    p = graph.add("ReduceMean", graph.add("Sigmoid", graph.cast(logits, np.float64)), axes=[0], keepdims=0)
    if calibration is not None:
        p = _calibrated(graph, p, calibration)
    return graph.cast(p, np.float32)


def _calibrated(graph: Graph, p: str, calibration: Calibration) -> str:
    """Applies every kind of curve in use to all findings, and selects each finding's own."""
    curves, raw = calibration.curves, p
    if any(logistic := [curve.kind not in ("none", ISOTONIC) for curve in curves]):
        slopes, offsets = (np.array(values) for values in zip(*((c.slope, c.offset) for c in curves), strict=True))
        scaled = graph.add("Add", graph.add("Mul", _logit(graph, raw), slopes), offsets)
        p = graph.add("Where", np.array(logistic), graph.add("Sigmoid", scaled), p)
    if any(isotonic := [curve.kind == ISOTONIC for curve in curves]):
        p = graph.add("Where", np.array(isotonic), _between_knots(graph, raw, calibration), p)
    if any(shifts := [curve.shift for curve in curves]):
        shifted = graph.add("Sigmoid", graph.add("Add", _logit(graph, p), np.array(shifts)))
        p = graph.add("Where", np.array(shifts) != 0, shifted, p)
    return p


def _between_knots(graph: Graph, p: str, calibration: Calibration) -> str:
    """Piecewise linear: the first knot's value, plus the part of each piece's rise that lies below p."""
    knots = [curve.knots or ((0.0, 0.0),) for curve in calibration.curves]
    pieces = max(max(map(len, knots)) - 1, 1)
    starts, widths, rises = (np.full((len(knots), pieces), fill) for fill in (0.0, 1.0, 0.0))
    for row, own in enumerate(knots):
        x, y = np.array(own).T
        starts[row, : len(x) - 1], widths[row, : len(x) - 1], rises[row, : len(x) - 1] = x[:-1], np.diff(x), np.diff(y)
    share = graph.add("Div", graph.add("Sub", graph.add("Unsqueeze", p, np.array([2])), starts), widths)
    share = graph.add("Min", graph.add("Max", share, np.float64(0.0)), np.float64(1.0))
    risen = graph.add("ReduceSum", graph.add("Mul", share, rises), np.array([2]), keepdims=0)
    between = graph.add("Add", risen, np.array([own[0][1] for own in knots]))
    own_share = graph.add("Mul", p, np.float64(RISE))
    return graph.add("Add", graph.add("Mul", between, np.float64(1 - RISE)), own_share)


def _logit(graph: Graph, p: str) -> str:
    inside = graph.add("Min", graph.add("Max", p, LEAST), np.float64(1 - 2.0**-53))
    return graph.add("Sub", graph.add("Log", inside), graph.add("Log", graph.add("Sub", np.float64(1.0), inside)))
