"""All numbers of an evaluation in the form of `metrics.json`; None where a metric is undefined."""

import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import jax
import numpy as np
from ml_collections import ConfigDict

import chexjax
from chexjax.data.sources.nih import Entry
from chexjax.errors import DataError, first_ten
from chexjax.evaluation import metrics
from chexjax.evaluation.predictions import Matched, short
from chexjax.evaluation.views import VIEWS
from chexjax.formats import UNDEFINED, UNKNOWN
from chexjax.models.network import ENSEMBLE
from chexjax.workdir.thresholds import Thresholds

if TYPE_CHECKING:  # it loads TFDS, which scoring does not need
    from chexjax.evaluation.evaluator import Predictions

Summary = dict[str, Any]
History = list[dict[str, float]]  # one entry per validation: "step", "epoch", "train/...", "val/..."

SENSITIVITY: Final = 0.9  # of the second threshold
RESAMPLES: Final = 1000
INTERVALS: Final = (
    f"intervals are 95 %, from {RESAMPLES:,} resamples of the patients (seed 0), too narrow below some ten positives; "
    "DeLong's, for films taken as independent, are in metrics.json"
)
GROUPINGS: Final = ("sex", "age", "view")
MOST_GROUPS: Final = 12
PACKAGES: Final = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")

_CALIBRATION: Final = {
    "brier": metrics.brier,
    "expected_calibration_error": metrics.expected_calibration_error,
}


# One model


def summarize_model(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[str],
    findings: Sequence[str],
    thresholds: Thresholds | None = None,
    calibration: bool = True,
) -> Summary:
    """AUROC with its intervals, precision and calibration per finding; at `thresholds`, confusions.

    Args:
      labels: (films, findings); NaN (not known) and soft labels are left out (see `metrics`).
      probabilities: the same shape.
      patients: the patient of each film; the bootstrap draws patients.
      findings: the names of the columns.
      thresholds: from other films (`find_thresholds`); None: no confusion counts.
      calibration: whether the numbers are probabilities; if not, only their order counts.
    """
    areas = metrics.bootstrap_aurocs(labels, probabilities, patients, RESAMPLES)
    aurocs = metrics.auroc(labels, probabilities)
    is_defined = np.isfinite(aurocs)
    means = np.array([metrics.mean_over_findings(row) for row in areas[:, is_defined]])
    precisions = metrics.average_precision(labels, probabilities)
    intervals = np.stack(metrics.percentile_interval(areas), axis=1)
    delong = np.stack(metrics.delong_interval(labels, probabilities), axis=1)
    found: Summary = {
        "mean_auroc": number(metrics.mean_over_findings(aurocs)),
        "mean_auroc_interval": numbers(metrics.percentile_interval(means)),
        "auroc": _per(findings, map(number, aurocs)),
        "auroc_interval": _per(findings, map(numbers, intervals)),
        "auroc_interval_delong": _per(findings, map(numbers, delong)),
        "mean_average_precision": number(metrics.mean_over_findings(precisions)),
        "average_precision": _per(findings, map(number, precisions)),
        **{
            name: _per(findings, map(number, figure(labels, probabilities)) if calibration else [None] * len(findings))
            for name, figure in _CALIBRATION.items()
        },
    }
    if thresholds is not None:
        found["thresholds"] = thresholds
        found["at_thresholds"] = _at_thresholds(labels, probabilities, findings, thresholds)
    return found


def _at_thresholds(
    labels: np.ndarray, probabilities: np.ndarray, findings: Sequence[str], thresholds: Thresholds
) -> dict[str, dict[str, Summary | None]]:
    return {
        finding: {
            rule: _confusion_at(labels[:, k], probabilities[:, k], threshold)
            for rule, threshold in thresholds.get(finding, {}).items()
        }
        for k, finding in enumerate(findings)
    }


def find_thresholds(
    labels: np.ndarray,
    probabilities: np.ndarray,
    findings: Sequence[str],
    sensitivity: float = SENSITIVITY,
) -> Thresholds:
    """Per finding, the thresholds at Youden's point and at `sensitivity`, from validation; None if undefined.

    The keys are "youden" and, for a sensitivity of 0.9, "sensitivity_90".
    """
    return {
        finding: {
            "youden": number(metrics.youden_threshold(labels[:, k], probabilities[:, k])),
            f"sensitivity_{100 * sensitivity:g}": number(
                metrics.sensitivity_threshold(labels[:, k], probabilities[:, k], sensitivity)
            ),
        }
        for k, finding in enumerate(findings)
    }


def prevalence_thresholds(labels: np.ndarray, probabilities: np.ndarray, findings: Sequence[str]) -> Thresholds:
    """Per finding the threshold at which as many films are called as have it, the rule "prevalence".

    At a new site a finding's prevalence is often known where no film is labelled: from `labels`, too, only that share
    is taken, without the films whose label is unknown or soft. Where several films have the probability at the
    threshold, all are called. None where no film has the finding, or all have.
    """
    found: Thresholds = {}
    for k, finding in enumerate(findings):
        own = (labels[:, k] == 0) | (labels[:, k] == 1)
        positives = int(labels[own, k].sum())
        ranked = np.sort(probabilities[own, k])[::-1]
        found[finding] = {"prevalence": float(ranked[positives - 1]) if 0 < positives < len(ranked) else None}
    return found


def undefined_findings(labels: np.ndarray, findings: Sequence[str]) -> dict[str, str]:
    """The findings that have no AUROC, each with the reason."""
    reasons = {finding: metrics.why_undefined(labels[:, k]) for k, finding in enumerate(findings)}
    return {finding: reason for finding, reason in reasons.items() if reason}


def note_on_undefined(labels: np.ndarray, findings: Sequence[str]) -> list[str]:
    """A line on the findings that have no AUROC; none where all have one."""
    missing = undefined_findings(labels, findings)
    reasons = ", ".join(f"{finding}: {reason}" for finding, reason in missing.items())
    return [f"{UNDEFINED}, and left out of the mean: only one class in this split ({reasons})"] if missing else []


def number(figure: float) -> float | None:
    """None for NaN and infinity, which JSON does not have."""
    return float(figure) if math.isfinite(figure) else None


def numbers(figures: Sequence[float] | np.ndarray) -> list[float] | None:
    """A list; None unless all are finite."""
    return [float(figure) for figure in figures] if np.isfinite(figures).all() else None


def _per(findings: Sequence[str], values: Any) -> dict[str, Any]:
    return dict(zip(findings, values, strict=True))


def count_labels(labels: np.ndarray, findings: Sequence[str]) -> dict[str, dict[str, int]]:
    """The films behind each finding's metrics: "known" and "positives", each by finding."""
    counts = metrics.count_films(labels)
    return {name: _per(findings, values.tolist()) for name, values in counts._asdict().items()}


def _confusion_at(labels: np.ndarray, probabilities: np.ndarray, threshold: float | None) -> Summary | None:
    if threshold is None:
        return None
    counts = metrics.confusion(labels, probabilities, threshold)
    shares = {name: number(getattr(counts, name)) for name in ("sensitivity", "specificity", "precision")}
    return counts._asdict() | shares


# A training run


def summarize_run(
    predictions: "Predictions",
    validation: "Predictions",
    history: History,
    config: ConfigDict,
    step: int,
    split: str,
    findings: Sequence[str],
) -> Summary:
    """The numbers of a checkpoint on a split, with notes. Thresholds are taken from `validation`, and applied."""
    films = predictions.films
    networks: dict[str, Any] = {}
    for name, probabilities in predictions.probabilities.items():
        thresholds = find_thresholds(validation.films.labels, validation.probabilities[name], findings)
        networks[name] = {
            "model": "mean probability" if name == ENSEMBLE else model_title(config.networks[name]),
            **summarize_model(films.labels, probabilities, films.patients, findings, thresholds),
        }
        if name in predictions.losses:
            losses = [entry[f"val/{name}/loss"] for entry in history]
            converged = metrics.convergence_epoch(losses, config.convergence_tolerance)
            networks[name]["loss"] = number(predictions.losses[name])
            networks[name]["convergence_epoch"] = converged and round(history[converged - 1]["epoch"], 2)
    notes = [
        f"epoch of convergence: the first after which the validation loss never falls by more than "
        f"{config.convergence_tolerance} nats",
        INTERVALS,
    ]
    notes += _note_on_views(config.views)
    return {
        "split": split,
        "split_source": config.data.split,
        "views": config.views,
        "step": step,
        "films": len(films.names),
        "patients": len(set(films.patients)),
        **count_labels(films.labels, findings),
        "networks": networks,
        "notes": notes + note_on_undefined(films.labels, findings),
        "versions": versions(),
    }


def summarize_external(
    predictions: "Predictions",
    thresholds: Mapping[str, Thresholds],
    config: ConfigDict,
    step: int,
    split: str,
    findings: Sequence[str],
    notes: Sequence[str],
) -> Summary:
    """The numbers of a checkpoint on another data set.

    Args:
      thresholds: by network, from the run's validation; empty where they are not known.
      config: the run's.
      split: which films they are, in words.
      notes: what a reader should know first.

    Returns:
      As `summarize_run`; each network has "at_prevalence" besides, "thresholds" and "at_thresholds" of the rule
      "prevalence" (see `prevalence_thresholds`).
    """
    films = predictions.films
    networks: dict[str, Any] = {}
    for name, probabilities in predictions.probabilities.items():
        network = config.networks.get(name)
        here = prevalence_thresholds(films.labels, probabilities, findings)
        networks[name] = {
            "model": "mean probability" if network is None else model_title(network),
            **summarize_model(films.labels, probabilities, films.patients, findings, thresholds.get(name)),
            "at_prevalence": {
                "thresholds": here,
                "at_thresholds": _at_thresholds(films.labels, probabilities, findings, here),
            },
        }
        if name in predictions.losses:
            networks[name]["loss"] = number(predictions.losses[name])
    views = config.get("views", "one")
    return {
        "split": split,
        "views": views,
        "step": step,
        "films": len(films.names),
        "patients": len(set(films.patients)),
        **count_labels(films.labels, findings),
        "networks": networks,
        "notes": [*notes, INTERVALS, *_note_on_views(views), *note_on_undefined(films.labels, findings)],
        "versions": versions(),
    }


def _note_on_views(views: str) -> list[str]:
    count = len(VIEWS[views])
    return [f"probabilities are means over {count} views ({views}), at {count} forward passes a film"] * (count > 1)


def model_title(network: ConfigDict) -> str:
    """A network in a few words, by its config."""
    if network.shared_stages is None:
        return network.model
    shared = network.shared_stages
    return f"{network.model} {'branches after stage ' + str(shared) if shared else 'specialists'}"


def versions() -> dict[str, str]:
    """The versions of Python, JAX and the other libraries that computed the numbers."""
    found = {"chexjax": chexjax.__version__, "python": platform.python_version()} | {
        package: version(package) for package in PACKAGES
    }
    device = jax.devices()[0]
    return found | {"devices": f"{jax.device_count()} x {device.device_kind} ({device.platform})"}


# One or two prediction files


def summarize_scores(films: Matched, thresholds: Thresholds | None = None, by: Sequence[str] = ()) -> Summary:
    """The numbers of one or two models on the matched films.

    Args:
      thresholds: of the first model, from other films.
      by: groupings (`GROUPINGS`) for which every model is also summarised group by group.

    Raises:
      DataError: a grouping makes more than `MOST_GROUPS` groups.
    """
    first = next(iter(films.models))
    found: Summary = {
        "films": len(films.names),
        "patients": len(set(films.patients)),
        **count_labels(films.labels, films.findings),
        "networks": {
            name: summarize_model(
                films.labels,
                p,
                films.patients,
                films.findings,
                thresholds if name == first else None,
                calibration=name not in films.ranked_only,
            )
            for name, p in films.models.items()
        },
    }
    if len(films.models) == 2:
        found["comparison"] = compare(films)
    if by:
        found["subgroups"] = {kind: _subgroups(films, kind) for kind in by}
    return found


def compare(films: Matched) -> Summary:
    """The first model minus the second: DeLong's paired test per finding, with Holm's correction, and of the mean.

    Each with independent films (DeLong) and with films clustered by patient (Obuchowski).
    """
    (first, a), (second, b) = films.models.items()
    alone, together = (metrics.delong_test(films.labels, a, b, patients) for patients in (None, films.patients))
    corrected = {key: metrics.holm(test.p_value) for key, test in (("alone", alone), ("together", together))}
    is_defined = np.isfinite(alone.difference)
    samples = [
        np.array([metrics.mean_over_findings(row) for row in areas[:, is_defined]])
        for areas in (metrics.bootstrap_aurocs(films.labels, p, films.patients, RESAMPLES) for p in (a, b))
    ]
    return {
        "first": first,
        "second": second,
        "mean_difference": number(metrics.mean_over_findings(alone.difference)),
        "mean_difference_interval": numbers(metrics.percentile_interval(samples[0] - samples[1])),
        "findings": {
            finding: {
                "difference": number(alone.difference[k]),
                "interval": numbers([alone.low[k], alone.high[k]]),
                "z": number(alone.z[k]),
                "p_value": number(alone.p_value[k]),
                "p_value_holm": number(corrected["alone"][k]),
                "interval_by_patient": numbers([together.low[k], together.high[k]]),
                "z_by_patient": number(together.z[k]),
                "p_value_by_patient": number(together.p_value[k]),
                "p_value_by_patient_holm": number(corrected["together"][k]),
            }
            for k, finding in enumerate(films.findings)
        },
    }


def _subgroups(films: Matched, kind: str) -> dict[str, Summary]:
    """The numbers of each group of films, per model."""
    groups: dict[str, list[int]] = {}
    for k, entry in enumerate(films.entries):
        groups.setdefault(group_of(entry, kind), []).append(k)
    if len(groups) > MOST_GROUPS:
        raise DataError(
            f"--by={kind} makes {len(groups)} groups, {first_ten([short(name) for name in sorted(groups)])}"
        )
    patients = np.array(films.patients)
    return {
        name: {
            "films": len(rows),
            "patients": len(set(patients[rows])),
            **count_labels(films.labels[rows], films.findings),
            "networks": {
                model: summarize_model(
                    films.labels[rows],
                    p[rows],
                    patients[rows].tolist(),
                    films.findings,
                    calibration=model not in films.ranked_only,
                )
                for model, p in films.models.items()
            },
        }
        for name, rows in sorted(groups.items())
    }


def group_of(entry: Entry, kind: str) -> str:
    """The film's group of this `kind`; ages in steps of twenty years."""
    if kind == "age":
        low = min(entry.age // 20 * 20, 80)
        return UNKNOWN if entry.age < 0 else "80 and above" if low == 80 else f"{low:02d}-{low + 19}"
    return getattr(entry, kind) or UNKNOWN
