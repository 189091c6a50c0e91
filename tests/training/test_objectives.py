"""The losses against scalar loops written from their formulas, and SciPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax

from chexjax.training.objectives import bernoulli_kl, binary_cross_entropy, mutual_loss, softmax_kl

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


@pytest.mark.parametrize("kl", ["bernoulli", "softmax"])
def test_mutual_loss_is_the_sum_of_its_terms_and_holds_the_peer_fixed(kl: str) -> None:
    rng = np.random.default_rng(0)
    own, peer = rng.normal(size=(2, 4, 14))
    labels = rng.integers(0, 2, (4, 14))
    divergence = {"bernoulli": bernoulli_kl, "softmax": softmax_kl}[kl](peer, own, 2.0)
    expected = float(binary_cross_entropy(own, labels).mean() + 0.3 * divergence)
    arguments = {"weight": 0.3, "kl": kl, "temperature": 2.0}
    assert float(mutual_loss(own, peer, labels, **arguments)) == pytest.approx(expected, rel=1e-6)
    to_own, to_peer = jax.grad(mutual_loss, argnums=(0, 1))(own, peer, labels, **arguments)
    assert not np.any(to_peer)
    assert np.any(to_own)


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
