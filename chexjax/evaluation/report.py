"""Results as people read them: a table on the terminal, `metrics.json`, prediction CSVs, curves."""

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from chexjax.evaluation.evaluator import ENSEMBLE, Predictions
from chexjax.evaluation.figures import (
    INTERVALS,
    count_cell,
    counts,
    figures,
    find_thresholds,
    number,
    told,
    undefined,
)
from chexjax.evaluation.metrics import convergence_epoch
from chexjax.evaluation.plots import History, plot_curves
from chexjax.evaluation.predictions import write_predictions
from chexjax.evaluation.report_page import versions
from chexjax.evaluation.views import VIEWS
from chexjax.findings import FINDINGS

Results = dict[str, Any]


def results(
    predictions: Predictions, validation: Predictions, history: History, config: ConfigDict, step: int, split: str
) -> Results:
    """All figures of an evaluation, as `metrics.json` holds them; what cannot be told is None, with a note.

    Thresholds are taken from `validation`, and applied to `predictions`.
    """
    films = predictions.films
    networks: dict[str, Any] = {}
    for name, probabilities in predictions.probabilities.items():
        thresholds = find_thresholds(validation.films.labels, validation.probabilities[name])
        networks[name] = {
            "model": "mean probability" if name == ENSEMBLE else model_title(config.networks[name]),
            **figures(films.labels, probabilities, films.patients, thresholds=thresholds),
        }
        if name in predictions.losses:
            losses = [entry[f"val/{name}/loss"] for entry in history]
            converged = convergence_epoch(losses, config.convergence_tolerance)
            networks[name]["loss"] = number(predictions.losses[name])
            networks[name]["convergence_epoch"] = converged and round(history[converged - 1]["epoch"], 2)
    notes = [
        f"epoch of convergence: the first after which the validation loss never falls by more than "
        f"{config.convergence_tolerance} nats",
        INTERVALS,
    ]
    if (count := len(VIEWS[config.views])) > 1:
        notes.append(f"probabilities are means over {count} views ({config.views}), at {count} forward passes a film")
    if missing := undefined(films.labels):
        reasons = ", ".join(f"{finding}: {reason}" for finding, reason in missing.items())
        notes.append(f"n/a, and left out of the mean: only one class in this split ({reasons})")
    return {
        "split": split,
        "split_source": config.data.split,
        "views": config.views,
        "step": step,
        "films": len(films.names),
        "patients": len(set(films.patients)),
        **counts(films.labels),
        "networks": networks,
        "notes": notes,
        "versions": versions(),
    }


def model_title(network: ConfigDict) -> str:
    """A network in a few words, by its config."""
    if network.shared_stages is None:
        return network.model
    shared = network.shared_stages
    return f"{network.model} {'branches after stage ' + str(shared) if shared else 'specialists'}"


def format_table(found: Results, width: int = 120) -> str:
    """The table of AUROCs: the mean, then the findings in the report's order; a column a network.

    Intervals stand beside the figures where the table stays within `width` characters.
    """
    networks = found["networks"]
    heads = [f"{name} ({entry['model']})" for name, entry in networks.items()]
    numbers = {
        finding: count_cell(found["positives"][finding], found["known"][finding], found["films"])
        for finding in FINDINGS
    }
    longest = max(map(len, ["positive", *numbers.values()]))
    columns = [max(len(head), len("0.7875 (0.765-0.809)")) for head in heads]
    room = 20 + longest + sum(2 + column for column in columns) <= width
    widths = columns if room else [max(len(head), 8) for head in heads]

    def line(row: str, count: str, cells: list[str]) -> str:
        return f"{row:18}  {count:>{longest}}  " + "  ".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))

    def cells(figure: str, finding: str | None = None) -> list[str]:
        pairs = [(entry[figure], entry[f"{figure}_interval"]) for entry in networks.values()]
        if finding:
            pairs = [(figures[finding], intervals[finding]) for figures, intervals in pairs]
        return [told(figure, interval if room else None) for figure, interval in pairs]

    converged = [entry.get("convergence_epoch") for entry in networks.values()]
    return "\n".join(
        [
            f"{found['split']}: {found['films']} films, checkpoint of step {found['step']}",
            line("", "positive", heads),
            line("mean AUROC", "", cells("mean_auroc")),
            *(line(finding, numbers[finding], cells("auroc", finding)) for finding in FINDINGS),
            line("converged at epoch", "", ["" if epoch is None else f"{epoch:g}" for epoch in converged]),
            *found["notes"],
        ]
    )


def format_epoch(entry: dict[str, float], epochs: float, names: tuple[str, ...]) -> str:
    """A line for a validation: the epoch, and loss and mean AUROC of each network."""
    networks = [
        f"{name} {'' if name == ENSEMBLE else format(entry[f'val/{name}/loss'], '.4f') + ' '}"
        f"AUROC {told(entry[f'val/{name}/auroc'])}"
        for name in names
    ]
    return f"epoch {entry['epoch']:.4g}/{epochs:.4g}, validation loss and mean: " + ", ".join(networks)


def write(workdir: Path, found: Results, predictions: Predictions, history: History, page: str) -> None:
    """Writes `predictions_<network>.csv`, `curves.png`, the `page` as `report.html`, and `metrics.json`."""
    for name, probabilities in predictions.probabilities.items():
        write_predictions(workdir / f"predictions_{name}.csv", predictions.films.names, probabilities)
    plot_curves(workdir / "curves.png", history, tuple(predictions.probabilities))
    # Last, and each in one move: where metrics.json is, the rest is whole.
    curves = [{key: number(figure) for key, figure in entry.items()} for entry in history]
    for name, text in {
        "report.html": page,
        "metrics.json": json.dumps({**found, "history": curves}, indent=2, allow_nan=False),
    }.items():
        partial = workdir / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.rename(workdir / name)
