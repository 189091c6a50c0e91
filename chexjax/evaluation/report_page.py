"""`report.html`: a training's results on one page that stands alone."""

import io
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageDraw

import chexjax
from chexjax.data.prepared import Part
from chexjax.evaluation import page
from chexjax.evaluation.evaluator import ENSEMBLE, Predictions
from chexjax.evaluation.figures import count_cell, told
from chexjax.evaluation.localization import CENTRE, RANDOM, enlarge, peak_box
from chexjax.evaluation.plots import History
from chexjax.evaluation.published import published
from chexjax.findings import FINDINGS

PACKAGES: Final = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")
_SIDE: Final = 224  # of the example films, in pixels


@dataclass(frozen=True)
class Example:
    """One finding on one film, with where the networks look: uint8 film (height, width), float map (h, w).

    `boxes` are the true ones, (boxes, 4), as `localization` has them; `kind` says why the film is shown.
    """

    name: str
    finding: str
    kind: str
    network: str
    probability: float
    film: np.ndarray
    map: np.ndarray
    boxes: np.ndarray


def versions() -> dict[str, str]:
    """What computed the results."""
    found = {"chexjax": chexjax.__version__, "python": platform.python_version()} | {
        package: version(package) for package in PACKAGES
    }
    device = jax.devices()[0]
    return found | {"devices": f"{jax.device_count()} x {device.device_kind} ({device.platform})"}


def as_page(
    found: dict[str, Any],
    config: ConfigDict,
    parts: Mapping[str, Part],
    predictions: Predictions,
    history: History,
    examples: Sequence[Example],
) -> str:
    """The page.

    Args:
      found: as `metrics.json` holds it.
      parts: the films of each part of the split.
      examples: films to show.
    """
    names = list(found["networks"])
    models = ", ".join(f"{name} ({found['networks'][name]['model']})" for name in names if name != ENSEMBLE)
    simulated = config.data.source == "phantom"
    sections = {
        "Results": _results(found, simulated),
        "Published figures": _published(found, simulated),
        "Training": _curves(history, names, found),
        "Films": _counts(parts),
        "ROC curves": page.roc_charts(predictions.films.labels, predictions.probabilities, FINDINGS),
        "Reliability": page.reliability_charts(predictions.films.labels, predictions.probabilities, FINDINGS)
        + page.paragraph("Above the diagonal: more films had the finding than was predicted.", "note"),
        "At thresholds": page.paragraph(
            "Thresholds are taken from the validation films of the same checkpoint and applied here unchanged."
        )
        + "".join(
            page.folded(f"{name}: confusions", page.confusion_table(FINDINGS, found["networks"][name]))
            for name in names
        ),
        "Where the networks look": _places(found["localization"]),
        "Example films": _examples(examples),
        "Model card": _card(found, config, models, simulated),
        "Configuration and versions": page.table(
            ["", ""], [[name, text] for name, text in found["versions"].items()], words=True
        )
        + page.folded("The whole configuration", f"<pre>{page.escape(config.to_json(indent=1))}</pre>"),
    }
    subtitle = f"{config.regime} training of {models}; {found['films']:,} {found['split']} films, step {found['step']}"
    return page.page("chexjax training report", subtitle, sections)


def _results(found: dict[str, Any], simulated: bool) -> str:
    networks = found["networks"]
    heads = ["", "positive", *(f"{name}\n{entry['model']}" for name, entry in networks.items())]
    means = [told(entry["mean_auroc"], entry["mean_auroc_interval"]) for entry in networks.values()]
    rows = [["mean AUROC", "", *means]]
    for finding in FINDINGS:
        cells = [told(entry["auroc"][finding], entry["auroc_interval"][finding]) for entry in networks.values()]
        count = count_cell(found["positives"][finding], found["known"][finding], found["films"])
        rows.append([finding, count, *cells])
    plain = ("average_precision", "brier", "expected_calibration_error")
    heads_of = [f"{name}\n{figure}" for name in networks for figure in ("AP", "Brier", "ECE")]
    others = [
        [finding, *(_plain(entry[figure][finding]) for entry in networks.values() for figure in plain)]
        for finding in FINDINGS
    ]
    warning = page.paragraph("Simulated films: the figures say that the machinery works, nothing more.", "warn")
    return (
        (warning if simulated else "")
        + page.table(heads, rows, lead=1)
        + page.bullets(found["notes"])
        + page.folded("Average precision and calibration", page.table(["", *heads_of], others))
    )


def _published(found: dict[str, Any], simulated: bool) -> str:
    report, own = published()["report"], found["networks"]
    columns = report["columns"]
    where = "simulated films" if simulated else f"split: {found['split_source']}"
    heads = ["", *(f"{name}, here\n{where}" for name in own), *(f"{c}\nsplit: {report['split']}" for c in columns)]
    rows = [["mean", *(_plain(e["mean_auroc"]) for e in own.values()), *(_plain(c["mean"]) for c in columns.values())]]
    for finding in FINDINGS:
        ours = [_plain(entry["auroc"][finding]) for entry in own.values()]
        rows.append([finding, *ours, *(_plain(column["auroc"][finding]) for column in columns.values())])
    told_epochs = [column["convergence_epoch"] for column in columns.values()]
    ours = [entry.get("convergence_epoch") for entry in own.values()]
    rows.append(["converged at epoch", *("" if epoch is None else f"{epoch:g}" for epoch in [*ours, *told_epochs])])
    others = [[row["who"], row["split"], row["mean"]] for row in published()["others"]]
    splits = [f"{name}: {text}" for name, text in published()["splits"].items()]
    return (
        page.paragraph("Figures on different splits do not compare; each column names its own.")
        + page.table(heads, rows, lead=1)
        + "<h3>Means that others report</h3>"
        + page.table(["who", "split", "mean AUROC"], others)
        + page.bullets(splits)
    )


def _curves(history: History, names: Sequence[str], found: dict[str, Any]) -> str:
    if not history:
        return page.paragraph("No validation was recorded.")
    alone = [name for name in names if name != ENSEMBLE]
    epochs = (0.0, max(entry["epoch"] for entry in history))
    losses, colours, dashed = [], [], []
    for k, name in enumerate(names):
        if name == ENSEMBLE:
            continue
        for what in (f"train/{name}/cross_entropy", f"val/{name}/loss"):
            losses.append([(entry["epoch"], entry[what]) for entry in history if what in entry])
            colours.append(k)
            dashed.append(what.startswith("train"))
    aurocs = [[(entry["epoch"], entry[f"val/{name}/auroc"]) for entry in history] for name in names]
    left = page.chart(
        losses, "cross-entropy in nats; dashed: training", ("epoch", ""), epochs, _range(losses),
        dots=True, colours=colours, dashed=dashed,
    )  # fmt: skip
    right = page.chart(aurocs, "mean validation AUROC", ("epoch", ""), epochs, _range(aurocs), dots=True)
    converged = [f"{name} converged at epoch {found['networks'][name]['convergence_epoch']:g}" for name in alone]
    return page.key(names) + f'<div class="pair">{left}{right}</div>' + page.bullets(converged)


def _range(lines: Sequence[Sequence[page.Point]]) -> page.Point:
    values = [y for line in lines for _, y in line if np.isfinite(y)] or [0.0, 1.0]
    return min(values), max(values) if max(values) > min(values) else min(values) + 1e-3


def _counts(parts: Mapping[str, Part]) -> str:
    rows = [
        ["films", *(f"{len(part.names):,}" for part in parts.values())],
        ["patients", *(f"{len(set(part.patients)):,}" for part in parts.values())],
        ["without a finding", *(f"{part.healthy:,}" for part in parts.values())],
    ]
    for k, finding in enumerate(FINDINGS):
        cells = [count_cell(part.positives[k], part.known[k], len(part.names)) for part in parts.values()]
        rows.append([finding, *cells])
    return page.table(["", *parts], rows) + page.paragraph("No patient is in two parts.", "note")


def _places(found: dict[str, Any]) -> str:
    if not found["cases"]:
        return page.paragraph("No film of this split has a box.")
    at = ("0.1", "0.3", "0.5", "0.7")
    heads = ["cases", "maps of", "pointing game", *(f"IoU {t}" for t in at), *(f"IoBB {t}" for t in at)]
    tables = []
    for group, of in found["groups"].items():
        rows = [
            [
                f"{group}: {of['cases']}" if not k else "",
                name,
                f"{source['pointing']:.3f} ({source['pointing_interval'][0]:.2f}-{source['pointing_interval'][1]:.2f})",
                *(f"{source[kind][t]:.3f}" for kind in ("iou", "iobb") for t in at),
            ]
            for k, (name, source) in enumerate(of["sources"].items())
        ]
        tables.append(rows)
    elsewhere = [
        [
            row["who"],
            "" if row["pointing"] is None else f"{row['pointing']:.3f}",
            *(f"{of:.3f} at {t}" for kind in ("iou",) for t, of in row[kind].items()),
            *([""] * (3 - len(row["iou"]))),
            ", ".join(f"{of:.3f} at {t}" for t, of in row["iobb"].items()),
        ]
        for row in published()["localization"]
    ]
    return (
        page.paragraph(
            f"The maps that prediction shows, against {found['cases']:,} findings with true boxes. Only what lies "
            f"above the {RANDOM}, of the same resolution, and the {CENTRE} is earned: large boxes are hit by accident."
        )
        + page.table(heads, tables[0])
        + page.folded("Per finding", page.table(heads, [row for rows in tables[1:] for row in rows]))
        + "<h3>Published, on the NIH boxes</h3>"
        + page.table(["who", "pointing game", "IoU", "", "", "IoBB"], elsewhere)
    )


def _examples(examples: Sequence[Example]) -> str:
    if not examples:
        return page.paragraph("No film of this split has a finding.")
    figures = [
        page.image(
            _overlay(example),
            "jpeg",
            f"{example.finding} on {example.name}",
            f"{example.finding}, {example.kind}: {example.probability:.3f} ({example.name})",
        )
        for example in examples
    ]
    return page.paragraph(
        f"Per finding the film with it that {examples[0].network} is surest of, and the one it misses most. Red: where "
        "the map is high; white: the map's box; green: the true boxes, where there are any."
    ) + page.grid(figures)


def _overlay(example: Example) -> bytes:
    """The film under its map, as JPEG."""
    grey = np.asarray(Image.fromarray(example.film).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), np.float64)
    heat = enlarge(example.map, _SIDE)
    heat = (heat - heat.min()) / ((heat.max() - heat.min()) or 1.0)
    cover = 0.55 * heat[..., None] ** 2  # squared, so that a film stays a film where its map is low
    picture = Image.fromarray((grey[..., None] * (1 - cover) + np.array([255, 60, 20]) * cover).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    own = peak_box(example.map)
    outlined = [(box, (80, 230, 110)) for box in example.boxes] + ([(own, (255, 255, 255))] if own else [])
    for (left, top, width, height), colour in outlined:
        corners = np.array([left, top, left + width, top + height]) * _SIDE
        draw.rectangle([*np.clip(corners, 0, _SIDE - 1)], outline=colour)
    buffer = io.BytesIO()
    picture.save(buffer, "jpeg", quality=82)
    return buffer.getvalue()


def _card(found: dict[str, Any], config: ConfigDict, models: str, simulated: bool) -> str:
    source = (
        "simulated films in ChestX-ray14's layout" if simulated else f"{config.data.dir}, split {config.data.split}"
    )
    return page.paragraph(
        "Not a medical device. Nothing here is fit to diagnose, triage or reassure anybody.", "warn"
    ) + page.bullets(
        [
            f"What it is: {models}, {config.regime} training, films of {config.data.size} px"
            + (", bright artefacts removed" if config.data.clean else ""),
            f"Learnt from: {source}",
            "For: research on training, comparing and explaining classifiers; figures that can be repeated.",
            "Not for: clinical use of any kind; lateral films; children; films from elsewhere, not evaluated anew.",
            "Labels of ChestX-ray14 were mined from reports by a program: some are wrong, and so is what is learnt "
            "from them; the figures above are measured against labels of the same making.",
            "One hospital's frontal films. Habits of imaging (AP or PA, drains, markers) go with findings, and a "
            "network can live off them; compare subgroups with python -m chexjax.evaluation.score --by=sex,age,view.",
            "A low probability does not mean healthy: it follows the finding's frequency. Use the thresholds.",
            "Maps show where a network's evidence lies on a coarse grid, not the outline of a finding.",
        ]
    )


def _plain(figure: float | None) -> str:
    return "n/a" if figure is None else f"{figure:.4f}"
