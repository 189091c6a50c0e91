"""Losses as pure functions of logits; every mean is over films and findings alike, so that weights compare.

Logits are float (batch, findings), labels the same shape with values in [0, 1]. A Kullback-Leibler divergence is
KL(p || q) = sum p ln(p / q), with the target `p` first: torch's argument order, and the formula that the report
prints, are the other way about.
"""

from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp
from jax.nn import log_sigmoid, log_softmax, sigmoid


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-y ln p - (1 - y) ln(1 - p) for each film and finding, unreduced.

    Returns:
      float (batch, findings), in nats.
    """
    labels = labels.astype(logits.dtype)
    return -labels * log_sigmoid(logits) - (1.0 - labels) * log_sigmoid(-logits)


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


def mutual_loss(
    logits: jax.Array,
    peer_logits: jax.Array,
    labels: jax.Array,
    weight: float = 1.0,
    kl: str = "bernoulli",
    temperature: float = 1.0,
) -> jax.Array:
    """BCE(labels, own) + weight * KL(peer || own): what one of two networks minimises while the peer is held fixed.

    Args:
      logits: of the network that learns.
      peer_logits: of the other; no gradient flows into them.
      labels: 0 or 1, (batch, findings).
      weight: of the divergence; 0 leaves a network that learns alone.
      kl: a key of `DIVERGENCES`.
      temperature: see `bernoulli_kl`.

    Returns:
      A scalar, in nats. Zhang et al., "Deep Mutual Learning", CVPR 2018, equations 4 and 5.
    """
    supervised = binary_cross_entropy(logits, labels).mean()
    divergence = DIVERGENCES[kl](jax.lax.stop_gradient(peer_logits), logits, temperature)
    return supervised + weight * divergence
