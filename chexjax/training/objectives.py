"""Losses as pure functions of logits; every mean is over films and findings alike, so their weights are comparable.

Logits are float (batch, findings), labels the same shape: 0 absent, 1 present, between them soft, NaN not known. A loss
is 0 where the label is not known, and so is its gradient; its mean, `mean_of_known`, is over what is known. A
Kullback-Leibler divergence needs no label, and is a mean over everything.

A divergence is KL(p || q) = sum p ln(p / q), with the target `p` first. torch's arguments, and the formula printed in
the report (Li, Wang & Chen, medical image classification on ChestX-ray14), have the opposite order.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
import optax
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
    """`mean_of_known` finding by finding: float (findings,)."""
    return each.sum(axis=0) * _reciprocal(known)


def _reciprocal(count: jax.Array) -> jax.Array:
    """1 / count, or 1 where count is 0. XLA compiles a mean to this product, so both agree bit for bit."""
    return 1.0 / jnp.where(count > 0, count, 1.0)


def known_prevalence(labels: np.ndarray) -> np.ndarray:
    """The share of films with each finding among those where it is known; a soft label counts as its value.

    (films, findings) -> float64 (findings,); 1/2 for a finding known of no film, so its two classes weigh alike.
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
    return optax.sigmoid_binary_cross_entropy(logits, labels)


@_of_known
def weighted_cross_entropy(logits: jax.Array, labels: jax.Array, positive_weight: jax.Array) -> jax.Array:
    """Binary cross-entropy with the positive term multiplied by `positive_weight` (findings,), unreduced; 0 at NaN.

    With the ratio of negatives to positives, the two classes of a finding weigh alike (torch's `pos_weight`). The odds
    that a network then predicts are too high by that ratio.
    """
    return -positive_weight * labels * log_sigmoid(logits) - (1.0 - labels) * log_sigmoid(-logits)


@_of_known
def focal_loss(logits: jax.Array, labels: jax.Array, gamma: float) -> jax.Array:
    """-(1 - p_t)^gamma ln p_t, p_t the probability given to the true class; unreduced; 0 at NaN.

    Gamma 0 is the cross-entropy. A soft label y takes y times the loss of a positive plus 1 - y times that of a
    negative. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 4 (without its alpha).
    """
    positive = _power(sigmoid(-logits), gamma) * log_sigmoid(logits)
    negative = _power(sigmoid(logits), gamma) * log_sigmoid(-logits)
    return -labels * positive - (1.0 - labels) * negative


@_of_known
def asymmetric_loss(
    logits: jax.Array, labels: jax.Array, gamma_positive: float, gamma_negative: float, margin: float
) -> jax.Array:
    """A focal loss with one exponent a class, which ignores negatives predicted below `margin`; unreduced.

    Ridnik et al., "Asymmetric Loss For Multi-Label Classification", ICCV 2021, equations 4 to 7. 0 where a label is
    NaN; a soft label y takes y times the loss of a positive and 1 - y times that of a negative.
    """
    shifted = jnp.maximum(sigmoid(logits) - margin, 0.0)
    # Without a margin, 1 - p can round to 0 where ln(1 - p) is still finite.
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
    """T^2 KL(p || q) of independent Bernoulli distributions, one a finding: the mean over films and findings.

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

    The report's literal form (Zhang et al. 2018, equation 2). It treats the findings as mutually exclusive, which
    they are not. Arguments as for `bernoulli_kl`.
    """
    a, b = log_softmax(p_logits / temperature), log_softmax(q_logits / temperature)
    return temperature**2 * (jnp.exp(a) * (a - b)).sum(axis=-1).mean()


# A new divergence is a function above and one line here.
DIVERGENCES: Final[dict[str, Callable[..., jax.Array]]] = {"bernoulli": bernoulli_kl, "softmax": softmax_kl}


def bernoulli_soft_targets(
    p_logits: jax.Array, q_logits: jax.Array, temperature: float = 1.0, has_target: jax.Array | None = None
) -> jax.Array:
    """T^2 times the cross-entropy of a student q against a teacher's probabilities p, each finding a Bernoulli.

    It differs from `bernoulli_kl` only by the teacher's entropy, which does not depend on the student: the gradients
    are equal.
    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2, for several findings at once.
    Arguments, result as for `bernoulli_kl`.

    Args:
      has_target: bool (batch, findings); where it is False there is no target and the term is 0, still counted in the
        mean, so a film's weight does not depend on the rest of its batch. None: everywhere.
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

    Hinton et al. 2015, equation 1 and section 2. Arguments as for `bernoulli_soft_targets`; a softmax needs all
    findings, so a film has a target only where it has all of them.
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


def bernoulli_mixed_targets(
    logits: jax.Array, mix: Callable[[jax.Array], jax.Array], temperature: float = 1.0
) -> jax.Array:  # fmt: skip
    """The logits whose probabilities, softened by the temperature, are those of `logits` under `mix`.

    The loss is linear in those, so mixed films have the mixture of their losses. NaN stays NaN.
    """
    a = logits / temperature
    return temperature * (jnp.log(mix(sigmoid(a))) - jnp.log(mix(sigmoid(-a))))


def softmax_mixed_targets(
    logits: jax.Array, mix: Callable[[jax.Array], jax.Array], temperature: float = 1.0
) -> jax.Array:  # fmt: skip
    """`bernoulli_mixed_targets` of the softmax over the findings; all are NaN where one is."""
    return temperature * jnp.log(mix(jnp.exp(log_softmax(logits / temperature))))


# How each form of soft targets is mixed.
MIXED_TARGETS: Final[dict[str, Callable[..., jax.Array]]] = {
    "bernoulli": bernoulli_mixed_targets,
    "softmax": softmax_mixed_targets,
}
