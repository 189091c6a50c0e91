"""All figures of one model on one set of films, as `metrics.json` holds them; None for what cannot be told."""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from chexjax.evaluation import metrics
from chexjax.findings import FINDINGS

Figures = dict[str, Any]
# finding -> rule -> threshold: a film is called where its probability is at least the threshold
Thresholds = dict[str, dict[str, float | None]]

SENSITIVITY: Final = 0.9  # of the second threshold
RESAMPLES: Final = 1000
INTERVALS: Final = (
    f"intervals are 95 %, from {RESAMPLES:,} resamples of the patients (seed 0), too narrow below some ten positives; "
    "DeLong's, for films taken as independent, are in metrics.json"
)


_CALIBRATION: Final = {
    "brier": metrics.brier,
    "expected_calibration_error": metrics.expected_calibration_error,
}


def figures(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[str],
    findings: Sequence[str] = FINDINGS,
    thresholds: Thresholds | None = None,
    calibration: bool = True,
) -> Figures:
    """AUROC with its intervals, precision and calibration per finding; at `thresholds`, confusions.

    Args:
      labels: (films, findings); NaN is not known, and like a soft label left out (see `metrics`).
      probabilities: the same shape.
      patients: of each film; films of one are drawn together in the bootstrap.
      findings: the names of the columns.
      thresholds: from other films (`find_thresholds`); None leaves the confusions out.
      calibration: whether the numbers are probabilities; of others, only their order counts.
    """
    areas = metrics.bootstrap_aurocs(labels, probabilities, patients, RESAMPLES)
    aurocs = metrics.auroc(labels, probabilities)
    told = np.isfinite(aurocs)
    means = np.array([metrics.mean_over_findings(row) for row in areas[:, told]])  # of the findings that have one
    precisions = metrics.average_precision(labels, probabilities)
    intervals = np.stack(metrics.percentile_interval(areas), axis=1)
    delong = np.stack(metrics.delong_interval(labels, probabilities), axis=1)
    found: Figures = {
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
        found["at_thresholds"] = {
            finding: {
                rule: _confused(labels[:, k], probabilities[:, k], threshold)
                for rule, threshold in thresholds.get(finding, {}).items()
            }
            for k, finding in enumerate(findings)
        }
    return found


def find_thresholds(
    labels: np.ndarray,
    probabilities: np.ndarray,
    findings: Sequence[str] = FINDINGS,
    sensitivity: float = SENSITIVITY,
) -> Thresholds:
    """Per finding the thresholds of Youden's point and of `sensitivity`, from validation; None where there is none.

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


def undefined(labels: np.ndarray, findings: Sequence[str] = FINDINGS) -> dict[str, str]:
    """The findings that have no AUROC, each with the reason."""
    reasons = {finding: metrics.why_undefined(labels[:, k]) for k, finding in enumerate(findings)}
    return {finding: reason for finding, reason in reasons.items() if reason}


def told(figure: float | None, interval: Sequence[float] | None = None) -> str:
    """A figure as tables show it: `0.7875`, or `0.7875 (0.765-0.809)` with its interval."""
    if figure is None or math.isnan(figure):
        return "n/a"
    return f"{figure:.4f}" + (f" ({interval[0]:.3f}-{interval[1]:.3f})" if interval else "")


def count_cell(positives: int, known: int, films: int) -> str:
    """The positive films as tables show them: `34`, or `34 of 1,200` where the finding is known of so many alone."""
    return f"{positives:,}" if known == films else f"{positives:,} of {known:,}"


def counts(labels: np.ndarray, findings: Sequence[str] = FINDINGS) -> dict[str, dict[str, int]]:
    """How many films the figures of each finding stand on: "known" and "positives", each by finding."""
    found = metrics.count_films(labels)
    return {name: _per(findings, values.tolist()) for name, values in found._asdict().items()}


def number(figure: float) -> float | None:
    """JSON knows no NaN."""
    return float(figure) if math.isfinite(figure) else None


def numbers(figures: Sequence[float] | np.ndarray) -> list[float] | None:
    """A list, None unless all of it can be told."""
    return [float(figure) for figure in figures] if np.isfinite(figures).all() else None


def _per(findings: Sequence[str], values: Any) -> dict[str, Any]:
    return dict(zip(findings, values, strict=True))


def _confused(labels: np.ndarray, probabilities: np.ndarray, threshold: float | None) -> Figures | None:
    if threshold is None:
        return None
    counts = metrics.confusion(labels, probabilities, threshold)
    shares = {name: number(getattr(counts, name)) for name in ("sensitivity", "specificity", "precision")}
    return counts._asdict() | shares
