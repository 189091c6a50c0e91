"""Calibration against scikit-learn's calibrators, and what must hold of every curve."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.calibration import _sigmoid_calibration, _TemperatureScaling
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss, roc_auc_score

from chexjax.errors import ConfigError, DataError
from chexjax.evaluation.metrics import expected_calibration_error
from chexjax.trust import calibration
from chexjax.trust.calibration import Calibration, Curve, read_prevalence

FILMS = 3000
KINDS = ("none", "temperature", "platt", "isotonic")


def films(seed: int, truth=lambda z: z, count: int = FILMS) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities: the network says expit(z), and expit(truth(z)) is right."""
    random = np.random.default_rng(seed)
    z = random.normal(-1.5, 1.5, count)
    return (random.random(count) < expit(truth(z))).astype(np.float64), expit(z)


SHIFTED = films(0, lambda z: 0.5 * z - 1.0)


def test_isotonic_is_scikit_learns() -> None:
    labels, p = SHIFTED
    p = p.round(2)  # with ties
    curve = calibration.fit_isotonic(labels, p)
    theirs = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p, labels)
    at = np.linspace(0.001, 0.999, 997)
    x, y = np.array(curve.knots).T
    np.testing.assert_allclose(np.interp(at, x, y), theirs.predict(at), atol=1e-12)
    np.testing.assert_allclose(curve.apply(at), theirs.predict(at), atol=0.01)  # the rise that keeps the order


def test_platt_is_scikit_learns() -> None:
    labels, p = SHIFTED
    curve = calibration.fit_platt(labels, p)
    a, b = _sigmoid_calibration(logit(p), labels)
    assert [curve.slope, curve.offset] == pytest.approx([-a, -b], rel=1e-4)
    assert [curve.slope, curve.offset] == pytest.approx([0.5, -1.0], abs=0.15)


def test_temperature_is_scikit_learns() -> None:
    labels, p = films(1, lambda z: 0.4 * z)
    curve = calibration.fit_temperature(labels, p)
    theirs = _TemperatureScaling().fit(logit(p)[:, None], labels)
    # Of two classes scikit-learn scales the pair (-z, z): the logit is twice the difference.
    assert curve.slope == pytest.approx(2 * theirs.beta_, rel=1e-4)
    assert curve.slope == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize(
    ("truth", "kind"),
    [
        (lambda z: z, "none"),
        (lambda z: 0.3 * z, "temperature"),
        (lambda z: 0.8 * z - 1.5, "platt"),
        (lambda z: np.where(z > -1.5, 1.0, -4.0), "isotonic"),  # a step
    ],
)
def test_the_kind_that_made_the_labels_is_chosen_and_helps_on_new_films(truth, kind: str) -> None:
    labels, p = films(3, truth)
    fitted = Calibration.fit(labels[:, None], p[:, None], [str(k) for k in range(FILMS)])
    losses = fitted.log_losses[0]
    assert set(losses) == set(KINDS)
    assert losses[fitted.curves[0].kind] == min(losses.values())
    assert losses[kind] == pytest.approx(min(losses.values()), abs=1e-3)
    labels, p = films(4, truth)
    after = fitted.apply(p[:, None])[:, 0]
    assert log_loss(labels, after) <= log_loss(labels, p) + 1e-3
    assert expected_calibration_error(labels, after) < 0.03
    if kind not in ("none",):
        assert log_loss(labels, after) < log_loss(labels, p) - 0.01


def test_cross_validated_losses_are_those_of_a_plain_loop() -> None:
    labels, p = SHIFTED
    patients = [str(k // 3) for k in range(FILMS)]
    fitted = Calibration.fit(labels[:, None], p[:, None], patients)
    folds = calibration._folds(patients)
    assert all(len(set(folds[3 * k : 3 * k + 3])) == 1 for k in range(FILMS // 3))
    total = 0.0
    for fold in range(calibration.FOLDS):
        a, b = _sigmoid_calibration(logit(p[folds != fold]), labels[folds != fold])
        total += log_loss(labels[folds == fold], expit(-(a * logit(p[folds == fold]) + b)), normalize=False)
    assert fitted.log_losses[0]["platt"] == pytest.approx(total / FILMS, rel=1e-5)


CURVES = st.sampled_from(
    [
        Curve("temperature", slope=0.2),
        Curve("platt", 3.0, -2.0),
        Curve("platt", 0.5, 1.0, shift=2.5),
        Curve("isotonic", knots=((0.1, 0.0), (0.4, 0.0), (0.5, 0.3), (0.9, 0.3))),
        Curve("isotonic", knots=((0.2, 0.1), (0.3, 1.0)), shift=-1.0),
        Curve("none", shift=1.0),
    ]
)


@settings(max_examples=200, deadline=None)
@given(CURVES, st.lists(st.floats(1e-6, 1 - 1e-6), min_size=2, max_size=30), st.floats(1e-6, 1 - 1e-6))
def test_no_curve_changes_a_call_or_the_order(curve: Curve, values: list[float], threshold: float) -> None:
    p = np.array(values)
    p = p[(np.abs(p - threshold) > 1e-9) | (p == threshold)]
    after = curve.apply(p)
    np.testing.assert_array_equal(after >= curve.apply(np.float64(threshold)), p >= threshold)
    order = np.argsort(p, kind="stable")
    assert (np.diff(after[order]) >= 0).all()
    assert ((after > 0) & (after < 1)).all()


def test_auroc_stays_the_same_where_steps_are_flat() -> None:
    labels, p = films(5, lambda z: np.where(z > -1.5, 1.0, -4.0))
    curve = calibration.fit_isotonic(labels, p)
    assert roc_auc_score(labels, curve.apply(p)) == pytest.approx(roc_auc_score(labels, p), abs=1e-12)


def test_unknown_and_soft_labels_are_left_out() -> None:
    labels, p = SHIFTED
    known = np.arange(FILMS) % 3 > 0
    holes = np.where(known, labels, np.where(np.arange(FILMS) % 2, math.nan, 0.4))
    patients = [str(k) for k in range(FILMS)]
    fitted = Calibration.fit(holes[:, None], p[:, None], patients)
    alone = getattr(calibration, f"fit_{fitted.curves[0].kind}")(labels[known], p[known])
    assert fitted.curves[0] == alone
    assert fitted.prevalence[0] == pytest.approx(labels[known].mean())
    assert alone.kind != "none"


def test_of_few_positives_nothing_is_fitted() -> None:
    p = SHIFTED[1]
    few = np.zeros(FILMS)
    few[:9] = 1
    nothing = np.full(FILMS, math.nan)
    fitted = Calibration.fit(np.stack([few, nothing], 1), np.stack([p, p], 1), [str(k) for k in range(FILMS)])
    assert fitted.curves == (Curve(), Curve())
    assert math.isnan(fitted.prevalence[1])
    np.testing.assert_array_equal(fitted.apply(np.stack([p, p], 1)), np.stack([p, p], 1))


def test_a_finding_worse_than_chance_does_not_turn_round() -> None:
    labels, p = films(6, lambda z: -z)
    fitted = Calibration.fit(labels[:, None], p[:, None], [str(k) for k in range(FILMS)])
    after = fitted.apply(p[:, None])[:, 0]
    assert (np.diff(after[np.argsort(p)]) >= 0).all()


def test_another_prevalence_is_bayes() -> None:
    """Films of a site where the finding is five times rarer, by leaving positives out."""
    labels, p = SHIFTED
    fitted = Calibration.fit(labels[:, None], p[:, None], [str(k) for k in range(FILMS)])
    labels, p = films(7, lambda z: 0.5 * z - 1.0, 60_000)
    keep = (labels == 0) | (np.arange(len(labels)) % 5 == 0)
    labels, p = labels[keep], p[keep]
    site = fitted.at_prevalence({"Mass": float(labels.mean())}, ["Mass"])
    there, here = site.apply(p[:, None])[:, 0], fitted.apply(p[:, None])[:, 0]
    prior, posterior = fitted.prevalence[0], labels.mean()
    odds = here / (1 - here) * posterior / (1 - posterior) * (1 - prior) / prior
    np.testing.assert_allclose(there, odds / (1 + odds), rtol=1e-9)
    assert there.mean() == pytest.approx(labels.mean(), rel=0.15)
    assert log_loss(labels, there) < log_loss(labels, here) - 0.01
    with pytest.raises(ConfigError, match="Hernia"):
        fitted.at_prevalence({"Hernia": 0.1}, ["Mass"])


def test_json_gives_back_the_same_and_refuses_what_is_none() -> None:
    labels, p = SHIFTED
    both = np.stack([labels, np.full(FILMS, math.nan)], 1), np.stack([p, p], 1)
    fitted = Calibration.fit(*both, [str(k) for k in range(FILMS)])
    text = json.dumps(fitted.to_json(), allow_nan=False)
    again = Calibration.from_json(json.loads(text), 2)
    np.testing.assert_array_equal(again.apply(both[1]), fitted.apply(both[1]))
    for broken in (
        {**fitted.to_json(), "curves": []},
        {**fitted.to_json(), "curves": [{**fitted.to_json()["curves"][0], "slope": -1.0}] * 2},
        {**fitted.to_json(), "curves": [{**fitted.to_json()["curves"][0], "kind": "isotonic"}] * 2},
    ):
        with pytest.raises(ValueError, match=r"curve"):
            Calibration.from_json(broken, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_jax_gives_the_same(kind: str) -> None:
    labels, p = SHIFTED
    curve = getattr(calibration, f"fit_{kind}")(labels, p)
    both = Calibration((curve, Curve(shift=0.7)), (0.1, 0.2))
    found = jax.jit(lambda p: both.apply(p, jnp))(jnp.asarray(np.stack([p, p], 1), jnp.float32))
    np.testing.assert_allclose(found, both.apply(np.stack([p, p], 1)), atol=2e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Mass,0.2\n", "first line"),
        ("finding,prevalence\nMass,20 %\n", "line 2"),
        ("finding,prevalence\nMass,1.0\n", "between 0 and 1"),
        ("finding,prevalence\nMass,0.1\nMass,0.2\n", "twice"),
    ],
)
def test_a_table_of_prevalences_is_checked(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "site.csv"
    path.write_text("finding,prevalence\nMass,0.2\n\nPleural Effusion,0.01\n")
    assert read_prevalence(path) == {"Mass": 0.2, "Pleural Effusion": 0.01}
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_prevalence(path)
