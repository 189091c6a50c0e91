"""The losses against scalar loops written from their formulas, and SciPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.nn import log_sigmoid
from scipy.special import rel_entr, softmax

from chexjax.training.objectives import (
    asymmetric_loss,
    bernoulli_kl,
    bernoulli_soft_targets,
    binary_cross_entropy,
    focal_loss,
    is_known,
    known_prevalence,
    mean_of_known,
    means_of_known,
    smooth,
    softmax_kl,
    softmax_soft_targets,
    weighted_cross_entropy,
)

LOGITS = st.lists(st.floats(-8, 8), min_size=6, max_size=6).map(lambda v: np.array(v).reshape(2, 3))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@settings(max_examples=50, deadline=None)
@given(LOGITS, LOGITS, st.floats(0.5, 8))
def test_bernoulli_kl_is_the_scalar_formula(p_logits: np.ndarray, q_logits: np.ndarray, temperature: float) -> None:
    terms = []
    for a, b in zip(p_logits.ravel(), q_logits.ravel(), strict=True):
        p, q = sigmoid(a / temperature), sigmoid(b / temperature)
        terms.append(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    expected = temperature**2 * sum(terms) / len(terms)
    assert float(bernoulli_kl(p_logits, q_logits, temperature)) == pytest.approx(expected, rel=1e-3, abs=2e-5)


@settings(max_examples=50, deadline=None)
@given(LOGITS, LOGITS, st.floats(0.5, 8))
def test_softmax_kl_is_scipys(p_logits: np.ndarray, q_logits: np.ndarray, temperature: float) -> None:
    p, q = (softmax(x / temperature, axis=-1) for x in (p_logits, q_logits))
    expected = temperature**2 * rel_entr(p, q).sum(-1).mean()
    assert float(softmax_kl(p_logits, q_logits, temperature)) == pytest.approx(expected, rel=1e-3, abs=2e-5)


def test_direction_of_the_divergence() -> None:
    # p = 0.5, q = 0.9: KL(p || q) = 0.5 ln(0.5/0.9) + 0.5 ln(0.5/0.1) = 0.5108, KL(q || p) = 0.3681
    p, q = jnp.zeros((1, 1)), jnp.full((1, 1), math.log(9))
    assert float(bernoulli_kl(p, q)) == pytest.approx(0.5108256, abs=1e-6)
    assert float(bernoulli_kl(q, p)) == pytest.approx(0.3680642, abs=1e-6)
    two = jnp.array([[0.0, math.log(9)]])
    assert float(softmax_kl(jnp.zeros((1, 2)), two)) == pytest.approx(0.5108256, abs=1e-6)


def test_cross_entropy_by_hand() -> None:
    logits = jnp.array([[math.log(3), 0.0]])  # probabilities 3/4 and 1/2
    found = binary_cross_entropy(logits, jnp.array([[1, 0]], jnp.uint8))
    np.testing.assert_allclose(found, [[-math.log(0.75), -math.log(0.5)]], rtol=1e-6)


def test_gradient_of_the_bernoulli_kl_is_the_difference_of_probabilities() -> None:
    p, q = np.random.default_rng(0).normal(size=(2, 3, 5))
    expected = (1 / (1 + np.exp(-q)) - 1 / (1 + np.exp(-p))) / 15
    np.testing.assert_allclose(jax.grad(bernoulli_kl, argnums=1)(p, q), expected, rtol=1e-4, atol=1e-7)


def test_temperature_keeps_the_size_of_the_gradient() -> None:
    """In the limit of a high T the gradient of T^2 KL is (b - a) / 4: it does not fade (Hinton et al. 2015)."""
    p, q = np.random.default_rng(0).normal(size=(2, 1, 6))
    np.testing.assert_allclose(jax.grad(bernoulli_kl, argnums=1)(p, q, 1000.0), (q - p) / 4 / 6, rtol=1e-2)


@pytest.mark.parametrize("loss", [bernoulli_kl, softmax_kl])
def test_extreme_logits_stay_finite(loss) -> None:
    far = jnp.array([[1e4, -1e4, 0.0]])
    value, gradient = jax.value_and_grad(loss, argnums=1)(far, -far)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert float(loss(far, far)) == 0.0


# What is not known, and what is soft

WEIGHTS = np.array([3.0, 0.5, 20.0])
# Each loss beside its formula for one film and finding: logit, label, the finding's weight.
LOSSES = {
    "bce": (
        binary_cross_entropy,
        lambda z, y, w: -y * math.log(sigmoid(z)) - (1 - y) * math.log(sigmoid(-z)),
    ),
    "weighted_bce": (
        lambda z, y: weighted_cross_entropy(z, y, jnp.asarray(WEIGHTS, jnp.float32)),
        lambda z, y, w: -w * y * math.log(sigmoid(z)) - (1 - y) * math.log(sigmoid(-z)),
    ),
    "focal": (
        lambda z, y: focal_loss(z, y, 2.0),
        lambda z, y, w: (
            -y * sigmoid(-z) ** 2 * math.log(sigmoid(z)) - (1 - y) * sigmoid(z) ** 2 * math.log(sigmoid(-z))
        ),
    ),
    "asymmetric": (
        lambda z, y: asymmetric_loss(z, y, 1.0, 4.0, 0.05),
        lambda z, y, w: (
            -y * sigmoid(-z) * math.log(sigmoid(z))
            - (1 - y) * max(sigmoid(z) - 0.05, 0) ** 4 * math.log(1 - max(sigmoid(z) - 0.05, 0))
        ),
    ),
    "smoothed": (
        lambda z, y: binary_cross_entropy(z, smooth(y, 0.2)),
        lambda z, y, w: -(0.8 * y + 0.1) * math.log(sigmoid(z)) - (1 - (0.8 * y + 0.1)) * math.log(sigmoid(-z)),
    ),
}
LABELS = st.lists(
    st.one_of(st.sampled_from([0.0, 1.0, math.nan]), st.floats(0, 1, width=32)), min_size=6, max_size=6
).map(lambda v: np.array(v, np.float32).reshape(2, 3))


def known_mean(loss, logits, labels):
    return mean_of_known(loss(logits, labels), is_known(labels).sum(axis=0))


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=40, deadline=None)
@given(logits=LOGITS, labels=LABELS)
def test_every_loss_is_the_mean_over_what_is_known(name: str, logits: np.ndarray, labels: np.ndarray) -> None:
    """Against a loop; soft labels count in part. Central differences of the loop for the gradient."""
    ours, formula = LOSSES[name]

    def by_hand(logits: np.ndarray) -> float:
        terms = [
            formula(logits[i, k], float(labels[i, k]), WEIGHTS[k])
            for i in range(2)
            for k in range(3)
            if not math.isnan(labels[i, k])
        ]
        return sum(terms) / len(terms) if terms else 0.0

    value, gradient = jax.value_and_grad(lambda z: known_mean(ours, z, jnp.asarray(labels)))(
        jnp.asarray(logits, jnp.float32)
    )
    assert float(value) == pytest.approx(by_hand(logits), rel=1e-4, abs=1e-5)
    for index in np.ndindex(2, 3):
        if math.isnan(labels[index]):
            assert gradient[index] == 0
            continue
        step = np.zeros((2, 3))
        step[index] = 1e-5
        slope = (by_hand(logits + step) - by_hand(logits - step)) / 2e-5
        assert float(gradient[index]) == pytest.approx(slope, rel=2e-3, abs=2e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_without_an_unknown_label_every_loss_is_to_the_bit_what_a_plain_mean_gives(name: str) -> None:
    """A plain mean of the formulas as they stand in the papers: no mask, no count."""
    z, y = _many_logits()
    z, y = jnp.asarray(z), jnp.asarray(y)
    plain = {
        "bce": lambda z, y: -y * log_sigmoid(z) - (1.0 - y) * log_sigmoid(-z),
        "weighted_bce": lambda z, y: (
            -jnp.asarray(WEIGHTS, jnp.float32) * y * log_sigmoid(z) - (1.0 - y) * log_sigmoid(-z)
        ),
        "focal": lambda z, y: (
            -y * (_squared(jax.nn.sigmoid(-z)) * log_sigmoid(z))
            - (1.0 - y) * (_squared(jax.nn.sigmoid(z)) * log_sigmoid(-z))
        ),
        "asymmetric": _plain_asymmetric,
        "smoothed": lambda z, y: -(y * 0.8 + 0.1) * log_sigmoid(z) - (1.0 - (y * 0.8 + 0.1)) * log_sigmoid(-z),
    }[name]
    found = jax.jit(jax.value_and_grad(lambda z: known_mean(LOSSES[name][0], z, y)))(z)
    expected = jax.jit(jax.value_and_grad(lambda z: plain(z, y).mean()))(z)
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])


def _many_logits() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(0, 3, (56, 3)).astype(np.float32), rng.integers(0, 2, (56, 3)).astype(np.float32)


def _squared(x: jax.Array) -> jax.Array:
    return jnp.where(x > 0, jnp.where(x > 0, x, 1.0) ** 2.0, 0.0)


def _plain_asymmetric(z: jax.Array, y: jax.Array) -> jax.Array:
    shifted = jnp.maximum(jax.nn.sigmoid(z) - 0.05, 0.0)
    positive = jax.nn.sigmoid(-z) * log_sigmoid(z)
    negative = jnp.where(shifted > 0, jnp.where(shifted > 0, shifted, 1.0) ** 4.0, 0.0) * jnp.log1p(-shifted)
    return -y * positive - (1.0 - y) * negative


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_known_is_no_loss_and_no_gradient_even_at_extreme_logits(name: str) -> None:
    far = jnp.array([[1e30, -1e30, 0.0], [3e38, -3e38, 1e4]])
    value, gradient = jax.value_and_grad(lambda z: known_mean(LOSSES[name][0], z, jnp.full((2, 3), jnp.nan)))(far)
    assert value == 0
    assert not np.any(gradient)


def test_shares_of_a_batch_average_to_the_batch_however_unevenly_labels_fall() -> None:
    """`mean_of_known` with the mean of the shares' counts: two shares of six known labels and of one."""
    each = jnp.array([[1.0, 2.0], [4.0, 8.0], [16.0, 32.0], [0.0, 64.0]])
    known = jnp.array([[True, True], [True, True], [True, True], [False, True]])
    each = jnp.where(known, each, 0.0)
    counts = known.reshape(2, 2, 2).sum(axis=1).mean(axis=0)
    shares = [mean_of_known(each[:2], counts), mean_of_known(each[2:], counts)]
    assert float(sum(shares)) / 2 == pytest.approx(127 / 7)
    per_finding = [means_of_known(each[:2], counts), means_of_known(each[2:], counts)]
    np.testing.assert_allclose(sum(per_finding) / 2, [21 / 3, 106 / 4], rtol=1e-6)


def test_one_known_label_among_four_shares_counts_once() -> None:
    """The mean of the shares' counts is then a quarter."""
    counts = jnp.array([0.25, 0.0])
    shares = [mean_of_known(jnp.array([[value, 0.0]]), counts) for value in (3.0, 0.0, 0.0, 0.0)]
    assert float(sum(shares)) / 4 == pytest.approx(3.0)
    per_finding = [means_of_known(jnp.array([[value, 0.0]]), counts) for value in (3.0, 0.0, 0.0, 0.0)]
    np.testing.assert_allclose(sum(per_finding) / 4, [3.0, 0.0])


def test_prevalence_is_that_of_the_known() -> None:
    np.testing.assert_array_equal(known_prevalence(np.array([[1, 0], [np.nan, np.nan]], np.float32)), [1.0, 0.0])
    labels = np.array([[1, np.nan, 0.25], [0, np.nan, np.nan], [0, np.nan, 0.75], [np.nan, np.nan, 1]], np.float32)
    np.testing.assert_allclose(known_prevalence(labels), [1 / 3, 0.5, 2 / 3])
    whole = np.random.default_rng(2).integers(0, 2, (1000, 14))
    np.testing.assert_array_equal(known_prevalence(whole.astype(np.float32)), whole.mean(axis=0))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_targets_count_where_there_are_any_and_weigh_a_film_the_same_in_any_batch(temperature: float) -> None:
    rng = np.random.default_rng(3)
    p, q = rng.normal(size=(2, 4, 5)).astype(np.float32)
    has = rng.random((4, 5)) < 0.6
    has[1], has[2] = True, False
    a, b = (1 / (1 + np.exp(-x.astype(np.float64) / temperature)) for x in (p, q))
    each = -a * np.log(b) - (1 - a) * np.log(1 - b)
    target = np.where(has, p, np.nan)
    found, gradient = jax.value_and_grad(bernoulli_soft_targets, argnums=1)(target, q, temperature, has)
    assert float(found) == pytest.approx(temperature**2 * each[has].sum() / 20, rel=1e-5)
    np.testing.assert_allclose(gradient, np.where(has, temperature * (b - a), 0) / 20, rtol=1e-4, atol=1e-7)
    a, b = (softmax(x.astype(np.float64) / temperature, axis=-1) for x in (p, q))
    whole = has.all(axis=1)
    found, gradient = jax.value_and_grad(softmax_soft_targets, argnums=1)(target, q, temperature, has)
    assert float(found) == pytest.approx(temperature**2 * -(a * np.log(b))[whole].sum() / 4, rel=1e-5)
    expected = np.where(whole[:, None], temperature * (b - a), 0) / 4
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)
    for soft_targets in (bernoulli_soft_targets, softmax_soft_targets):
        assert soft_targets(p, q, temperature, np.ones((4, 5), bool)) == soft_targets(p, q, temperature)
