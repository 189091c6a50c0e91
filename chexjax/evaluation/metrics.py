"""Figures out of labels and scores. Pure NumPy in, floats out; nothing here knows a network."""

import numpy as np
from sklearn.metrics import roc_auc_score


def auroc(labels: np.ndarray, scores: np.ndarray) -> np.ndarray | float:
    """Area under the ROC curve; ties count half.

    Args:
      labels: 0 or 1, (films,) or (films, findings).
      scores: the same shape; only their order matters.

    Returns:
      A float, or float64 (findings,). NaN where the labels are all alike: there is nothing to tell apart.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.shape != scores.shape:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape} differ in shape")
    if labels.ndim == 1:
        return float(roc_auc_score(labels, scores)) if np.unique(labels).size == 2 else float("nan")
    return np.array([auroc(labels[:, k], scores[:, k]) for k in range(labels.shape[1])])


def mean_over_findings(figures: np.ndarray) -> float:
    """The mean of the findings that have a figure; NaN where none has."""
    present = np.asarray(figures, np.float64)
    present = present[np.isfinite(present)]
    return float(present.mean()) if present.size else float("nan")


def cross_entropy(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Binary cross-entropy per finding in nats, in float64: (films, findings) -> (findings,)."""
    labels, logits = np.asarray(labels, np.float64), np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore"):  # a diverged network's NaN is the caller's to tell
        return (np.logaddexp(0.0, logits) - labels * logits).mean(axis=0)


def convergence_epoch(losses: list[float], tolerance: float) -> int | None:
    """The first epoch (counted from 1) after which the loss never falls by more than `tolerance` below its value there.

    The report's "epoch of convergence": after it, a smaller loss almost never comes. The last epoch counts only as one
    after which nothing came, so a curve that is still falling converges at its end. None without any epoch.
    """
    for epoch, loss in enumerate(losses, start=1):
        later = losses[epoch:]
        if not later or loss - min(later) <= tolerance:
            return epoch
    return None
