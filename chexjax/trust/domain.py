"""How unlike the training films a film is, and whether it is turned, mirrored or inverted: by a network's features.

The score is a film's Mahalanobis distance from the training films (Lee et al., "A simple unified framework for
detecting out-of-distribution samples", NeurIPS 2018, without classes), with the covariance of probabilistic PCA
(Tipping & Bishop, J. R. Stat. Soc. B 1999, equation 12): whole along the leading directions, and one variance for all
the others, which a few thousand films do not determine. The pose is told by linear discriminant analysis in those
directions, fitted on training films that were turned, mirrored and inverted for it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Final

import numpy as np
from threadpoolctl import ThreadpoolController

from chexjax.data.verdict import Verdict
from chexjax.trust.features import POSES

FALSE_ALARMS: Final = 0.01
DIRECTIONS: Final = 256  # of the covariance, at most
_FILMS_A_DIRECTION: Final = 8  # at least
_SHRINKAGE: Final = 0.1  # of the covariance within poses, towards a multiple of the identity


@dataclass(frozen=True)
class Domain:
    """What the training films of one network look like to it.

    Attributes:
      mean: float32 (features,), see `features.pool_features`.
      basis: float32 (features, directions); deviations from the mean times this have variance 1.
      scales: float32 (directions,), the standard deviation along each.
      rest: the variance along every other direction.
      weights, offsets: float32 (directions, poses) and (poses,), the discriminants of `POSES` in this order.
      limit: scores above it are doubtful.
      pose_limit: so is log odds above this that a film is in another pose than upright.
      false_alarms: the share of validation films that lies above each of the two.
    """

    mean: np.ndarray
    basis: np.ndarray
    scales: np.ndarray
    rest: float
    weights: np.ndarray
    offsets: np.ndarray
    limit: float
    pose_limit: float
    false_alarms: float

    @classmethod
    def fit(
        cls, training: np.ndarray, posed: np.ndarray, held_out: np.ndarray, false_alarms: float = FALSE_ALARMS
    ) -> "Domain | None":
        """From pooled features; None of fewer films than a covariance takes.

        Args:
          training: (films, features) of training films.
          posed: (films, poses, features) of some of them, in every pose of `POSES`.
          held_out: (films, features) of validation films, which set the limits.
          false_alarms: the share of them that may lie above each limit.
        """
        directions = min(DIRECTIONS, len(training) // _FILMS_A_DIRECTION, training.shape[1] - 1)
        if directions < 1 or not len(posed) or not len(held_out):
            return None
        mean = training.mean(axis=0, dtype=np.float64)
        deviations = training - mean
        # The leading eigenvectors of the covariance, out of the product of films: there are fewer films than features.
        values, vectors = np.linalg.eigh(deviations @ deviations.T / len(training))
        values, vectors = values[::-1][:directions], vectors[:, ::-1][:, :directions]
        if values[-1] <= 1e-12 * values[0]:  # features that hardly differ, as those of an untrained network may
            return None
        scales = np.sqrt(values)
        basis = deviations.T @ vectors / np.sqrt(len(training)) / values
        total = float(np.square(deviations).sum() / len(training))
        rest = max(total - float(values.sum()), 1e-6 * total) / (training.shape[1] - directions)
        weights, offsets = _discriminants((posed - mean) @ basis)
        mean, basis, scales, weights, offsets = (
            array.astype(np.float32) for array in (mean, basis, scales, weights, offsets)
        )
        fitted = cls(mean, basis, scales, rest, weights, offsets, math.inf, math.inf, false_alarms)
        limit = _upper(fitted.score(held_out), false_alarms)
        pose_limit = max(_upper(fitted.pose_odds(held_out)[0], false_alarms), 0.0)
        return replace(fitted, limit=limit, pose_limit=pose_limit)

    def score(self, features: np.ndarray) -> np.ndarray:
        """The squared distance over the number of features, float64 (films,); around 1 for films as in training."""
        deviations = features.astype(np.float64) - self.mean
        along = deviations @ self.basis
        beyond = np.square(deviations).sum(axis=1) - np.square(along * self.scales).sum(axis=1)
        return (np.square(along).sum(axis=1) + np.maximum(beyond, 0.0) / self.rest) / len(self.mean)

    def pose_odds(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The log odds that a film is not upright, float64 (films,), and which other pose it is likeliest in."""
        evidence = (features.astype(np.float64) - self.mean) @ self.basis @ self.weights + self.offsets
        return np.logaddexp.reduce(evidence[:, 1:], axis=1) - evidence[:, 0], 1 + evidence[:, 1:].argmax(axis=1)

    def judge(self, features: np.ndarray) -> list[Verdict]:
        """A verdict a film."""
        return self.measure(features)[1]

    def measure(self, features: np.ndarray) -> tuple[np.ndarray, list[Verdict]]:
        """Every film's `score`, and its verdict."""
        # OpenBLAS's other threads wait for more work in a busy loop, here while the network computes the next batch.
        with _blas().limit(limits=1, user_api="blas"):
            names, scores, posed = list(POSES), self.score(features), self.pose_odds(features)
        verdicts = []
        for score, odds, pose in zip(scores, *posed, strict=True):
            reasons = [f"unlike the training films ({score / self.limit:.3g} times the limit)"]
            reasons = reasons if score > self.limit else []
            reasons += [f"seems {names[pose]}"] if odds > self.pose_limit else []
            verdicts.append(Verdict("doubtful", tuple(reasons)) if reasons else Verdict())
        return scores, verdicts

    def to_arrays(self) -> dict[str, np.ndarray]:
        """What `from_arrays` takes back."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_arrays(cls, found: Mapping[str, np.ndarray]) -> "Domain":
        """Checked: any other arrays than `to_arrays` gives raise ValueError, KeyError or TypeError."""
        known: dict[str, Any] = {field.name: found[field.name] for field in fields(cls)}
        features, directions = known["basis"].shape
        shapes = {"mean": (features,), "basis": (features, directions), "scales": (directions,)}
        shapes |= {"weights": (directions, len(POSES)), "offsets": (len(POSES),)}
        for name, array in known.items():
            if array.shape != shapes.get(name, ()) or not np.isfinite(array).all():
                raise ValueError(f"{name} of shape {array.shape}")
        numbers = {name: float(array) for name, array in known.items() if name not in shapes}
        if not (known["scales"] > 0).all() or numbers["rest"] <= 0 or numbers["limit"] <= 0:
            raise ValueError("a variance or limit that is not above 0")
        return cls(**known | numbers)


@cache
def _blas() -> ThreadpoolController:
    """NumPy's and SciPy's BLAS, as they are loaded by now."""
    return ThreadpoolController()


def _discriminants(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Linear discriminant analysis of (films, poses, directions): weights (directions, poses), offsets (poses,)."""
    centres = points.mean(axis=0)
    within = (points - centres).reshape(-1, points.shape[-1])
    covariance = within.T @ within / len(within)
    level = np.trace(covariance) / len(covariance)
    covariance = (1 - _SHRINKAGE) * covariance + (_SHRINKAGE * level + 1e-12) * np.eye(len(covariance))
    weights = np.linalg.solve(covariance, centres.T)
    return weights, -0.5 * (centres.T * weights).sum(axis=0)


def _upper(values: np.ndarray, share: float) -> float:
    """The number above which a further value lies with a probability of at most `share`; of too few, the greatest."""
    rank = min(math.ceil((1 - share) * (len(values) + 1) - 1e-9), len(values))
    return float(np.partition(values, rank - 1)[rank - 1])
