"""Results as people read them: a table on the terminal, `metrics.json`, prediction CSVs, curves."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from ml_collections import ConfigDict

from chexjax.evaluation.evaluator import ENSEMBLE, Predictions
from chexjax.evaluation.metrics import convergence_epoch, mean_over_findings
from chexjax.findings import FINDINGS

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Results = dict[str, Any]
History = list[dict[str, float]]  # an entry a validation: "step", "epoch", "train/...", "val/..."


def results(predictions: Predictions, history: History, config: ConfigDict, step: int, split: str) -> Results:
    """All figures of an evaluation, as `metrics.json` holds them; what cannot be told is None, with a note."""
    labels = predictions.films.labels
    positives = labels.sum(axis=0)
    missing = [FINDINGS[k] for k in range(len(FINDINGS)) if positives[k] in (0, len(labels))]
    networks: dict[str, Any] = {}
    for name, aurocs in predictions.aurocs.items():
        networks[name] = {
            "model": "mean probability" if name == ENSEMBLE else config.networks[name].model,
            "mean_auroc": _number(mean_over_findings(aurocs)),
            "auroc": {finding: _number(figure) for finding, figure in zip(FINDINGS, aurocs, strict=True)},
        }
        if name in predictions.losses:
            losses = [entry[f"val/{name}/loss"] for entry in history]
            converged = convergence_epoch(losses, config.convergence_tolerance)
            networks[name]["loss"] = predictions.losses[name]
            networks[name]["convergence_epoch"] = converged and round(history[converged - 1]["epoch"], 2)
    notes = [
        f"epoch of convergence: the first after which the validation loss never falls by more than "
        f"{config.convergence_tolerance} nats"
    ]
    if missing:
        notes.append(f"n/a, and left out of the mean: only one class in this split ({', '.join(missing)})")
    return {
        "split": split,
        "split_source": config.data.split,
        "step": step,
        "films": len(labels),
        "positives": dict(zip(FINDINGS, positives.tolist(), strict=True)),
        "networks": networks,
        "notes": notes,
    }


def format_table(found: Results) -> str:
    """The table of AUROCs: the mean, then the findings in the report's order; a column a network."""
    networks = found["networks"]
    heads = [f"{name} ({entry['model']})" for name, entry in networks.items()]
    widths = [max(len(head), 8) for head in heads]
    cells = [("mean AUROC", "", [entry["mean_auroc"] for entry in networks.values()])]
    for finding in FINDINGS:
        figures = [entry["auroc"][finding] for entry in networks.values()]
        cells.append((finding, str(found["positives"][finding]), figures))
    lines = [f"{found['split']}: {found['films']} films, checkpoint of step {found['step']}"]
    lines.append(f"{'':18}  {'positive':>8}  " + "  ".join(f"{h:>{w}}" for h, w in zip(heads, widths, strict=True)))
    for row, count, figures in cells:
        told = [_told(figure) for figure in figures]
        lines.append(f"{row:18}  {count:>8}  " + "  ".join(f"{t:>{w}}" for t, w in zip(told, widths, strict=True)))
    converged = {name: entry.get("convergence_epoch") for name, entry in networks.items()}
    told = ["" if epoch is None else f"{epoch:g}" for epoch in converged.values()]
    lines.append(
        f"{'converged at epoch':18}  {'':>8}  " + "  ".join(f"{t:>{w}}" for t, w in zip(told, widths, strict=True))
    )
    return "\n".join([*lines, *found["notes"]])


def format_epoch(entry: dict[str, float], epochs: float, names: tuple[str, ...]) -> str:
    """A line for a validation: the epoch, and loss and mean AUROC of each network."""
    told = [
        f"{name} {'' if name == ENSEMBLE else format(entry[f'val/{name}/loss'], '.4f') + ' '}"
        f"AUROC {_told(entry[f'val/{name}/auroc'])}"
        for name in names
    ]
    return f"epoch {entry['epoch']:.4g}/{epochs:.4g}, validation loss and mean: " + ", ".join(told)


def write(workdir: Path, found: Results, predictions: Predictions, history: History) -> None:
    """Writes `metrics.json`, `predictions_<network>.csv` and `curves.png` into `workdir`."""
    for name, probabilities in predictions.probabilities.items():
        write_predictions(workdir / f"predictions_{name}.csv", predictions.films.names, probabilities)
    plot_curves(workdir / "curves.png", history, tuple(predictions.probabilities))
    # Last, and in one move: where metrics.json is, the rest is whole.
    partial = workdir / "metrics.json.partial"
    told = [{key: _number(figure) for key, figure in entry.items()} for entry in history]
    partial.write_text(json.dumps({**found, "history": told}, indent=2, allow_nan=False))
    partial.rename(workdir / "metrics.json")


def write_predictions(path: Path, names: tuple[str, ...], probabilities: np.ndarray) -> None:
    """`Image Index` and a column of probabilities a finding; enough digits that nothing is lost to rounding."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Image Index", *FINDINGS])
        for name, row in zip(names, probabilities, strict=True):
            table.writerow([name, *(f"{p:.9g}" for p in row)])


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


def _told(figure: float | None) -> str:
    return "n/a" if figure is None or math.isnan(figure) else f"{figure:.4f}"


def _number(figure: float) -> float | None:
    """JSON knows no NaN."""
    return float(figure) if math.isfinite(figure) else None
