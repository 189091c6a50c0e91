"""Calibration: curves, fitted on validation films, from a network's probability to the observed frequency.

Each finding has its own curve: none, temperature scaling (Guo et al., "On calibration of modern neural networks",
ICML 2017), Platt scaling (Platt, "Probabilistic outputs for support vector machines", 1999) or isotonic regression
(Zadrozny & Elkan, KDD 2002), whichever has the least cross-validated log loss. Every curve rises, so AUROC and calls at
thresholds stay the same.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import scipy

from chexjax.errors import ConfigError, DataError, first_ten, printable

FOLDS: Final = 5
LEAST: Final = 10  # films with a finding, and films without: with fewer, no curve is fitted
_SLOPES: Final = (-5.0, 5.0)  # of the logarithm of 1 / temperature
# Isotonic regression is flat over stretches. This share of the probability itself keeps its order there.
RISE: Final = 0.01


@dataclass(frozen=True)
class Curve:
    """One finding's curve.

    `kind` is "none", "temperature", "platt" or "isotonic". The first three are expit(slope * logit(p) + offset); the
    last interpolates linearly between `knots` (probability, observed frequency). `shift` is added to the logit of the
    result, to adapt it to another prevalence.
    """

    kind: str = "none"
    slope: float = 1.0
    offset: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()
    shift: float = 0.0

    def apply(self, probabilities: Any, xp: Any = np) -> Any:
        """Calibrated probabilities, of the same shape; `xp` is `numpy`, or `jax.numpy` within a program."""
        p = probabilities
        if self.kind == "isotonic":
            x, y = xp.asarray(self.knots, p.dtype).T
            p = (1 - RISE) * xp.interp(p, x, y) + RISE * p
        elif self.kind != "none":
            p = _expit(self.slope * _logit(p, xp) + self.offset, xp)
        return _expit(_logit(p, xp) + self.shift, xp) if self.shift else p


@dataclass(frozen=True)
class Calibration:
    """The curves of one network, or of an ensemble, in the order of its findings.

    `prevalence` is each finding's share of the validation films, NaN if no label is known. `log_losses` are the
    cross-validated ones by which the kinds were chosen: per finding, a dict from kind to nats, empty if there were too
    few films to choose.
    """

    curves: tuple[Curve, ...]
    prevalence: tuple[float, ...]
    log_losses: tuple[dict[str, float], ...] = ()

    @classmethod
    def fit(cls, labels: np.ndarray, probabilities: np.ndarray, patients: Sequence[str]) -> "Calibration":
        """Curves from validation films.

        Args:
          labels: (films, findings); what is neither 0 nor 1 is left out, finding by finding.
          probabilities: float64, the same shape.
          patients: the patient of each film; a patient's films share a fold in cross-validation.
        """
        folds = _folds(patients)
        curves, prevalence, losses = [], [], []
        for own, p in zip(labels.T, probabilities.T, strict=True):
            known = (own == 0) | (own == 1)
            y, p = own[known].astype(np.float64), p[known].astype(np.float64)
            found = cross_validate(y, p, folds[known]) if min(y.sum(), len(y) - y.sum()) >= LEAST else {}
            kind = min(found, key=found.__getitem__, default="none")
            curves.append(FITS[kind](y, p))
            prevalence.append(float(y.mean()) if len(y) else math.nan)
            losses.append(found)
        return cls(tuple(curves), tuple(prevalence), tuple(losses))

    def apply(self, probabilities: Any, xp: Any = np) -> Any:
        """(..., findings) -> the same shape, calibrated; NaN stays NaN. `xp` is `numpy` or `jax.numpy`."""
        columns = [curve.apply(probabilities[..., k], xp) for k, curve in enumerate(self.curves)]
        return xp.stack(columns, axis=-1)

    def at_prevalence(self, prevalence: Mapping[str, float], findings: Sequence[str]) -> "Calibration":
        """The calibration for a site where findings have another prevalence: their odds are multiplied.

        Correct if films with a finding look the same at both sites and only their share differs (Saerens et al.,
        Neural Computation 2002, equation 4). Findings that `prevalence` does not name are unchanged.

        Raises:
          ConfigError: a finding is not one of the run's, or the validation films all had it, or all lacked it.
        """
        curves = list(self.curves)
        for finding, share in prevalence.items():
            if finding not in findings:
                raise ConfigError(f"a prevalence is given for {printable(finding)}; findings: {', '.join(findings)}")
            k = list(findings).index(finding)
            if not 0 < self.prevalence[k] < 1:
                raise ConfigError(f"{finding}: its prevalence among the validation films is {self.prevalence[k]:g}")
            shift = float(scipy.special.logit(share) - scipy.special.logit(self.prevalence[k]))
            curves[k] = replace(curves[k], shift=shift)
        return replace(self, curves=tuple(curves))

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes back."""
        curves = [asdict(curve) for curve in self.curves]
        known = [None if math.isnan(share) else share for share in self.prevalence]
        return {"curves": curves, "prevalence": known, "log_losses": list(self.log_losses)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any], findings: int) -> "Calibration":
        """Checked: any other value than `to_json` gives raises ValueError, TypeError, KeyError or AttributeError."""
        curves = tuple(_curve_of(entry) for entry in found["curves"])
        prevalence = tuple(math.nan if share is None else float(share) for share in found["prevalence"])
        if len(curves) != findings or len(prevalence) != findings:
            raise ValueError(f"{len(curves)} curves for {findings} findings")
        losses = tuple({str(kind): float(loss) for kind, loss in entry.items()} for entry in found["log_losses"])
        return cls(curves, prevalence, losses)


def _curve_of(entry: Mapping[str, Any]) -> Curve:
    slope, offset, shift = (float(entry[name]) for name in ("slope", "offset", "shift"))
    knots = tuple((float(x), float(y)) for x, y in entry["knots"])
    curve = Curve(str(entry["kind"]), slope, offset, knots, shift)
    rising = all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(knots))
    finite = all(map(math.isfinite, (slope, offset, shift, *(value for knot in knots for value in knot))))
    if curve.kind not in FITS or slope <= 0 or not rising or not finite or (curve.kind == "isotonic") != bool(knots):
        raise ValueError(f"no curve: {curve}")
    return curve


# The kinds


def fit_none(labels: np.ndarray, probabilities: np.ndarray) -> Curve:
    """No curve: the probability as it is."""
    return Curve()


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> Curve:
    """The slope in front of the logit, above 0, with the least log loss."""
    z = scipy.special.logit(_inside(probabilities))

    def loss(log_slope: float) -> float:
        scaled = np.exp(log_slope) * z
        return float((np.logaddexp(0.0, scaled) - labels * scaled).mean())

    found = scipy.optimize.minimize_scalar(loss, bounds=_SLOPES, method="bounded", options={"xatol": 1e-8})
    return Curve("temperature", slope=float(np.exp(found.x)))


def fit_platt(labels: np.ndarray, probabilities: np.ndarray) -> Curve:
    """Slope and offset with the least log loss against Platt's targets, which stay off 0 and 1 for few films.

    If the slope is not above 0, and would reverse the order, there is no curve.
    """
    z = scipy.special.logit(_inside(probabilities))
    positives = labels.sum()
    high, low = (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2)
    targets = np.where(labels > 0, high, low)

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = theta[0] * z + theta[1]
        error = (scipy.special.expit(scaled) - targets) / len(z)
        return float((np.logaddexp(0.0, scaled) - targets * scaled).mean()), np.array([error @ z, error.sum()])

    slope, offset = scipy.optimize.minimize(
        loss, np.array([1.0, 0.0]), jac=True, method="BFGS", options={"gtol": 1e-9}
    ).x
    return Curve("platt", float(slope), float(offset)) if slope > 0 else Curve()


def fit_isotonic(labels: np.ndarray, probabilities: np.ndarray) -> Curve:
    """The increasing step function with the least squared error, by the ends of its steps."""
    x, inverse = np.unique(probabilities, return_inverse=True)
    counts = np.bincount(inverse)
    y = scipy.optimize.isotonic_regression(np.bincount(inverse, labels) / counts, weights=counts).x
    ends = np.ones(len(x), bool)
    ends[1:-1] = (y[1:-1] != y[:-2]) | (y[1:-1] != y[2:])
    knots = zip(x[ends].tolist(), np.clip(y[ends], 0.0, 1.0).tolist(), strict=True)
    return Curve("isotonic", knots=tuple(knots))


# A new kind is a function above and a line here; of equal ones the first is taken.
FITS: Final = {"none": fit_none, "temperature": fit_temperature, "platt": fit_platt, "isotonic": fit_isotonic}


def cross_validate(labels: np.ndarray, probabilities: np.ndarray, folds: np.ndarray) -> dict[str, float]:
    """The cross-validated log loss of every kind, in nats; empty if a fold lacks a class.

    Args:
      labels: 0 or 1, (films,); `probabilities` likewise.
      folds: the fold of each film.
    """
    losses = dict.fromkeys(FITS, 0.0)
    for fold in np.unique(folds):
        out = folds == fold
        if len(np.unique(labels[~out])) < 2:
            return {}
        for kind, fit in FITS.items():
            p = _inside(fit(labels[~out], probabilities[~out]).apply(probabilities[out]))
            losses[kind] -= float(np.where(labels[out] > 0, np.log(p), np.log1p(-p)).sum())
    return {kind: loss / len(labels) for kind, loss in losses.items()}


def _folds(patients: Sequence[str]) -> np.ndarray:
    """Each film's fold, 0 to `FOLDS` - 1; a patient's films are in one."""
    names, patient = np.unique(np.asarray(patients), return_inverse=True)
    return (np.random.default_rng(0).permutation(len(names)) % FOLDS)[patient]


# Prevalence from a table


def read_prevalence(path: Path) -> dict[str, float]:
    """A CSV with two columns, `finding` and `prevalence`, the latter a share between 0 and 1.

    Raises:
      DataError: it cannot be read, or holds something else.
    """
    from chexjax.data.sources.tables import csv_rows  # here: `predict` starts without it

    rows = [(line, row) for line, row in csv_rows(path) if row]
    if not rows or [cell.strip().lower() for cell in rows[0][1]] != ["finding", "prevalence"]:
        raise DataError(f"{printable(path)}: its first line is not `finding,prevalence`")
    found: dict[str, float] = {}
    for number, row in rows[1:]:
        try:
            finding, share = row[0].strip(), float(row[1])
        except (ValueError, IndexError):
            raise DataError(f"{printable(path)}, line {number}: not a finding and a share") from None
        if len(row) != 2 or not 0 < share < 1:
            raise DataError(f"{printable(path)}, line {number}: a prevalence lies between 0 and 1, without the ends")
        if finding in found:
            raise DataError(f"{printable(path)} names {first_ten([printable(finding)])} twice")
        found[finding] = share
    return found


# Arithmetic for NumPy and for JAX


def _inside(probabilities: Any, xp: Any = np) -> Any:
    """Kept off 0 and 1 by the smallest step, so that the logit is finite."""
    limits = xp.finfo(probabilities.dtype)
    return xp.clip(probabilities, limits.tiny, 1 - limits.epsneg)


def _logit(probabilities: Any, xp: Any) -> Any:
    p = _inside(probabilities, xp)
    return xp.log(p) - xp.log1p(-p)


def _expit(z: Any, xp: Any) -> Any:
    with np.errstate(invalid="ignore"):  # a threshold that is not known is NaN, and stays so
        return _inside(xp.exp(-xp.logaddexp(xp.zeros_like(z), -z)), xp)
