"""Writes the results of an evaluation: tables, curves, a page and, last, `metrics.json`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chexjax.evaluation import charts
from chexjax.evaluation.page import score_page
from chexjax.evaluation.predictions import Matched, write_predictions
from chexjax.evaluation.summary import History, Summary, number
from chexjax.evaluation.tables import score_tables, write_csv
from chexjax.files import write_whole
from chexjax.workdir.thresholds import METRICS

if TYPE_CHECKING:  # it loads TFDS, which scoring does not need
    from chexjax.evaluation.evaluator import Predictions


def write_run(
    workdir: Path,
    found: Summary,
    predictions: "Predictions",
    history: History,
    page: str,
    findings: Sequence[str],
) -> None:
    """Writes `predictions_<network>.csv`, `curves.png`, the `page` as `report.html`, and `metrics.json`.

    If `metrics.json` is there, the other files are complete. Without a `history` there are no curves.
    """
    for name, probabilities in predictions.probabilities.items():
        write_predictions(workdir / f"predictions_{name}.csv", predictions.films.names, probabilities, findings)
    if history:
        curves = charts.curves(history, list(predictions.probabilities))
        charts.write_png(workdir / "curves.png", curves, side=4.5)
    write_whole(workdir / "report.html", page)
    entries = [{key: number(figure) for key, figure in entry.items()} for entry in history]
    write_whole(workdir / METRICS, json.dumps({**found, "history": entries}, indent=2, allow_nan=False))


def write_score(out: Path, films: Matched, found: Summary) -> None:
    """Writes `tables.csv`, `roc.png`, `reliability.png`, `report.html` and, last, `metrics.json` into `out`.

    Without probabilities there is no `reliability.png`.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / METRICS).unlink(missing_ok=True)
    tables = score_tables(found, films.findings)
    write_csv(out / "tables.csv", tables)
    kinds = (("roc", charts.draw_roc, films.models), ("reliability", charts.draw_reliability, films.probabilities))
    for name, draw, models in kinds:
        path = out / f"{name}.png"
        if models:
            charts.write_png(path, charts.by_finding(draw, films.labels, models, films.findings))
        else:
            path.unlink(missing_ok=True)
    write_whole(out / "report.html", score_page(found, films, tables))
    write_whole(out / METRICS, json.dumps(found, indent=2, allow_nan=False))
