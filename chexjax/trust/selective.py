"""Selective prediction: a band of probabilities within which a finding is left to a radiologist.

Source: split conformal prediction, class by class (Vovk et al., "Algorithmic Learning in a Random World", 2005,
section 4.5): of the films with a finding, and of those without it, at most a stated share is decided wrongly, if they
come from the same distribution as the validation films. The guarantee assumes independent films; those of one patient
are not quite independent.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

RISK: Final = 0.1
UNDECIDED: Final = -1


@dataclass(frozen=True)
class Bands:
    """For each finding, the band of probabilities from `low` to `high`, inclusive, in which nothing is decided.

    Both are float64 (findings,). `risk` is the share of films with the finding that may lie below the band, and of
    films without it that may lie above.
    """

    risk: float
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def fit(cls, labels: np.ndarray, probabilities: np.ndarray, risk: float = RISK) -> "Bands":
        """Fits bands to validation films; with too few films of a finding, no film is declared free of it.

        Args:
          labels: (films, findings); values other than 0 and 1 are left out.
          probabilities: the same shape.
          risk: above 0, below 1.
        """
        low, high = [], []
        for own, p in zip(labels.T, probabilities.T, strict=True):
            a, b = _least(p[own == 1], risk), -_least(-p[own == 0], risk)
            if a > b:  # a cut between the two keeps both promises, and decides every film
                a = b = (a + b) / 2
            low.append(max(a, 0.0))
            high.append(min(b, 1.0))
        return cls(risk, np.array(low), np.array(high))

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """(..., findings) -> int8 of the same shape: 1 present, 0 absent, -1 undecided."""
        decided = np.where(probabilities > self.high, 1, np.where(probabilities < self.low, 0, UNDECIDED))
        return decided.astype(np.int8)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes back."""
        return {"risk": self.risk, "low": self.low.tolist(), "high": self.high.tolist()}

    @classmethod
    def from_json(cls, found: Mapping[str, Any], findings: int) -> "Bands":
        """Checked: any other value than `to_json` gives raises ValueError, TypeError or KeyError."""
        risk, low, high = (np.array(found[name], np.float64) for name in ("risk", "low", "high"))
        if not (low.shape == high.shape == (findings,) and (low >= 0).all() and (low <= high).all() and 0 < risk < 1):
            raise ValueError("no bands")
        return cls(float(risk), low, high)


def _least(values: np.ndarray, risk: float) -> float:
    """The number below which a further value lies with a probability of at most `risk`."""
    rank = math.floor(risk * (len(values) + 1) + 1e-9)
    return float(np.partition(values, rank - 1)[rank - 1]) if rank else -math.inf


def summarize_decisions(labels: np.ndarray, decided: np.ndarray) -> list[dict[str, float]]:
    """The performance of the bands on other films, a dict per finding; NaN if there is no such film.

    "decided" is the share of known films outside the band; "missed" and "false_alarms" are the shares of films with the
    finding that were declared free of it, and of films without it that were called: what `risk` bounds.
    """
    found = []
    for own, d in zip(labels.T, decided.T, strict=True):
        has, free = own == 1, own == 0
        found.append(
            {
                "decided": _share((d != UNDECIDED)[has | free]),
                "missed": _share((d == 0)[has]),
                "false_alarms": _share((d == 1)[free]),
            }
        )
    return found


def _share(hits: np.ndarray) -> float:
    return float(hits.mean()) if len(hits) else math.nan
