"""Pictures of figures, as PNG files."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from chexjax.evaluation import metrics
from chexjax.evaluation.evaluator import ENSEMBLE

matplotlib.use("Agg")
from matplotlib import pyplot as plt

History = list[dict[str, float]]  # an entry a validation: "step", "epoch", "train/...", "val/..."


def plot_curves(path: Path, history: History, names: tuple[str, ...]) -> None:
    """Training and validation loss, and mean validation AUROC, against the epoch; a colour a network."""
    epochs = [entry["epoch"] for entry in history]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for k, name in enumerate(names):
        colour = f"C{k}"
        if name != ENSEMBLE:
            train = [entry[f"train/{name}/cross_entropy"] for entry in history]
            left.plot(epochs, train, ".--", color=colour, label=f"{name}, training")
            validation = [entry[f"val/{name}/loss"] for entry in history]
            left.plot(epochs, validation, ".-", color=colour, label=f"{name}, validation")
        aurocs = [entry[f"val/{name}/auroc"] for entry in history]
        right.plot(epochs, aurocs, ".-", color="0.4" if name == ENSEMBLE else colour, label=name)
    for axes, title in ((left, "binary cross-entropy (nats)"), (right, "mean validation AUROC")):
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_roc(path: Path, labels: np.ndarray, probabilities: Mapping[str, np.ndarray], findings: Sequence[str]) -> None:
    """A ROC curve per finding and model; labels and each model's probabilities are (films, findings)."""

    def draw(axes: Any, k: int, name: str) -> None:
        alarms, hits, _ = metrics.roc_curve(labels[:, k], probabilities[name][:, k])
        axes.plot(alarms, hits, label=f"{as_label(name)} {metrics.auroc(labels[:, k], probabilities[name][:, k]):.3f}")

    _panels(path, findings, probabilities, draw, "1 - specificity", "sensitivity")


def plot_reliability(
    path: Path, labels: np.ndarray, probabilities: Mapping[str, np.ndarray], findings: Sequence[str]
) -> None:
    """The share found against the probability predicted, per finding and model."""

    def draw(axes: Any, k: int, name: str) -> None:
        curve = metrics.reliability_curve(labels[:, k], probabilities[name][:, k])
        filled = curve.films > 0
        axes.plot(curve.predicted[filled], curve.observed[filled], ".-", label=as_label(name))

    _panels(path, findings, probabilities, draw, "predicted probability", "share with the finding")


def as_label(name: str) -> str:
    """A file's name in a legend: `$` begins no formula there, and one with `_` first is not left out."""
    label = name.replace("$", r"\$")
    return f" {label}" if label.startswith("_") else label


def _panels(
    path: Path,
    findings: Sequence[str],
    names: Mapping[str, Any],
    draw: Callable[[Any, int, str], None],
    x_label: str,
    y_label: str,
) -> None:
    columns = min(5, len(findings))
    rows = math.ceil(len(findings) / columns)
    size = (2.6 * columns, 2.7 * rows + 0.3)
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for k, axes in enumerate(grid.flat):
        if k >= len(findings):
            axes.axis("off")
            continue
        axes.plot([0, 1], [0, 1], ":", color="0.6")
        for name in names:
            draw(axes, k, name)
        axes.set(title=findings[k], xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
        axes.legend(fontsize=6, loc="lower right")
        axes.tick_params(labelsize=7)
    figure.supxlabel(x_label)
    figure.supylabel(y_label)
    figure.savefig(path, dpi=110)
    plt.close(figure)
