"""Probabilities that keep the order of logits, against SciPy's sigmoid and over float32 numbers of every size."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from chexjax.models.probability import probability_of

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(FLOATS, FLOATS)
@settings(max_examples=500)
def test_of_two_logits_that_differ_the_greater_has_the_greater_probability(a: float, b: float) -> None:
    p, q = probability_of([a, b])
    assert (p < q, p == q, p > q) == (a < b, a == b, a > b)
    assert 0 < p < 1


def test_neighbours_differ_at_every_size() -> None:
    """Numbers of all exponents, and every number around the places where the rule changes."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 0x7F7FFFFF, 300_000)
    edges = np.float32([0, 1e-9, 1.9e-7, 3.7e-7, 15.9, 15.97, 16, 22, 24, 37, 88, 104, 708, 745, 3.4e38]).view(np.int32)
    bits = np.concatenate([bits, np.clip((edges[:, None] + np.arange(-3000, 3000)).ravel(), 0, 0x7F7FFFFE)])
    sizes = np.concatenate([bits, bits + 1]).astype(np.int32).view(np.float32)
    logits = np.unique(np.concatenate([sizes, -sizes]))
    p = probability_of(logits)
    assert (np.diff(p) > 0).all()
    assert np.abs(p - expit(logits.astype(np.float64))).max() < 1.2e-7


def test_it_is_the_sigmoid_where_that_can_tell() -> None:
    logits = np.concatenate([np.linspace(-700, -1e-6, 5000), np.linspace(1e-6, 15.9, 5000)]).astype(np.float32)
    np.testing.assert_allclose(probability_of(logits), expit(logits.astype(np.float64)), rtol=5e-16)  # NumPy's exp
    np.testing.assert_array_equal(probability_of([np.nan, np.inf, -np.inf, 0.0, -0.0]), [np.nan, 1.0, 0.0, 0.5, 0.5])
    assert probability_of(np.zeros((2, 3, 4))).shape == (2, 3, 4)
    assert probability_of(0.0) == 0.5
