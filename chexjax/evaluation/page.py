"""`report.html`: a run, or a score, on one self-contained page: light or dark, wide or narrow, without scripts."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from ml_collections import ConfigDict

from chexjax.evaluation import charts, tables
from chexjax.evaluation.predictions import Matched
from chexjax.evaluation.published import published
from chexjax.evaluation.summary import History, Summary
from chexjax.evaluation.tables import Table
from chexjax.explain.check import maps_table, pointing_table
from chexjax.explain.evidence import from_json
from chexjax.explain.maps import boxes_on_film
from chexjax.explain.overlay import compose
from chexjax.findings import is_nih
from chexjax.models.network import ENSEMBLE
from chexjax.templates import render

if TYPE_CHECKING:  # imported late: it loads TFDS, which scoring does not need
    from chexjax.data.prepared import Part
    from chexjax.data.sources.merge import Counts
    from chexjax.evaluation.evaluator import Predictions
    from chexjax.evaluation.localization import Example
    from chexjax.trust.kept import Trust

_SIDE: Final = 320  # of the example films, in pixels


def run_page(
    found: Summary,
    config: ConfigDict,
    parts: Mapping[str, "Part"],
    predictions: "Predictions",
    history: History,
    examples: Sequence["Example"],
    findings: Sequence[str],
    sources: Mapping[str, "Counts"],
    trust: "Trust",
) -> str:
    """The page of a training run.

    Args:
      found: as `metrics.json` holds it.
      parts: the films of each part of the split.
      sources: what each source gives to them, `Prepared.sources()`.
      examples: films to show.
      trust: what was fitted on validation; `found["trust"]` says how it does on these films.
    """
    simulated, nih = config.data.source == "phantom" and not config.data.sources, is_nih(findings)
    here = "simulated films" if simulated else f"split: {found['split_source']}"
    simulation = "simulated films in ChestX-ray14's layout"
    best = next(name for name in (ENSEMBLE, *found["networks"]) if name in found["networks"])
    calibrated = {f"{best}, calibrated": trust.calibrations[best].apply(predictions.probabilities[best])}
    shared = _sections(found, config, parts, predictions, examples, findings, sources, calibrated)
    shared["tables"] |= {
        "fitted": tables.fitted_calibration_table(found, best, findings),
        "abstaining": tables.abstaining_table(found, best, findings),
        "gate": tables.gate_table(found) if found["trust"]["gate"] else None,
        "maps": Table("Maps", *maps_table(found["maps"]["maps"])) if found["maps"] else None,
        "pointing": _pointing(found["maps"]) if found["maps"] else None,
    }
    films, ending = _HEADINGS[:3], _HEADINGS[3:]
    headings = ["Results", "Training", *films, "Abstaining", "The gate", *ending]
    if nih:
        headings.insert(1, "Published figures")
    return render(
        "report.html",
        **shared,
        title="chexjax training report",
        subtitle=f"{config.regime} training of {shared['models']}; {found['films']:,} {found['split']} films, "
        f"step {found['step']}",
        headings=headings,
        best=best,
        source=simulation if simulated else f"{config.data.sources or config.data.dir}, split {config.data.split}",
        simulated=simulated,
        nih=nih,
        published={
            "runs": tables.published_table(found, here, findings),
            "means": tables.published_means_table(),
            "localization": tables.published_localization_table(),
        }
        if nih
        else None,
        splits=[f"{name}: {text}" for name, text in published()["splits"].items()],
        curves=charts.as_svg(charts.curves(history, list(found["networks"]))) if history else None,
    )


def _pointing(found: Summary) -> Table | None:
    evidence = from_json(found.get("pointing", {}))
    return Table("Pointing", *pointing_table(evidence)) if any(each.kinds for each in evidence.values()) else None


def external_page(
    found: Summary,
    config: ConfigDict,
    parts: Mapping[str, "Part"],
    predictions: "Predictions",
    examples: Sequence["Example"],
    findings: Sequence[str],
    sources: Mapping[str, "Counts"],
) -> str:
    """The page of a checkpoint on another data set; the arguments are those of `run_page`."""
    shared = _sections(found, config, parts, predictions, examples, findings, sources)
    return render(
        "external.html",
        **shared,
        title="chexjax on another data set",
        subtitle=f"{shared['models']} of {found['checkpoint']}, step {found['step']}; {found['films']:,} films of "
        f"{found['patients']:,} patients ({found['split']})",
        headings=["Results", "Findings of both", *_HEADINGS],
        source=f"the films of the run in {found['checkpoint']}",
        simulated=False,
        nih=False,
        published=None,
    )


_HEADINGS: Final = (
    "Films",
    "ROC curves",
    "Reliability",
    "At thresholds",
    "Where the networks look",
    "Example films",
    "Model card",
    "Configuration and versions",
)


def _sections(
    found: Summary,
    config: ConfigDict,
    parts: Mapping[str, "Part"],
    predictions: "Predictions",
    examples: Sequence["Example"],
    findings: Sequence[str],
    sources: Mapping[str, "Counts"],
    calibrated: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """What the pages of a run and of its checkpoint elsewhere share; `calibrated` joins the reliability charts."""
    networks = found["networks"]
    localization = found["localization"]
    labels, probabilities = predictions.films.labels, predictions.probabilities
    reliable = {**probabilities, **(calibrated or {})}
    return {
        "found": found,
        "config": config,
        "models": ", ".join(f"{name} ({networks[name]['model']})" for name in networks if name != ENSEMBLE),
        "names": list(networks),
        "tables": {
            "auroc": tables.auroc_table(found, findings),
            "calibration": tables.calibration_table(found, findings),
            "films": tables.films_table(parts, findings),
            "sources": tables.sources_table(sources, findings),
            "confusions": [tables.confusion_table(name, entry, findings) for name, entry in networks.items()],
            "localization": tables.localization_tables(localization) if localization["cases"] else None,
            "maps": None,
            "pointing": None,
            "versions": Table("", ["", ""], [*found["versions"].items()], words=True),
        },
        "roc": charts.svg_by_finding(charts.draw_roc, labels, probabilities, findings),
        "reliability": charts.svg_by_finding(charts.draw_reliability, labels, reliable, findings),
        "reliable": list(reliable),
        "examples": [
            {
                "finding": example.finding,
                "name": example.name,
                "kind": example.kind,
                "network": example.network,
                "probability": example.probability,
                "jpeg": base64.b64encode(picture_of(example)).decode(),
            }
            for example in examples
        ],
    }


def picture_of(example: "Example") -> bytes:
    """The film under its map, the map's first box and the true boxes, as JPEG."""
    height, width = example.film.shape
    true_boxes = [
        (left * width, top * height, (left + wide) * width, (top + high) * height)
        for left, top, wide, high in example.boxes
    ]
    boxes = boxes_on_film(example.map, width, height)[:1]
    buffer = io.BytesIO()
    compose(example.film, example.map, boxes, true_boxes, side=_SIDE, line=2).save(buffer, "jpeg", quality=82)
    return buffer.getvalue()


def score_page(found: Mapping[str, Any], films: Matched, of: Sequence[Table]) -> str:
    """The page of a score: its notes, its tables, the curves."""
    findings, labels, models = films.findings, films.labels, films.models
    calibrated = films.probabilities
    ending = ["ROC curves", *(["Reliability"] if calibrated else []), "Not a medical device"]
    return render(
        "score.html",
        title=" and ".join(models),
        subtitle=f"{found['films']:,} films of {found['patients']:,} patients, labels from {found['labels']}",
        headings=["Notes", *(table.title for table in of), *ending],
        notes=found["notes"],
        tables=of,
        names=list(models),
        roc=charts.svg_by_finding(charts.draw_roc, labels, models, findings),
        calibrated=list(calibrated),
        reliability=charts.svg_by_finding(charts.draw_reliability, labels, calibrated, findings),
    )
