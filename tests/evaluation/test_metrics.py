"""Figures against scikit-learn, brute force, and by hand."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, ttest_rel
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from chexjax.evaluation import metrics
from chexjax.evaluation.metrics import (
    auroc,
    average_precision,
    bootstrap_aurocs,
    bootstrap_interval,
    brier,
    compare_runs,
    confusion,
    convergence_epoch,
    count_films,
    cross_entropy,
    delong_interval,
    delong_test,
    expected_calibration_error,
    holm,
    mean_cross_entropy,
    mean_over_findings,
    percentile_interval,
    reliability_curve,
    roc_curve,
    sensitivity_threshold,
    why_undefined,
    youden_threshold,
)

# Few scores, so that ties are the rule.
TIED = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=1, max_size=40)


def films(count: int, seed: int = 0, ties: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (count, 3) from frequent to rare, scores that know something, patients with a few films each."""
    rng = np.random.default_rng(seed)
    patients = rng.integers(0, max(count // 3, 1), count)
    labels = (rng.random((count, 3)) < [0.5, 0.2, 0.05]).astype(np.uint8)
    logits = labels + rng.normal(size=(count, 3)) + 0.5 * rng.normal(size=(count, 1))[patients % count]
    scores = 1 / (1 + np.exp(-logits))
    return labels, np.round(scores, 1 if ties else 12), patients


# Ranking


@given(TIED)
def test_auroc_is_the_share_of_pairs_in_order(rows: list[tuple[int, int]]) -> None:
    labels, scores = np.array(rows).T
    pairs = [(p > n) + (p == n) / 2 for p in scores[labels == 1] for n in scores[labels == 0]]
    if pairs:
        assert auroc(labels, scores) == pytest.approx(np.mean(pairs), abs=1e-12)
    else:
        assert math.isnan(auroc(labels, scores))


@pytest.mark.parametrize("ties", [True, False])
def test_ranking_figures_equal_scikit_learns(ties: bool) -> None:
    labels, scores, _ = films(4000, ties=ties)
    for k in range(3):
        y, s = labels[:, k], scores[:, k]
        assert auroc(labels, scores)[k] == pytest.approx(sklearn_metrics.roc_auc_score(y, s), abs=1e-12)
        precision = sklearn_metrics.average_precision_score(y, s)
        assert average_precision(labels, scores)[k] == pytest.approx(precision, abs=1e-12)
        for ours, theirs in zip(roc_curve(y, s), sklearn_metrics.roc_curve(y, s, drop_intermediate=False), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-12)


@given(TIED)
def test_average_precision_with_ties_equals_scikit_learns(rows: list[tuple[int, int]]) -> None:
    labels, scores = np.array(rows).T
    if labels.any():
        expected = sklearn_metrics.average_precision_score(labels, scores)
        assert average_precision(labels, scores) == pytest.approx(expected, abs=1e-12)
    else:
        assert math.isnan(average_precision(labels, scores))


def test_a_finding_without_positives_is_nan_with_a_reason_and_left_out_of_the_mean() -> None:
    labels = np.array([[1, 0], [0, 0], [1, 0], [0, 0]])
    scores = np.array([[0.9, 0.1], [0.2, 0.3], [0.1, 0.2], [0.05, 0.9]])
    figures = auroc(labels, scores)
    assert figures[0] == 0.75
    assert math.isnan(figures[1])
    assert mean_over_findings(figures) == 0.75
    assert math.isnan(mean_over_findings(np.array([np.nan])))
    assert [why_undefined(labels[:, k]) for k in (0, 1)] == [None, "no film has it"]
    assert why_undefined(np.ones(3)) == "every film has it"
    assert why_undefined(np.zeros(0)) == "there is no film"


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        (np.zeros(2), np.zeros(3), r"\(2,\).*\(3,\)"),
        (np.zeros(2), np.array([0.5, np.nan]), "scores hold NaN"),
        (np.array([0, 2]), np.zeros(2), "other values than 0 and 1"),
        (np.array([0, -1]), np.zeros(2), "other values than 0 and 1"),
        (np.array([0, np.inf]), np.zeros(2), "other values than 0 and 1"),
    ],
)
def test_what_is_no_input_is_refused(labels: np.ndarray, scores: np.ndarray, message: str) -> None:
    for figure in (auroc, average_precision, delong_interval, bootstrap_interval, brier):
        with pytest.raises(ValueError, match=message):
            figure(labels, scores)


# DeLong


def delong_by_pairs(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong 1988, equations 1 to 6, in O(positives x negatives): areas and covariance of (films, models)."""
    models = scores.shape[1]
    placed = []
    for k in range(models):
        p, n = scores[labels == 1, k], scores[labels == 0, k]
        order = (p[:, None] > n) + 0.5 * (p[:, None] == n)
        placed.append((order.mean(axis=1), order.mean(axis=0), order.mean()))
    s10 = np.cov(np.stack([v10 for v10, _, _ in placed]), ddof=1).reshape(models, models)
    s01 = np.cov(np.stack([v01 for _, v01, _ in placed]), ddof=1).reshape(models, models)
    return np.array([a for _, _, a in placed]), s10 / (labels == 1).sum() + s01 / (labels == 0).sum()


def obuchowski_by_patients(labels: np.ndarray, scores: np.ndarray, patients: np.ndarray) -> tuple[float, float]:
    """Obuchowski 1997, section 2, patient by patient: area and variance of one model."""
    p, n = scores[labels == 1], scores[labels == 0]
    order = (p[:, None] > n) + 0.5 * (p[:, None] == n)
    area, m, k = order.mean(), len(p), len(n)
    v10, v01 = order.mean(axis=1), order.mean(axis=0)
    with_it, without, every = (sorted(set(s)) for s in (patients[labels == 1], patients[labels == 0], patients))
    x = {i: sum(v - area for v, who in zip(v10, patients[labels == 1], strict=True) if who == i) for i in every}
    y = {i: sum(v - area for v, who in zip(v01, patients[labels == 0], strict=True) if who == i) for i in every}
    s10 = len(with_it) / ((len(with_it) - 1) * m) * sum(x[i] ** 2 for i in with_it)
    s01 = len(without) / ((len(without) - 1) * k) * sum(y[i] ** 2 for i in without)
    s11 = len(every) / (len(every) - 1) * sum(x[i] * y[i] for i in every)
    return area, s10 / m + s01 / k + 2 * s11 / (m * k)


@pytest.mark.parametrize("ties", [True, False])
def test_delong_equals_the_brute_force_over_pairs(ties: bool) -> None:
    labels, scores, _ = films(300, seed=1, ties=ties)
    y, both = labels[:, 1], scores[:, [0, 1]]
    areas, covariance = delong_by_pairs(y, both)
    margin = norm.ppf(0.975) * math.sqrt(covariance[1, 1])
    assert delong_interval(y, both[:, 1]) == pytest.approx((areas[1] - margin, areas[1] + margin), abs=1e-12)
    found = delong_test(y, both[:, 0], both[:, 1])
    deviation = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    z = (areas[0] - areas[1]) / deviation
    assert found.difference == pytest.approx(areas[0] - areas[1], abs=1e-12)
    assert found.z == pytest.approx(z, abs=1e-10)
    assert found.p_value == pytest.approx(2 * norm.cdf(-abs(z)), abs=1e-12)
    assert found.high - found.low == pytest.approx(2 * norm.ppf(0.975) * deviation, abs=1e-12)


@given(TIED)
def test_delong_with_ties_equals_the_brute_force(rows: list[tuple[int, int]]) -> None:
    labels, scores = np.array(rows).T
    low, high = delong_interval(labels, scores, level=0.9)
    if min(labels.sum(), (1 - labels).sum()) < 2:
        assert math.isnan(low)
        assert math.isnan(high)
        return
    areas, covariance = delong_by_pairs(labels, scores[:, None])
    margin = norm.ppf(0.95) * math.sqrt(covariance[0, 0])
    assert low == pytest.approx(max(areas[0] - margin, 0), abs=1e-10)
    assert high == pytest.approx(min(areas[0] + margin, 1), abs=1e-10)


def test_with_patients_delong_is_obuchowskis() -> None:
    labels, scores, patients = films(240, seed=2)
    y, s = labels[:, 1], scores[:, 1]
    area, variance = obuchowski_by_patients(y, s, patients)
    low, high = delong_interval(y, s, patients)
    assert (low + high) / 2 == pytest.approx(area, abs=1e-12)
    assert high - low == pytest.approx(2 * norm.ppf(0.975) * math.sqrt(variance), abs=1e-12)
    alone = [f"patient {k}" for k in range(len(y))]
    assert delong_interval(y, s, alone) == pytest.approx(delong_interval(y, s), abs=1e-14)


def test_delong_takes_findings_side_by_side_and_knows_equal_models() -> None:
    labels, scores, _ = films(200, seed=3)
    lows, highs = delong_interval(labels, scores)
    assert [delong_interval(labels[:, k], scores[:, k]) for k in range(3)] == list(zip(lows, highs, strict=True))
    other = np.round(scores + np.random.default_rng(0).normal(0, 0.1, scores.shape), 2)
    found = delong_test(labels, scores, other)
    assert found.p_value[2] == delong_test(labels[:, 2], scores[:, 2], other[:, 2]).p_value
    same = delong_test(labels[:, 0], scores[:, 0], 2 * scores[:, 0])
    assert (same.difference, same.z, same.p_value) == (0.0, 0.0, 1.0)
    assert math.isnan(delong_test(np.zeros(4), scores[:4, 0], scores[:4, 1]).p_value)


def test_delong_covers_the_true_area() -> None:
    """Of two normal scores one apart the area is the normal distribution at 1/sqrt(2); 95 % of intervals hold it."""
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(400):
        labels = np.repeat([0, 1], [60, 40])
        low, high = delong_interval(labels, rng.normal(labels, 1.0))
        covered += low <= norm.cdf(1 / math.sqrt(2)) <= high
    assert 0.91 <= covered / 400 <= 0.98  # 0.95 within 3 standard errors


def test_holm_by_hand() -> None:
    # Ordered .005 .01 .03 .04, times 4 3 2 1, and never below the one before.
    np.testing.assert_allclose(holm([0.01, 0.04, np.nan, 0.03, 0.005]), [0.03, 0.06, np.nan, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1.0, 1.0])
    assert holm([]).shape == (0,)


# The bootstrap


def resample_by_hand(
    labels: np.ndarray, scores: np.ndarray, patients: np.ndarray, resamples: int, seed: int
) -> np.ndarray:
    """Draws patients as `bootstrap_aurocs` does, and copies out their films."""
    rng = np.random.default_rng(seed)
    people = np.unique(patients)
    rows_of = [np.flatnonzero(patients == person) for person in people]
    drawn = (np.concatenate([rows_of[k] for k in rng.integers(0, len(people), len(people))]) for _ in range(resamples))
    return np.array([auroc(labels[rows], scores[rows]) for rows in drawn])


@pytest.mark.parametrize("ties", [True, False])
def test_every_resample_equals_its_films_written_out(ties: bool) -> None:
    labels, scores, patients = films(120, seed=5, ties=ties)
    expected = resample_by_hand(labels, scores, patients, 300, seed=7)
    found = bootstrap_aurocs(labels, scores, patients, resamples=300, seed=7)  # 300: a full chunk and part of one
    assert np.isnan(expected[:, 2]).any(), "some resample should have no film of the rare finding"
    np.testing.assert_allclose(found, expected, atol=1e-12)
    low, high = bootstrap_interval(labels[:, 0], scores[:, 0], patients, resamples=300, seed=7)
    np.testing.assert_allclose([low, high], np.percentile(expected[:, 0], [2.5, 97.5]), atol=1e-12)


def two_ways(runs: int, seed: int = 21) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels, the scores of two ways of training (runs, films, 3), and patients."""
    labels, scores, patients = films(160, seed=seed)
    noise = np.random.default_rng(seed).normal(0, 0.3, (2, runs, *scores.shape))
    return labels, scores + noise[0], scores + 0.1 * labels + noise[1], patients


def test_runs_on_films_that_do_not_vary_are_compared_by_the_paired_t_test() -> None:
    labels, scores, others, _ = two_ways(runs=4)
    found = compare_runs(labels, scores, others, patients=np.zeros(len(labels)), resamples=20)
    means = [[auroc(labels, each).mean() for each in way] for way in (scores, others)]
    expected = ttest_rel(*means)
    assert (found.z, found.p_value) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()), rel=1e-9)


def test_runs_that_are_all_alike_are_compared_as_one_over_resampled_patients() -> None:
    labels, scores, others, patients = two_ways(runs=1)
    by_hand = [
        np.nanmean(a - b)
        for a, b in zip(
            *(resample_by_hand(labels, way[0], patients, 300, seed=0) for way in (scores, others)), strict=True
        )
    ]
    difference = (auroc(labels, scores[0]) - auroc(labels, others[0])).mean()
    expected = norm.interval(0.95, difference, np.std(by_hand, ddof=1))
    one = compare_runs(labels, scores, others, patients, resamples=300)
    assert (one.low, one.high) == pytest.approx(expected, rel=1e-9)
    three = compare_runs(labels, np.repeat(scores, 3, axis=0), np.repeat(others, 3, axis=0), patients, resamples=300)
    assert three == pytest.approx(one, rel=1e-9)


def test_the_interval_of_a_comparison_holds_for_new_seeds_and_new_patients_together() -> None:
    labels, scores, others, patients = two_ways(runs=3)
    both = compare_runs(labels, scores, others, patients, resamples=300)
    seeds_alone = np.std(
        [(auroc(labels, a) - auroc(labels, b)).mean() for a, b in zip(scores, others, strict=True)], ddof=1
    )
    swapped = compare_runs(labels, others, scores, patients, resamples=300)
    assert (swapped.difference, swapped.low, swapped.p_value) == pytest.approx(
        (-both.difference, -both.high, both.p_value)
    )
    deviation = both.difference / both.z
    assert deviation > seeds_alone / np.sqrt(3)
    assert (both.high - both.low) / 2 > norm.ppf(0.975) * deviation  # Student's, not normal
    same = compare_runs(labels, scores, scores, patients, resamples=50)
    assert (same.difference, same.z, same.p_value) == (0, 0, 1)
    with pytest.raises(ValueError, match="scores are"):
        compare_runs(labels, scores, others[:2], patients)


def test_the_pairs_are_counted_beyond_32_bits() -> None:
    """100,000 films have more pairs than fit in one word; drawn all alike, they give the plain AUROC."""
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 2, (100_000, 1))
    scores = np.round(labels + rng.normal(0, 1, labels.shape), 2)
    order = np.lexsort((labels[:, 0], scores[:, 0]))
    rises = np.concatenate([[True], np.diff(scores[order, 0]) > 0])
    draws = np.full((100_000, 2), 3, np.uint8)
    low, high, positives, negatives = (
        np.asarray(s, np.float64)
        for s in metrics._weighted_pairs(draws, order[:, None].astype(np.int32), labels[order] > 0, rises[:, None])
    )
    assert high.min() > 1
    areas = (high * 2**32 + low) / (2 * positives * negatives)
    assert areas[0] == pytest.approx([auroc(labels[:, 0], scores[:, 0])] * 2, abs=1e-14)
    rows = np.random.default_rng(0).integers(0, 100_000, 100_000)
    drawn = bootstrap_aurocs(labels, scores, resamples=1)
    assert drawn[0, 0] == pytest.approx(auroc(labels[rows, 0], scores[rows, 0]), abs=1e-14)


def test_patients_widen_the_interval_where_their_films_are_copies() -> None:
    labels, scores, _ = films(150, seed=8)
    labels, scores, patients = (np.repeat(a, 4, axis=0) for a in (labels[:, 1], scores[:, 1], np.arange(150)))
    by_patient = bootstrap_interval(labels, scores, patients)
    by_film = bootstrap_interval(labels, scores)
    assert by_patient.high - by_patient.low > 1.6 * (by_film.high - by_film.low)  # four copies: twice as wide
    assert bootstrap_interval(labels, scores, patients) == by_patient
    assert bootstrap_interval(labels, scores, patients, seed=1) != by_patient


def test_an_interval_of_nothing_is_nan() -> None:
    low, high = bootstrap_interval(np.zeros((6, 2)), np.zeros((6, 2)), resamples=10)
    assert np.isnan(low).all()
    assert np.isnan(high).all()
    assert bootstrap_aurocs(np.zeros((0, 2)), np.zeros((0, 2)), resamples=10).shape == (10, 2)
    assert percentile_interval([3.0, np.nan, 1.0], level=0.5) == (1.5, 2.5)


# Calibration and thresholds


def test_calibration_equals_scikit_learns() -> None:
    labels, scores, _ = films(3000, seed=9, ties=False)
    for k in range(3):
        y, p = labels[:, k], scores[:, k]
        assert brier(labels, scores)[k] == pytest.approx(sklearn_metrics.brier_score_loss(y, p), abs=1e-12)
        curve = reliability_curve(y, p, bins=15)
        filled = curve.films > 0
        observed, predicted = calibration_curve(y, p, n_bins=15, strategy="uniform")
        np.testing.assert_allclose(curve.observed[filled], observed, atol=1e-12)
        np.testing.assert_allclose(curve.predicted[filled], predicted, atol=1e-12)
        assert curve.films.sum() == 3000
        expected = np.average(np.abs(observed - predicted), weights=curve.films[filled])
        assert expected_calibration_error(labels, scores)[k] == pytest.approx(expected, abs=1e-12)


def test_calibration_by_hand() -> None:
    # Two bins: {0.1, 0.3} with one of two, {0.9, 1.0} with two of two.
    labels, p = np.array([0, 1, 1, 1]), np.array([0.1, 0.3, 0.9, 1.0])
    assert expected_calibration_error(labels, p, bins=2) == pytest.approx((2 * 0.3 + 2 * 0.05) / 4)
    assert brier(labels, p) == pytest.approx((0.01 + 0.49 + 0.01 + 0) / 4)


@given(TIED, st.sampled_from([0.5, 0.8, 0.9, 1.0]))
@settings(max_examples=200)
def test_thresholds_are_the_best_of_all_that_there_are(rows: list[tuple[int, int]], sensitivity: float) -> None:
    labels, scores = np.array(rows, np.float64).T
    if not labels.any():
        assert math.isnan(youden_threshold(labels, scores))
        assert math.isnan(sensitivity_threshold(labels, scores, sensitivity))
        return
    tried = {t: confusion(labels, scores, t) for t in sorted(set(scores), reverse=True)}
    chosen = sensitivity_threshold(labels, scores, sensitivity)
    assert chosen == next(t for t, c in tried.items() if c.sensitivity >= sensitivity)
    if labels.all():
        assert math.isnan(youden_threshold(labels, scores))
    else:
        gains = {t: Fraction(c[0], sum(c[::2])) - Fraction(c[1], sum(c[1::2])) for t, c in tried.items()}
        assert youden_threshold(labels, scores) == max(gains, key=lambda t: (gains[t], t))


def test_confusion_equals_scikit_learns() -> None:
    labels, scores, _ = films(500, seed=10)
    found = confusion(labels[:, 1], scores[:, 1], 0.6)
    (tn, fp), (fn, tp) = sklearn_metrics.confusion_matrix(labels[:, 1], scores[:, 1] >= 0.6)
    assert found == (tp, fp, fn, tn)
    assert found.precision == pytest.approx(sklearn_metrics.precision_score(labels[:, 1], scores[:, 1] >= 0.6))
    assert math.isnan(confusion([1, 1], [0.1, 0.2], 0.5).specificity)


def test_cross_entropy_by_hand_and_at_the_ends() -> None:
    found = cross_entropy(np.array([[1.0], [0.0]]), np.array([[math.log(3)], [math.log(3)]]))
    assert found[0] == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)
    assert cross_entropy(np.array([[1.0]]), np.array([[1e4]]))[0] == 0.0


@pytest.mark.parametrize(
    ("losses", "epoch"),
    [
        ([3.0, 2.0, 1.0], 3),  # still falling: converged only at its end
        ([3.0, 1.0, 2.0, 1.5], 2),
        ([3.0, 1.0, 0.95, 0.92], 2),  # 0.08 below is within the tolerance of 0.1
        ([3.0, 1.0, 0.95, 0.85], 3),  # 0.15 below is not
        ([1.0], 1),
        ([], None),
    ],
)
def test_convergence_epoch(losses: list[float], epoch: int | None) -> None:
    assert convergence_epoch(losses, tolerance=0.1) == epoch


# Labels that are not known, and soft ones


def partly_known(count: int, seed: int = 0, ties: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `films`, but a third of the labels is NaN, a tenth soft; of the last finding nothing is known."""
    labels, scores, patients = films(count, seed, ties)
    rng = np.random.default_rng(seed + 100)
    labels = labels.astype(np.float32)
    chance = rng.random(labels.shape)
    labels[chance < 0.33] = np.nan
    labels[chance > 0.9] = rng.random((chance > 0.9).sum()) * 0.98 + 0.01
    labels = np.concatenate([labels, np.full((count, 1), np.nan, np.float32)], axis=1)
    return labels, np.concatenate([scores, scores[:, :1]], axis=1), patients


@pytest.mark.parametrize("ties", [True, False])
def test_every_figure_is_that_of_the_films_of_which_the_finding_is_known(ties: bool) -> None:
    labels, scores, patients = partly_known(3000, ties=ties)
    other = np.clip(np.round(scores + np.random.default_rng(0).normal(0, 0.2, scores.shape), 2), 0, 1)
    areas, precisions = auroc(labels, scores), average_precision(labels, scores)
    briers, calibration = brier(labels, scores), expected_calibration_error(labels, scores)
    alone, together = delong_interval(labels, scores), delong_interval(labels, scores, patients)
    paired = delong_test(labels, scores, other, patients)
    counts = count_films(labels)
    for k in range(3):
        rows = (labels[:, k] == 0) | (labels[:, k] == 1)
        y, s, who = labels[rows, k], scores[rows, k], patients[rows]
        assert 500 < rows.sum() < 2000
        assert (counts.known[k], counts.positives[k]) == (rows.sum(), y.sum())
        assert areas[k] == pytest.approx(sklearn_metrics.roc_auc_score(y, s), abs=1e-12)
        assert precisions[k] == pytest.approx(sklearn_metrics.average_precision_score(y, s), abs=1e-12)
        assert briers[k] == pytest.approx(sklearn_metrics.brier_score_loss(y, s), abs=1e-12)
        observed, predicted = calibration_curve(y, s, n_bins=15, strategy="uniform")
        if not ties:  # a score on a bin's edge is binned another way there
            weights = reliability_curve(labels[:, k], scores[:, k]).films
            assert weights.sum() == rows.sum()
            expected = np.average(np.abs(observed - predicted), weights=weights[weights > 0])
            assert calibration[k] == pytest.approx(expected, abs=1e-12)
        found = roc_curve(labels[:, k], scores[:, k])
        for ours, theirs in zip(found, sklearn_metrics.roc_curve(y, s, drop_intermediate=False), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-12)
        (tn, fp), (fn, tp) = sklearn_metrics.confusion_matrix(y, s >= 0.6)
        assert confusion(labels[:, k], scores[:, k], 0.6) == (tp, fp, fn, tn)
        area, covariance = delong_by_pairs(y, np.stack([s, other[rows, k]], axis=1))
        margin = norm.ppf(0.975) * math.sqrt(covariance[0, 0])
        assert (alone.low[k], alone.high[k]) == pytest.approx((area[0] - margin, area[0] + margin), abs=1e-12)
        _, variance = obuchowski_by_patients(y, s, who)
        assert together.high[k] - together.low[k] == pytest.approx(2 * norm.ppf(0.975) * math.sqrt(variance), abs=1e-12)
        assert tuple(x[k] for x in paired) == pytest.approx(tuple(delong_test(y, s, other[rows, k], who)), rel=1e-9)
    for figures in (areas, precisions, briers, calibration, *alone, *together, *paired):
        assert math.isnan(figures[3])
    assert why_undefined(labels[:, 3]) == "it is known of no film"
    assert (counts.known[3], counts.positives[3]) == (0, 0)
    assert count_films([1, 0, np.nan, 0.5, 1]) == (3, 2)


UNKNOWN = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0, 0.5, math.nan]), st.integers(0, 5)), min_size=1, max_size=40
).map(lambda rows: np.array(rows, np.float64).T)


@given(UNKNOWN, st.sampled_from([0.5, 0.9]))
@settings(max_examples=200)
def test_leaving_films_out_by_nan_and_by_hand_is_the_same(rows: np.ndarray, sensitivity: float) -> None:
    labels, scores = rows[0], rows[1] / 5
    known = (labels == 0) | (labels == 1)
    y, s = labels[known], scores[known]
    for figure in (
        auroc, average_precision, brier, expected_calibration_error, youden_threshold, delong_interval,
        lambda y, s: sensitivity_threshold(y, s, sensitivity), lambda y, s: confusion(y, s, 0.4),
        lambda y, s: delong_test(y, s, s**2 % 0.3),
    ):  # fmt: skip
        np.testing.assert_allclose(figure(labels, scores), figure(y, s), rtol=0, atol=1e-12)
    for curve in (reliability_curve, roc_curve):
        for with_nan, by_hand in zip(curve(labels, scores), curve(y, s), strict=True):
            np.testing.assert_array_equal(with_nan, by_hand)
    assert why_undefined(labels) == (why_undefined(y) if len(y) else "it is known of no film")


@pytest.mark.parametrize("ties", [True, False])
def test_every_resample_leaves_out_what_is_not_known(ties: bool) -> None:
    labels, scores, patients = partly_known(150, seed=5, ties=ties)
    found = bootstrap_aurocs(labels, scores, patients, resamples=300, seed=7)
    np.testing.assert_allclose(found, resample_by_hand(labels, scores, patients, 300, seed=7), atol=1e-12)
    assert np.isfinite(found[:, 0]).all()
    assert np.isnan(found[:, 3]).all()
    interval = bootstrap_interval(labels, scores, patients, resamples=300, seed=7)
    np.testing.assert_allclose(interval.low[0], np.percentile(found[:, 0], 2.5), atol=1e-12)
    assert math.isnan(interval.high[3])


def test_the_cross_entropy_takes_soft_labels_and_the_mean_is_over_all_that_is_known() -> None:
    labels, scores, _ = partly_known(200, ties=False)
    logits = np.log(scores / (1 - scores))
    each = -labels * np.log(scores) - (1 - labels) * np.log(1 - scores)
    known = ~np.isnan(labels)
    found = cross_entropy(labels, logits)
    for k in range(3):
        assert found[k] == pytest.approx(each[known[:, k], k].mean(), abs=1e-6)
        y = np.clip(labels[known[:, k], k], 0, 1)
        p = scores[known[:, k], k]
        expected = sklearn_metrics.log_loss(  # a soft label is so much of a positive and of a negative film
            np.r_[np.ones_like(y), np.zeros_like(y)], np.r_[p, p], sample_weight=np.r_[y, 1 - y], labels=[0, 1]
        )
        assert found[k] == pytest.approx(expected, abs=1e-6)
    assert math.isnan(found[3])
    assert mean_cross_entropy(labels, logits) == pytest.approx(each[known].mean(), abs=1e-6)
    assert math.isnan(mean_cross_entropy(np.full((3, 2), np.nan), np.zeros((3, 2))))
    whole = np.random.default_rng(0).integers(0, 2, (200, 4))
    plain = (np.logaddexp(0.0, logits) - whole * logits).mean(axis=0)
    np.testing.assert_array_equal(cross_entropy(whole, logits), plain)
    assert mean_cross_entropy(whole, logits) == plain.mean()


def test_the_films_that_are_known_need_not_be_the_same_for_two_findings_of_a_paired_test() -> None:
    labels, scores, _ = films(300, seed=3)
    labels = labels.astype(float)
    labels[:100, 0], labels[150:, 1] = np.nan, np.nan
    other = np.round(scores + np.random.default_rng(0).normal(0, 0.1, scores.shape), 2)
    found = delong_test(labels, scores, other)
    first = delong_test(labels[100:, 0], scores[100:, 0], other[100:, 0])
    second = delong_test(labels[:150, 1], scores[:150, 1], other[:150, 1])
    np.testing.assert_allclose([found.p_value[0], found.z[1]], [first.p_value, second.z], rtol=1e-12)
