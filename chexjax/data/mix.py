"""Mixtures of two films and of their labels, on the device, inside the compiled step: mixup and CutMix.

A film is mixed with the next one of the whole batch, the last with the first: batches are shuffled, so that is a film
drawn at random, and it does not depend on the number of devices. A mask in [0, 1] says how much of each pixel is the
film's own; a label's share is the mask's mean.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from chexjax.devices import AXIS


class Mixture(NamedTuple):
    """What remains of each film: `mask` float32 (batch, height, width, 1) of its pixels, `share` (batch, 1) in all."""

    mask: jax.Array
    share: jax.Array


def draw_mixture(
    films: jax.Array, size: tuple[int, int], step: jax.Array | int, seed: jax.Array | int, config: ConfigDict
) -> Mixture | None:
    """The mixture of each film of a batch, from keys folded from (seed, step, film); None where nothing is mixed.

    mixup: one share for all pixels, from Beta(a, a) (Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR
    2018, section 2). CutMix: a rectangle of the other film, of the same form as the film and 1 - Beta(a, a) of its
    area, whose centre is anywhere; what lies outside the film is cut off, and the share is that of the pixels that are
    left (Yun et al., "CutMix", ICCV 2019, equations 1 and 2, and the authors' program). With both, a fair coin decides
    for each film.

    Args:
      films: int32 (batch,), record numbers.
      size: height and width of a film.
      config: `mixup` and `cutmix`, a of each; 0: off.
    """
    if not (config.mixup or config.cutmix):
        return None
    step_key = jax.random.fold_in(jax.random.key(seed), step)

    def draw(film: jax.Array) -> Mixture:
        # Keys of their own: the augmentation's draws stay as they are.
        key = jax.random.fold_in(jax.random.fold_in(step_key, film), 8)
        coin, *centre = jax.random.uniform(key, (3,))
        uses_mixup = coin < 0.5 if config.mixup and config.cutmix else bool(config.mixup)
        a = jnp.where(uses_mixup, config.mixup, config.cutmix)
        share = jax.random.beta(jax.random.fold_in(key, 1), a, a)
        cut = _outside_box(size, share, centre)
        mask = jnp.where(uses_mixup, share, cut)
        return Mixture(mask[..., None], jnp.where(uses_mixup, share, cut.mean())[None])

    return jax.vmap(draw)(films)


def _outside_box(size: tuple[int, int], share: jax.Array, centre: list[jax.Array]) -> jax.Array:
    """1 outside a box of 1 - `share` of the area, 0 inside: float32 `size`; `centre` in fractions of the size."""
    inside = jnp.ones(size, bool)
    for axis, length in enumerate(size):
        half = jnp.floor(length * jnp.sqrt(1.0 - share)) // 2
        middle = jnp.floor(length * centre[axis])
        pixels = jnp.expand_dims(jnp.arange(length), 1 - axis)
        inside &= (pixels >= middle - half) & (pixels < middle + half)
    return 1.0 - inside.astype(jnp.float32)


def mix_images(images: jax.Array, mixture: Mixture) -> jax.Array:
    """Films mixed with the next ones: float32 (batch, height, width, 1)."""
    return mixture.mask * images + (1.0 - mixture.mask) * following(images)


def mix_labels(labels: jax.Array, mixture: Mixture) -> jax.Array:
    """Labels, or probabilities, mixed with the next film's by share: float32 (batch, findings).

    A mixed label is known where both are. A film with no share leaves the other's label as it is.
    """
    share, others = mixture.share, following(labels)
    mixed = share * labels + (1.0 - share) * others
    return jnp.where(share == 1.0, labels, jnp.where(share == 0.0, others, mixed))


def following(batch: jax.Array) -> jax.Array:
    """What belongs to the next film of the whole batch; the last is followed by the first. Inside `each_device`."""
    first, devices = batch[:1], jax.lax.axis_size(AXIS)
    if devices > 1:
        first = jax.lax.ppermute(first, AXIS, [((k + 1) % devices, k) for k in range(devices)])
    return jnp.concatenate([batch[1:], first])
