"""Losses as pure functions of logits; every mean is over films and findings alike, so that weights compare.

Logits are float (batch, findings), labels the same shape: 0 absent, 1 present, between them soft, NaN not known. A loss
is 0 where the label is not known, and so is its gradient; its mean, `mean_of_known`, is over what is known. A
Kullback-Leibler divergence needs no label, and is a mean over everything.

A divergence is KL(p || q) = sum p ln(p / q), with the target `p` first: torch's argument order, and the formula that
the report prints, are the other way about.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_sigmoid, log_softmax, sigmoid


def is_known(labels: jax.Array) -> jax.Array:
    """Which labels are known: bool, the same shape."""
    return ~jnp.isnan(labels)


def mean_of_known(each: jax.Array, known: jax.Array) -> jax.Array:
    """The sum of unreduced losses, 0 where a label is not known, over the number that is known; 0 where none is.

    Args:
      each: float (batch, findings).
      known: float (findings,), how many films each finding is known of. In a share of a batch: the mean over the
        shares. The mean over the shares of the result is then that of the whole batch, however unevenly the known
        labels fall.
    """
    return each.sum() * _reciprocal(known.sum())


def means_of_known(each: jax.Array, known: jax.Array) -> jax.Array:
    """The same finding by finding, float (findings,)."""
    return each.sum(axis=0) * _reciprocal(known)


def _reciprocal(count: jax.Array) -> jax.Array:
    """1 / count, and 1 where it is 0. XLA compiles a mean as such a product, so that this is a mean to the last bit."""
    return 1.0 / jnp.where(count > 0, count, 1.0)


def known_prevalence(labels: np.ndarray) -> np.ndarray:
    """The share of films with each finding, among those of which it is known; a soft label counts as what it is.

    (films, findings) -> float64 (findings,); 1/2 for a finding that is known of no film: its two classes weigh alike.
    """
    known = ~np.isnan(labels)
    count = known.sum(axis=0)
    total = np.where(known, labels, 0.0).sum(axis=0, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), 0.5)


def _of_known(loss: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`loss` (logits, labels, ...), 0 where a label is NaN.

    The label is replaced before the loss is computed: a NaN that is only masked afterwards stays in the gradient.
    """

    @wraps(loss)
    def masked(logits: jax.Array, labels: jax.Array, *arguments: Any) -> jax.Array:
        logits, labels = jnp.asarray(logits), jnp.asarray(labels)
        labels = labels.astype(logits.dtype)
        known = is_known(labels)
        return jnp.where(known, loss(logits, jnp.where(known, labels, 0.0), *arguments), 0.0)

    return masked


@_of_known
def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-y ln p - (1 - y) ln(1 - p) for each film and finding, unreduced; 0 where a label is NaN.

    Returns:
      float (batch, findings), in nats.
    """
    return -labels * log_sigmoid(logits) - (1.0 - labels) * log_sigmoid(-logits)


@_of_known
def weighted_cross_entropy(logits: jax.Array, labels: jax.Array, positive_weight: jax.Array) -> jax.Array:
    """Binary cross-entropy whose positive term counts `positive_weight` (findings,) times, unreduced; 0 at NaN.

    With the ratio of negatives to positives a finding's two classes weigh alike, as in torch's `pos_weight`. The
    probabilities that a network learns by it are then too high by that ratio in odds.
    """
    return -positive_weight * labels * log_sigmoid(logits) - (1.0 - labels) * log_sigmoid(-logits)


@_of_known
def focal_loss(logits: jax.Array, labels: jax.Array, gamma: float) -> jax.Array:
    """-(1 - p_t)^gamma ln p_t, p_t the probability of what is true; unreduced; 0 at NaN. Gamma 0: the cross-entropy.

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 4 (without its alpha). A soft label y takes
    y times the loss of a positive and 1 - y times that of a negative.
    """
    positive = _power(sigmoid(-logits), gamma) * log_sigmoid(logits)
    negative = _power(sigmoid(logits), gamma) * log_sigmoid(-logits)
    return -labels * positive - (1.0 - labels) * negative


@_of_known
def asymmetric_loss(
    logits: jax.Array, labels: jax.Array, gamma_positive: float, gamma_negative: float, margin: float
) -> jax.Array:
    """A focal loss with an exponent for each class, that forgets negatives below a probability of `margin`; unreduced.

    Ridnik et al., "Asymmetric Loss For Multi-Label Classification", ICCV 2021, equations 4 to 7. 0 where a label is
    NaN; a soft label y takes y times the loss of a positive and 1 - y times that of a negative.
    """
    shifted = jnp.maximum(sigmoid(logits) - margin, 0.0)
    # Without a margin 1 - p can round to 0 where ln(1 - p) still is a number.
    log_rest = jnp.log1p(-shifted) if margin else log_sigmoid(-logits)
    positive = _power(sigmoid(-logits), gamma_positive) * log_sigmoid(logits)
    negative = _power(shifted, gamma_negative) * log_rest
    return -labels * positive - (1.0 - labels) * negative


def _power(x: jax.Array, exponent: float) -> jax.Array:
    """x ** exponent for x >= 0, with a gradient that is finite at 0 (of 0 ** 0 it would be NaN)."""
    if exponent == 0:
        return jnp.ones_like(x)
    return jnp.where(x > 0, jnp.where(x > 0, x, 1.0) ** exponent, 0.0)


def smooth(labels: jax.Array, amount: float) -> jax.Array:
    """Labels moved towards 1/2 by `amount`: 1 becomes 1 - amount / 2, 0 becomes amount / 2 (Szegedy et al. 2016).

    NaN stays NaN.
    """
    return labels * (1.0 - amount) + amount / 2.0


# A new loss is a function above and one line here: (logits, labels, config.loss, positive_weight) -> unreduced.
LOSSES: Final[dict[str, Callable[..., jax.Array]]] = {
    "bce": lambda logits, labels, loss, weight: binary_cross_entropy(logits, labels),
    "weighted_bce": lambda logits, labels, loss, weight: weighted_cross_entropy(logits, labels, weight),
    "focal": lambda logits, labels, loss, weight: focal_loss(logits, labels, loss.gamma),
    "asymmetric": lambda logits, labels, loss, weight: asymmetric_loss(
        logits, labels, loss.gamma_positive, loss.gamma_negative, loss.margin
    ),
}


def bernoulli_kl(p_logits: jax.Array, q_logits: jax.Array, temperature: float = 1.0) -> jax.Array:
    """T^2 KL(p || q), each finding a coin of its own: the mean over films and findings.

    Both outcomes count, p ln(p/q) + (1-p) ln((1-p)/(1-q)); dropping the second term is a common mistake when a
    softmax recipe is carried over to sigmoids.

    Args:
      p_logits: of the target distribution.
      q_logits: of the distribution to be moved.
      temperature: T divides both logits; the factor T^2 keeps the gradient's size (Hinton et al. 2015, section 2).

    Returns:
      A scalar, in nats.
    """
    a, b = p_logits / temperature, q_logits / temperature
    p = sigmoid(a)
    divergence = p * (log_sigmoid(a) - log_sigmoid(b)) + (1.0 - p) * (log_sigmoid(-a) - log_sigmoid(-b))
    return temperature**2 * divergence.mean()


def softmax_kl(p_logits: jax.Array, q_logits: jax.Array, temperature: float = 1.0) -> jax.Array:
    """T^2 KL(p || q) of the softmax over the findings: the sum over findings, the mean over films.

    The report's literal form (Zhang et al. 2018, equation 2). It reads the findings as exclusive, which on these
    films they are not. Arguments as for `bernoulli_kl`.
    """
    a, b = log_softmax(p_logits / temperature), log_softmax(q_logits / temperature)
    return temperature**2 * (jnp.exp(a) * (a - b)).sum(axis=-1).mean()


# A new divergence is a function above and one line here.
DIVERGENCES: Final[dict[str, Callable[..., jax.Array]]] = {"bernoulli": bernoulli_kl, "softmax": softmax_kl}


def bernoulli_soft_targets(
    p_logits: jax.Array, q_logits: jax.Array, temperature: float = 1.0, has_target: jax.Array | None = None
) -> jax.Array:
    """T^2 times the cross-entropy of a student q on a teacher's probabilities p, each finding a coin of its own.

    It differs from `bernoulli_kl` by the teacher's entropy alone, which no student moves: the gradients are equal.
    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2, for several findings at once.
    Arguments, result as for `bernoulli_kl`.

    Args:
      has_target: bool (batch, findings); where it is False there is no target and the term is 0, still counted in the
        mean, so that a film weighs the same whatever films it shares a batch with. None: everywhere.
    """
    if has_target is not None:
        p_logits = jnp.where(has_target, p_logits, 0.0)
    a, b = p_logits / temperature, q_logits / temperature
    p = sigmoid(a)
    each = -p * log_sigmoid(b) - (1.0 - p) * log_sigmoid(-b)
    if has_target is not None:
        each = jnp.where(has_target, each, 0.0)
    return temperature**2 * each.mean()


def softmax_soft_targets(
    p_logits: jax.Array, q_logits: jax.Array, temperature: float = 1.0, has_target: jax.Array | None = None
) -> jax.Array:
    """T^2 times the cross-entropy of softmaxes over the findings: summed over findings, averaged over films.

    Hinton et al. 2015, equation 1 and section 2. Arguments as for `bernoulli_soft_targets`; a softmax needs all of a
    film's findings, so that a film has its target where it has them all.
    """
    if has_target is not None:
        has_target = has_target.all(axis=-1, keepdims=True)
        p_logits = jnp.where(has_target, p_logits, 0.0)
    a, b = jnp.exp(log_softmax(p_logits / temperature)), log_softmax(q_logits / temperature)
    each = a * b
    if has_target is not None:
        each = jnp.where(has_target, each, 0.0)
    return -(temperature**2) * each.sum(axis=-1).mean()


# A new form of soft targets is a function above and one line here.
SOFT_TARGETS: Final[dict[str, Callable[..., jax.Array]]] = {
    "bernoulli": bernoulli_soft_targets,
    "softmax": softmax_soft_targets,
}


def mutual_loss(
    logits: jax.Array,
    peer_logits: jax.Array,
    labels: jax.Array,
    weight: float = 1.0,
    kl: str = "bernoulli",
    temperature: float = 1.0,
) -> jax.Array:
    """BCE(labels, own) + weight * KL(peer || own): what one of two networks minimises while the peer is held fixed.

    The cross-entropy is the mean over what is known; the divergence counts everywhere: networks may teach each other
    what no one labelled.

    Args:
      logits: of the network that learns.
      peer_logits: of the other; no gradient flows into them.
      labels: 0 to 1, or NaN, (batch, findings).
      weight: of the divergence; 0 leaves a network that learns alone.
      kl: a key of `DIVERGENCES`.
      temperature: see `bernoulli_kl`.

    Returns:
      A scalar, in nats. Zhang et al., "Deep Mutual Learning", CVPR 2018, equations 4 and 5.
    """
    known = is_known(jnp.asarray(labels)).sum(axis=0)
    supervised = mean_of_known(binary_cross_entropy(logits, labels), known)
    divergence = DIVERGENCES[kl](jax.lax.stop_gradient(peer_logits), logits, temperature)
    return supervised + weight * divergence
