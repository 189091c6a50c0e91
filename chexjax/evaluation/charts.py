"""Curves of a training, ROC curves, reliability: drawn once, for PNG files and for pages.

Each chart is a function that draws on matplotlib's axes. A PNG file holds all charts of a kind; a page holds them one
by one as SVG, whose colours follow the page's theme and whose text stays text.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chexjax.evaluation import metrics
from chexjax.evaluation.summary import History
from chexjax.formats import UNDEFINED, format_figure
from chexjax.models.network import ENSEMBLE

# The colour of the k-th network on white; a page's style repeats them as --c0, --c1, ..., with others for dark mode.
COLOURS: Final = ("#1f6fb2", "#c8551b", "#6b7280", "#2b8a3e", "#8e44ad", "#b5302a")
DIM: Final = "#5b6675"
_THEME: Final = {colour: f"var(--c{k})" for k, colour in enumerate(COLOURS)} | {DIM: "var(--dim)"}
_STYLE: Final[dict[Any, Any]] = {
    "axes.edgecolor": DIM,
    "axes.labelcolor": DIM,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "path.simplify_threshold": 0.4,  # of a point; a curve of 100,000 films then has a few hundred
    "svg.fonttype": "none",
    "svg.hashsalt": "chexjax",  # equal charts give equal text
    "text.parse_math": False,  # a `$` in a file name starts no formula
    "xtick.color": DIM,
    "ytick.color": DIM,
}
Draw = Callable[[Axes], None]
DrawFinding = Callable[[Axes, np.ndarray, Mapping[str, np.ndarray]], None]  # its labels, each model's probabilities
Place = tuple[float, float, float, float]  # left, bottom, width, height as shares of a chart
FOR_SHARES: Final[Place] = (0.2, 0.21, 0.76, 0.76)  # on both axes: their labels have at most four characters


def colour_of(k: int) -> str:
    """The colour of the k-th network; colours repeat."""
    return COLOURS[k % len(COLOURS)]


# What is drawn


def draw_losses(axes: Axes, history: History, names: Sequence[str]) -> None:
    """Cross-entropy in training (dashed) and validation against the epoch, one colour per network."""
    for k, name in enumerate(names):
        if name != ENSEMBLE:
            for key, line, part in (("train/{}/cross_entropy", "--", "training"), ("val/{}/loss", "-", "validation")):
                key = key.format(name)
                points = [(entry["epoch"], entry[key]) for entry in history if key in entry]
                axes.plot(*_columns(points), f".{line}", color=colour_of(k), label=f"{name}, {part}")
    axes.set(xlabel="epoch", xlim=(0, None))


def draw_aurocs(axes: Axes, history: History, names: Sequence[str]) -> None:
    """Mean validation AUROC against the epoch, one colour per network."""
    for k, name in enumerate(names):
        points = [(entry["epoch"], entry[f"val/{name}/auroc"]) for entry in history]
        axes.plot(*_columns(points), ".-", color=colour_of(k), label=name)
    axes.set(xlabel="epoch", xlim=(0, None))


def draw_roc(axes: Axes, labels: np.ndarray, scores: Mapping[str, np.ndarray]) -> None:
    """The ROC curves of one finding, one colour per model; labels and each model's scores are (films,)."""
    axes.plot([0, 1], [0, 1], ":", color=DIM)
    is_defined = metrics.why_undefined(labels) is None
    for k, (name, own) in enumerate(scores.items()):
        alarms, hits, _ = metrics.roc_curve(labels, own) if is_defined else ((), (), ())
        axes.plot(alarms, hits, color=colour_of(k), label=f"{name} {format_figure(metrics.auroc(labels, own), 3)}")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1.01), aspect="equal")


def draw_reliability(axes: Axes, labels: np.ndarray, probabilities: Mapping[str, np.ndarray]) -> None:
    """Observed share against predicted probability of one finding; the axes end where the predictions do."""
    end = 0.1
    for k, (name, own) in enumerate(probabilities.items()):
        curve = metrics.reliability_curve(labels, own)
        filled = curve.films > 0
        axes.plot(curve.predicted[filled], curve.observed[filled], ".-", color=colour_of(k), label=name)
        end = max([end, *curve.predicted[filled], *curve.observed[filled]])
    end = min(np.ceil(10 * end) / 10, 1.0)
    axes.plot([0, end], [0, end], ":", color=DIM)
    limits = (0, end * 1.01)
    axes.set(xlabel="predicted", ylabel="found", xlim=limits, ylim=limits, aspect="equal")


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def curves(history: History, names: Sequence[str]) -> dict[str, Draw]:
    """The charts of a training, by title."""
    return {
        "cross-entropy in nats; dashed: training": lambda axes: draw_losses(axes, history, names),
        "mean validation AUROC": lambda axes: draw_aurocs(axes, history, names),
    }


def by_finding(
    draw: DrawFinding,
    labels: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    findings: Sequence[str],
) -> dict[str, Draw]:
    """A chart a finding, by title; `draw` is `draw_roc` or `draw_reliability`.

    Args:
      labels: (films, findings).
      probabilities: of each model, the same shape.
    """

    def chart(k: int) -> Draw:
        return lambda axes: draw(axes, labels[:, k], {name: p[:, k] for name, p in probabilities.items()})

    reasons = [metrics.why_undefined(labels[:, k]) for k in range(len(findings))]
    return {
        finding + (f": {UNDEFINED}, {reason}" if reason else ""): chart(k)
        for k, (finding, reason) in enumerate(zip(findings, reasons, strict=True))
    }


# On what


def write_png(path: Path, charts: Mapping[str, Draw], side: float = 2.7, columns: int = 5) -> None:
    """All charts on one picture, titled, with legends; `side` is that of a chart in inches."""
    columns = min(columns, len(charts))
    rows = -(-len(charts) // columns)
    with matplotlib.rc_context({**_STYLE, "font.size": 8}):
        figure = Figure(figsize=(side * columns, side * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(charts) :]:
            axes.axis("off")
        for axes, (title, draw) in zip(grid.flat, charts.items(), strict=False):
            draw(axes)
            axes.set_title(title)
            lines = [line for line in axes.get_lines() if not line.get_label().startswith("_child")]
            # A space before each name: matplotlib leaves out those that begin with "_".
            axes.legend(lines, [f" {line.get_label()}" for line in lines], fontsize=6)
        figure.savefig(path, dpi=110, format="png")


def as_svg(charts: Mapping[str, Draw], place: Place | None = None) -> dict[str, Markup]:
    """Each chart alone, by title: an `<svg>` without title or legend, in the theme of the page that it is put into.

    `place` is that of the axes; without it, one is found for each chart, which takes as long as drawing the chart.
    """
    return {title: _svg(draw, place) for title, draw in charts.items()}


def svg_by_finding(
    draw: DrawFinding,
    labels: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    findings: Sequence[str],
) -> dict[str, Markup]:
    """The charts of `by_finding`, both of whose axes are shares, as `as_svg` gives them."""
    return as_svg(by_finding(draw, labels, probabilities, findings), FOR_SHARES)


def _svg(draw: Draw, place: Place | None) -> Markup:
    with matplotlib.rc_context({**_STYLE, "font.size": 7}):
        figure = Figure(figsize=(2.0, 1.85), layout=None if place else "constrained", facecolor="none")
        axes = figure.add_axes(place) if place else figure.subplots()
        axes.set_facecolor("none")
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', text, count=1)
    return Markup(re.sub("|".join(_THEME), lambda match: _THEME[match[0]], text))
