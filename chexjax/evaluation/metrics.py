"""Metrics of labels and scores, with their confidence intervals. Arrays in, float64 out; no network is needed.

Labels are (films,) or (films, findings); scores and probabilities have the same shape. A metric is a float for one
finding, an array (findings,) for several. Where it is not defined (no film has the finding, or every film does) it is
NaN, and `why_undefined` gives the reason.

A label is 0 (absent), 1 (present), between them soft, or NaN (not known). All metrics but the cross-entropy need
one of two classes, so they leave out, finding by finding, the films whose label is NaN or soft; `count_films` gives the
number left and the positives among them. The cross-entropy takes soft labels as probabilities.

Films of one patient are alike, so intervals that treat films as independent are too narrow. With `patients`, a
patient's films are kept together: the bootstrap draws patients, and DeLong's method is used in Obuchowski's extension.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

Figure = Any  # float, or float64 (findings,)

LEVEL: Final = 0.95  # the default of every interval
BINS: Final = 15  # of the calibration figures; Guo et al. 2017 use 15
_RESAMPLES_AT_ONCE: Final = 250  # the running sums of 14 findings then stay in a core's cache


class Interval(NamedTuple):
    """A confidence interval; floats, or float64 (findings,)."""

    low: Figure
    high: Figure


class PairedTest(NamedTuple):
    """Two models on the same films: the difference of AUROC (first minus second), its interval, z, two-sided p."""

    difference: Figure
    low: Figure
    high: Figure
    z: Figure
    p_value: Figure


class Confusion(NamedTuple):
    """The confusion counts at a threshold."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def sensitivity(self) -> float:
        """Share of the films with the finding that are called."""
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def specificity(self) -> float:
        """Share of the films without the finding that are not called."""
        return _share(self.true_negatives, self.true_negatives + self.false_positives)

    @property
    def precision(self) -> float:
        """Share of the called films that have the finding (positive predictive value)."""
        return _share(self.true_positives, self.true_positives + self.false_positives)


class Counts(NamedTuple):
    """The films behind a metric: those where the finding is known, and the positives among them."""

    known: Any  # int, or int64 (findings,)
    positives: Any


class Reliability(NamedTuple):
    """Per bin of probability, float64 (bins,): the mean probability, the share that has the finding, the films.

    A bin without films has NaN, NaN and 0.
    """

    predicted: np.ndarray
    observed: np.ndarray
    films: np.ndarray


# Ranking


def auroc(labels: ArrayLike, scores: ArrayLike) -> Figure:
    """Area under the ROC curve: the share of pairs (with, without the finding) in the right order; ties count half.

    Only the order of the scores matters. NaN if all labels are equal.
    """
    labels, scores = _checked(labels, scores)
    if labels.ndim == 2:
        return _by_finding(auroc, labels, scores)
    _, positives, negatives = _tally(*_known(labels, scores))
    pairs = 2.0 * positives.sum() * negatives.sum()
    below = np.cumsum(negatives) - negatives
    return float((positives * (2.0 * below + negatives)).sum() / pairs) if pairs else float("nan")


def average_precision(labels: ArrayLike, scores: ArrayLike) -> Figure:
    """Precision averaged over the steps in recall, without interpolation; films with equal scores count as one step.

    An uninformative score reaches the prevalence of the finding, so read it beside that. NaN without positives.
    """
    labels, scores = _checked(labels, scores)
    if labels.ndim == 2:
        return _by_finding(average_precision, labels, scores)
    _, positives, negatives = _tally(*_known(labels, scores))
    called = np.cumsum((positives + negatives)[::-1])
    found = np.cumsum(positives[::-1])
    return float((found / called * positives[::-1]).sum() / found[-1]) if positives.any() else float("nan")


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ROC curve of one finding, from the highest threshold to the lowest.

    Returns:
      False positive rate, true positive rate and threshold, float64 (points,); a film is called where its score is at
      least the threshold. The first point calls nothing, at a threshold of infinity.
    """
    values, positives, negatives = _tally(*_known(*_checked(labels, scores)))
    with np.errstate(invalid="ignore"):
        hits = np.concatenate([[0.0], np.cumsum(positives[::-1])]) / positives.sum()
        alarms = np.concatenate([[0.0], np.cumsum(negatives[::-1])]) / negatives.sum()
    return alarms, hits, np.concatenate([[np.inf], values[::-1]])


def mean_over_findings(figures: ArrayLike) -> float:
    """The mean over the findings where the metric is defined; NaN if there are none."""
    present = np.asarray(figures, np.float64)
    present = present[np.isfinite(present)]
    return float(present.mean()) if present.size else float("nan")


def count_films(labels: ArrayLike) -> Counts:
    """The films that count for each finding: those labelled 0 or 1, and those labelled 1."""
    labels = np.asarray(labels)
    negatives, positives = ((labels == value).sum(axis=0) for value in (0, 1))
    counts = Counts(negatives + positives, positives)
    return counts if labels.ndim == 2 else Counts(*map(int, counts))


def why_undefined(labels: ArrayLike) -> str | None:
    """Why one finding, labels (films,), has no AUROC; None where it has one."""
    known, positives = count_films(np.asarray(labels).reshape(-1))
    if not len(np.asarray(labels)):
        return "there is no film"
    if not known:
        return "it is known of no film"
    if not positives:
        return "no film has it"
    return "every film has it" if positives == known else None


# Intervals and tests by DeLong's method


def delong_interval(
    labels: ArrayLike, scores: ArrayLike, patients: ArrayLike | None = None, level: float = LEVEL
) -> Interval:
    """DeLong's confidence interval of the AUROC: normal, cut to [0, 1].

    DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
    characteristic curves", Biometrics 1988; in O(n log n) as Sun and Xu do it (IEEE Signal Processing Letters 2014).

    Args:
      patients: (films,), any identifiers; films of one patient then count as dependent (Obuchowski, "Nonparametric
        analysis of clustered ROC curve data", Biometrics 1997). None: films are independent, DeLong's original method.
      level: coverage.

    Returns:
      Low and high; NaN with fewer than two films (or patients) with or without the finding. If every pair is in
      order, the variance is 0 and the interval a point, which then says nothing about the uncertainty.
    """
    labels, scores = _checked(labels, scores)
    if labels.ndim == 2:
        return Interval(*_by_finding(lambda y, s: delong_interval(y, s, patients, level), labels, scores).T)
    area, covariance = _delong(*_known(labels, scores[:, None], _clusters(patients, len(labels))))
    margin = stats.norm.ppf((1.0 + level) / 2.0) * np.sqrt(covariance[0, 0])
    low, high = np.clip([area[0] - margin, area[0] + margin], 0.0, 1.0)
    return Interval(float(low), float(high))


def delong_test(
    labels: ArrayLike, scores: ArrayLike, other: ArrayLike, patients: ArrayLike | None = None, level: float = LEVEL
) -> PairedTest:
    """DeLong's paired test of two models on the same films: do their AUROCs differ?

    Source and arguments as for `delong_interval`; `other` holds the second model's scores. z is 0 and p is 1 where
    both order all films alike; NaN if an AUROC is.
    """
    labels, scores = _checked(labels, scores)
    labels, other = _checked(labels, other)
    if labels.ndim == 2:
        columns = [
            delong_test(labels[:, k], scores[:, k], other[:, k], patients, level) for k in range(labels.shape[1])
        ]
        return PairedTest(*np.array(columns, np.float64).reshape(-1, 5).T)
    both = np.stack([scores, other], axis=1)
    area, covariance = _delong(*_known(labels, both, _clusters(patients, len(labels))))
    difference = float(area[0] - area[1])
    variance = max(float(covariance[0, 0] + covariance[1, 1] - 2.0 * covariance[0, 1]), 0.0)
    deviation = np.sqrt(variance) if variance > 1e-18 or np.isnan(variance) else 0.0  # less is rounding
    with np.errstate(divide="ignore"):
        z = 0.0 if difference == 0.0 and deviation == 0.0 else float(np.float64(difference) / deviation)
    margin = float(stats.norm.ppf((1.0 + level) / 2.0) * deviation)
    return PairedTest(difference, difference - margin, difference + margin, z, float(2.0 * stats.norm.sf(abs(z))))


def holm(p_values: ArrayLike) -> np.ndarray:
    """p-values (tests,) after Holm's step-down correction for multiple tests; a NaN stays and counts as no test.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 1979.
    """
    p_values = np.asarray(p_values, np.float64)
    adjusted = np.full(p_values.shape, np.nan)
    order = np.argsort(p_values)[: np.isfinite(p_values).sum()]  # NaN sorts last
    weights = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * weights), 1.0)
    return adjusted


# The bootstrap over patients


def bootstrap_interval(
    labels: ArrayLike,
    scores: ArrayLike,
    patients: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """The percentile interval of the AUROC over resamples of patients; a patient's films are drawn together.

    Args:
      patients: (films,), any identifiers; None draws single films.
      resamples: their number; few resamples leave a sampling error in the interval's ends.
      seed: the same seed draws the same patients, on any device.
      level: coverage.

    Returns:
      Low and high, per finding where there are several; NaN where the finding has one class only.
      Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    labels, scores = _checked(labels, scores)
    areas = bootstrap_aurocs(labels, scores, patients, resamples, seed)
    return percentile_interval(areas if labels.ndim == 2 else areas[:, 0], level)


def bootstrap_aurocs(
    labels: ArrayLike, scores: ArrayLike, patients: ArrayLike | None = None, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """The AUROC of every finding in every resample of the patients: float64 (resamples, findings).

    A resample in which a finding has one class only has NaN there. All findings see the same patients, and so do two
    models with the same seed: means over findings and differences between models are taken resample by resample.
    Patients are drawn from all; within a resample, a finding's AUROC uses the films where it is known.

    A patient drawn twice counts twice, so a resample is a set of integer weights, and the films are sorted once for all
    resamples: see `_weighted_pairs`.
    """
    labels, scores = _checked(labels, scores)
    if labels.ndim == 1:
        labels, scores = labels[:, None], scores[:, None]
    if not labels.size:
        return np.full((resamples, labels.shape[1]), np.nan)
    cluster = _clusters(patients, len(labels))
    # Ascending scores; among equals, negatives first, unknown labels last.
    order = np.stack([np.lexsort((labels[:, k], scores[:, k])) for k in range(labels.shape[1])], axis=1)
    in_order = np.take_along_axis(scores, order, axis=0)
    rises = np.concatenate([np.ones((1, order.shape[1]), bool), in_order[1:] != in_order[:-1]])
    positive = np.take_along_axis(labels, order, axis=0) > 0
    # Padded with films of a patient who is never drawn, so few shapes are compiled; so are unknown labels.
    people, filling = int(cluster.max()) + 1, ((0, _rounded(len(labels)) - len(labels)), (0, 0))
    owners = cluster[order].astype(np.int32)
    owners[np.isnan(np.take_along_axis(labels, order, axis=0))] = people
    walk = [
        jnp.asarray(np.pad(column, filling, constant_values=value))
        for column, value in ((owners, people), (positive, False), (rises, False))
    ]
    # Drawn by NumPy, not jax.random: XLA scatters slowly on a CPU.
    random, width = np.random.default_rng(seed), min(resamples, _RESAMPLES_AT_ONCE)

    def draw(_: int) -> np.ndarray:
        draws = np.zeros((_rounded(people + 1), width), np.uint8)  # how often each patient is in each resample
        for column in range(width):
            draws[:people, column] = np.bincount(random.integers(0, people, people), minlength=people)
        return draws

    def areas(draws: np.ndarray) -> np.ndarray:
        low, high, positives, negatives = (np.asarray(x, np.float64) for x in _weighted_pairs(draws, *walk))
        with np.errstate(invalid="ignore"):
            return (high * 2.0**32 + low) / (2.0 * positives * negatives)

    with ThreadPoolExecutor(2) as pool:  # each call keeps one core busy
        parts = pool.map(areas, map(draw, range(0, resamples, width)))
        return np.concatenate([part.T for part in parts])[:resamples]


def compare_runs(
    labels: ArrayLike,
    scores: ArrayLike,
    others: ArrayLike,
    patients: ArrayLike | None = None,
    resamples: int = 1000,
    level: float = LEVEL,
) -> PairedTest:
    """Do two ways of training differ in mean AUROC, over runs and over films?

    Run k of one way is paired with run k of the other, on the same films. The difference is the mean over runs. Its
    variance has two parts: the runs' sample variance over their number, and the variance of the mean over runs when
    patients are resampled. The interval is Student's, its degrees of freedom by Satterthwaite (Biometrics Bulletin 2,
    1946), where resampling counts as having no end of them. One run says nothing of other runs: its interval is for
    other films alone.

    Args:
      labels: (films, findings).
      scores: (runs, films, findings) of the first way; `others` of the second.
      patients: (films,), any identifiers; None draws single films.

    Returns:
      The first less the second; floats. NaN where no finding has both classes. z holds Student's t.
    """
    labels, scores, others = np.asarray(labels), np.asarray(scores), np.asarray(others)
    if scores.shape != others.shape or scores.shape[1:] != labels.shape:
        raise ValueError(f"scores are {scores.shape} and {others.shape} for labels {labels.shape}")
    observed, samples = [], []
    for one, other in zip(scores, others, strict=True):
        observed.append(mean_over_findings(np.subtract(auroc(labels, one), auroc(labels, other))))
        areas = [bootstrap_aurocs(labels, each, patients, resamples) for each in (one, other)]
        samples.append([mean_over_findings(row) for row in areas[0] - areas[1]])
    runs, difference = len(observed), float(np.mean(observed))
    of_films = float(np.nanvar(np.mean(samples, axis=0), ddof=1))
    of_runs = float(np.var(observed, ddof=1)) / runs if runs > 1 else 0.0
    deviation = np.sqrt(of_films + of_runs)
    freedom = (runs - 1) * ((of_films + of_runs) / of_runs) ** 2 if of_runs > 0 else np.inf
    with np.errstate(divide="ignore"):
        t = 0.0 if difference == 0.0 else float(np.float64(difference) / deviation)
    margin = float(stats.t.ppf((1.0 + level) / 2.0, freedom) * deviation)
    return PairedTest(difference, difference - margin, difference + margin, t, float(2.0 * stats.t.sf(abs(t), freedom)))


@jax.jit
def _weighted_pairs(draws: jax.Array, films: jax.Array, positive: jax.Array, rises: jax.Array) -> tuple[jax.Array, ...]:
    """One walk over the films in ascending order, for all findings and resamples at once.

    Each positive film is paired with the negatives seen so far: those below it count twice, those with an equal score
    once. All arithmetic is in integers, so it is exact on every device.

    Args:
      draws: uint8 (patients, resamples).
      films: int32 (films, findings), the patient of each film, in each finding's order.
      positive: bool, the same shape.
      rises: bool, the same shape: the score is above the one before.

    Returns:
      uint32 (findings, resamples) each: twice the pairs in order, its lower and upper 32 bits; positives; negatives.
    """

    def step(sums: Any, film: Any) -> Any:
        low, high, positives, negatives, below = sums
        patient, is_positive, rise = film
        weight = draws[patient].astype(jnp.uint32)
        is_positive = is_positive[:, None]
        below = jnp.where(rise[:, None], negatives, below)
        pairs = jnp.where(is_positive, weight * (below + negatives), 0)
        total = low + pairs
        return (
            total,
            high + (total < low),  # the carry
            positives + jnp.where(is_positive, weight, 0),
            negatives + jnp.where(is_positive, 0, weight),
            below,
        ), None

    zero = jnp.zeros((films.shape[1], draws.shape[1]), jnp.uint32)
    sums, _ = jax.lax.scan(step, (zero,) * 5, (films, positive, rises))
    return sums[:4]


def percentile_interval(samples: ArrayLike, level: float = LEVEL) -> Interval:
    """The central `level` of `samples` (resamples, ...), ignoring NaN; NaN if all are."""
    samples = np.asarray(samples, np.float64)
    tail = 50.0 * (1.0 - level)
    is_defined = np.isfinite(samples).any(axis=0)
    ends = np.nanpercentile(np.where(is_defined, samples, 0.0), [tail, 100.0 - tail], axis=0)
    low, high = np.where(is_defined, ends, np.nan)
    return Interval(low, high) if samples.ndim > 1 else Interval(float(low), float(high))


# Calibration


def cross_entropy(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Binary cross-entropy per finding in nats, in float64: (films, findings) -> (findings,).

    The mean over the films whose label is not NaN, soft ones among them; NaN without any.
    """
    labels, logits = np.asarray(labels, np.float64), np.asarray(logits, np.float64)
    known = ~np.isnan(labels)
    with np.errstate(invalid="ignore"):  # the caller reports the NaN of a diverged network
        each = np.logaddexp(0.0, logits) - np.where(known, labels, 0.0) * logits
        return np.where(known, each, 0.0).sum(axis=0) / known.sum(axis=0)


def mean_cross_entropy(labels: np.ndarray, logits: np.ndarray) -> float:
    """The mean over every known film and finding, which is what training minimises."""
    known = (~np.isnan(np.asarray(labels, np.float64))).mean(axis=0)
    each = np.where(known > 0, cross_entropy(labels, logits), 0.0)
    return float((each * known).mean() / known.mean()) if known.any() else float("nan")


def brier(labels: ArrayLike, probabilities: ArrayLike) -> Figure:
    """The mean squared distance of probability and label (Brier 1950); 0 is best."""
    labels, probabilities = _checked(labels, probabilities)
    known = ~np.isnan(labels)
    squared = np.where(known, (probabilities - labels) ** 2, 0.0)
    with np.errstate(invalid="ignore"):
        means = squared.sum(axis=0) / known.sum(axis=0)
    return means if labels.ndim == 2 else float(means)


def reliability_curve(labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS) -> Reliability:
    """Predicted probability and observed share of one finding, in `bins` of equal width over [0, 1]."""
    labels, probabilities = _known(*_checked(labels, probabilities))
    bin_index = np.searchsorted(np.linspace(0.0, 1.0, bins + 1)[1:-1], probabilities)
    films = np.bincount(bin_index, minlength=bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(bin_index, probabilities, minlength=bins) / films
        observed = np.bincount(bin_index, labels, minlength=bins) / films
    return Reliability(predicted, observed, films)


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS) -> Figure:
    """The mean distance of predicted and observed over the bins of `reliability_curve`, weighted by their films.

    Guo et al., "On calibration of modern neural networks", ICML 2017, equation 3, of a finding's probability.
    """
    labels, probabilities = _checked(labels, probabilities)
    if labels.ndim == 2:
        return _by_finding(partial(expected_calibration_error, bins=bins), labels, probabilities)
    curve = reliability_curve(labels, probabilities, bins)
    filled = curve.films > 0
    distances = np.abs(curve.predicted - curve.observed)[filled]
    films = int(curve.films.sum())
    return float((distances * curve.films[filled]).sum() / films) if films else float("nan")


# Thresholds: taken from validation, applied to test


def youden_threshold(labels: ArrayLike, scores: ArrayLike) -> float:
    """The threshold with the greatest sensitivity + specificity of one finding; of several, the strictest.

    A film is called where its score is at least the threshold. NaN if all labels are equal.
    Youden, "Index for rating diagnostic tests", Cancer 1950.
    """
    labels, scores = _known(*_checked(labels, scores))
    values, positives, negatives = (tally[::-1] for tally in _tally(labels, scores))
    # In integers over the common denominator, so ties are exact.
    gain = np.cumsum(positives) * negatives.sum() - np.cumsum(negatives) * positives.sum()
    return float(values[int(np.argmax(gain))]) if why_undefined(labels) is None else float("nan")


def sensitivity_threshold(labels: ArrayLike, scores: ArrayLike, sensitivity: float) -> float:
    """The strictest threshold that finds at least `sensitivity` of one finding's positives; NaN without any."""
    _, hits, thresholds = roc_curve(labels, scores)
    enough = np.flatnonzero(hits[1:] >= sensitivity - 1e-12)
    return float(thresholds[enough[0] + 1]) if enough.size else float("nan")


def confusion(labels: ArrayLike, scores: ArrayLike, threshold: float) -> Confusion:
    """Counts of one finding where films with a score of at least `threshold` are called."""
    labels, scores = _known(*_checked(labels, scores))
    called, has = scores >= threshold, labels > 0
    return Confusion(
        int((called & has).sum()), int((called & ~has).sum()), int((~called & has).sum()), int((~called & ~has).sum())
    )


# A training's end


def convergence_epoch(losses: list[float], tolerance: float) -> int | None:
    """The first epoch (from 1) whose loss no later epoch undercuts by more than `tolerance`.

    The report's "epoch of convergence". A curve that is still falling at the end converges in its last epoch. None if
    there is no epoch.
    """
    for epoch, loss in enumerate(losses, start=1):
        later = losses[epoch:]
        if not later or loss - min(later) <= tolerance:
            return epoch
    return None


# Shared helpers


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 arrays of one shape, the scores without NaN; labels are 0, 1, or NaN where there is no class."""
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    if labels.shape != scores.shape:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape} differ in shape")
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN")
    labels = labels.astype(np.float64)
    has_class = (labels == 0) | (labels == 1)
    if not has_class.all():
        if not (has_class | np.isnan(labels) | ((labels > 0) & (labels < 1))).all():
            raise ValueError("labels hold other values than 0 and 1, what lies between, and NaN")
        labels[~has_class] = np.nan
    return labels, scores


def _known(labels: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    """The films of one finding, labels (films,), that have a class, and the same rows of `others`."""
    known = ~np.isnan(labels)
    return (labels, *others) if known.all() else tuple(array[known] for array in (labels, *others))


def _rounded(count: int) -> int:
    """`count` rounded up to one of eight sizes between two powers of two, at least 1,024."""
    step = max(2 ** (count.bit_length() - 4), 128)
    return max(-(-count // step) * step, 1024)


def _by_finding(figure: Any, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return np.array([figure(labels[:, k], scores[:, k]) for k in range(labels.shape[1])], np.float64)


def _tally(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct scores in ascending order, with their numbers of positive and negative films."""
    values, rank = np.unique(scores, return_inverse=True)
    positives = np.bincount(rank, labels, minlength=len(values))
    return values, positives, np.bincount(rank, minlength=len(values)) - positives


def _clusters(patients: ArrayLike | None, films: int) -> np.ndarray:
    """The index of each film's patient; without `patients`, each film is its own."""
    if patients is None:
        return np.arange(films)
    _, cluster = np.unique(np.asarray(patients), return_inverse=True)
    if cluster.shape != (films,):
        raise ValueError(f"patients are of shape {np.shape(patients)}, but there are {films} films")
    return cluster


def _delong(labels: np.ndarray, scores: np.ndarray, cluster: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROCs (models,) of one finding and their covariance (models, models), from scores (films, models).

    A film's placement is the share of films of the other class that it is in right order with. Their mean is the AUROC,
    their covariance gives its variance (DeLong 1988, equations 4 to 6; summed by patient: Obuchowski 1997, section 2).
    """
    has = labels > 0
    films, models = len(labels), scores.shape[1]
    positives, negatives = int(has.sum()), int(films - has.sum())
    if not positives or not negatives:
        return np.full(models, np.nan), np.full((models, models), np.nan)
    placement = np.empty((films, models))
    for k in range(models):
        values, rank = np.unique(scores[:, k], return_inverse=True)
        p = np.bincount(rank, labels, minlength=len(values))
        n = np.bincount(rank, minlength=len(values)) - p
        below = np.cumsum(n) - n / 2.0
        above = positives - np.cumsum(p) + p / 2.0
        placement[:, k] = np.where(has, below[rank] / negatives, above[rank] / positives)
    area = placement[has].mean(axis=0)
    # Deviations from the mean, summed over each patient's films of a class: (patients, models) each.
    deviation = (placement - area) / np.where(has, positives, negatives)[:, None]
    with_it, without = (_sum_by(cluster, np.where(kind[:, None], deviation, 0.0)) for kind in (has, ~has))
    patients, patients_with, patients_without = (len(np.unique(c)) for c in (cluster, cluster[has], cluster[~has]))
    if min(patients_with, patients_without) < 2:
        return area, np.full((models, models), np.nan)
    across = with_it.T @ without * (patients / (patients - 1))
    covariance = (
        with_it.T @ with_it * (patients_with / (patients_with - 1))
        + without.T @ without * (patients_without / (patients_without - 1))
        + across
        + across.T
    )
    return area, covariance


def _sum_by(cluster: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(films, columns) -> (patients, columns)."""
    return np.stack([np.bincount(cluster, column) for column in values.T], axis=1)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
