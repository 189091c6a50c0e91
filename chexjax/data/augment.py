"""From stored films to network input, on the device, inside the compiled step.

Films arrive as uint8 (batch, height, width, 1). A film's augmentation depends only on the run's seed, the step and the
film's record number, not on its place in the batch or the number of devices.
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from ml_collections import ConfigDict


def normalize(images: jax.Array, mean: float, std: float) -> jax.Array:
    """uint8 (batch, height, width, 1) -> float32, the same shape, (grey / 255 - mean) / std."""
    return (images.astype(jnp.float32) / 255.0 - mean) / std


def augment(
    images: jax.Array, films: jax.Array, step: jax.Array | int, seed: jax.Array | int, config: ConfigDict
) -> jax.Array:
    """Draws a crop, a mirror and a rotation for each film, in one resampling; then a blur, contrast and brightness.

    Args:
      images: uint8 (batch, height, width, 1).
      films: int32 (batch,), record numbers.
      step: int32 scalar.
      seed: the run's, an int32 scalar.
      config: `crop` (least share of the side that is kept, 1: no crop), `flip` (probability of a mirror image),
        `rotation` (degrees to either side), `blur` (greatest standard deviation of a Gaussian, pixels; a network then
        knows films of less resolution), `brightness` and `contrast` (relative, to either side).

    Returns:
      float32 (batch, height, width, 1), grey levels in [0, 255].
    """
    step_key = jax.random.fold_in(jax.random.key(seed), step)
    keys = jax.vmap(lambda film: jax.random.fold_in(step_key, film))(films)
    return jax.vmap(lambda image, key: _augment_one(image, key, config))(images, keys)


def _augment_one(image: jax.Array, key: jax.Array, config: ConfigDict) -> jax.Array:
    """One film, (height, width, 1)."""
    draw = jax.random.uniform(key, (7,), minval=-1.0, maxval=1.0)
    grey = image[..., 0].astype(jnp.float32)
    if config.crop < 1.0 or config.flip or config.rotation:
        side = 1.0 - (1.0 - config.crop) * (draw[0] + 1.0) / 2.0
        angle = jnp.deg2rad(config.rotation) * draw[1]
        mirror = jnp.where((draw[2] + 1.0) / 2.0 < config.flip, -1.0, 1.0)
        shift = (1.0 - side) / 2.0 * draw[3:5]
        grey = _resample(grey, side, angle, mirror, shift)
    if config.blur:
        # A key of its own: without blur the other draws are those of runs before there was any.
        grey = _blurred(grey, config.blur * jax.random.uniform(jax.random.fold_in(key, 7)), config.blur)
    if config.contrast:
        centre = grey.mean()
        grey = centre + (grey - centre) * (1.0 + config.contrast * draw[5])
    if config.brightness:
        grey = grey * (1.0 + config.brightness * draw[6])
    return jnp.clip(grey, 0.0, 255.0)[..., None]


def _blurred(grey: jax.Array, deviation: jax.Array, most: float) -> jax.Array:
    """`grey` (height, width) under a Gaussian of `deviation` <= `most` pixels, cut at 3 * `most`; edges repeated."""
    reach = math.ceil(3.0 * most)
    weights = jnp.exp(-0.5 * (jnp.arange(-reach, reach + 1) / jnp.maximum(deviation, 1e-3)) ** 2)
    weights /= weights.sum()
    for _ in range(2):  # along the rows, and turned, along the columns
        padded = jnp.pad(grey, ((0, 0), (reach, reach)), mode="edge")
        width = grey.shape[1]
        taps = [weights[k] * padded[:, k : k + width] for k in range(2 * reach + 1)]
        grey = sum(taps, jnp.zeros_like(grey)).T
    return grey


def _resample(grey: jax.Array, side: jax.Array, angle: jax.Array, mirror: jax.Array, shift: jax.Array) -> jax.Array:
    """Reads `grey` (height, width) bilinearly on a grid that is scaled by `side`, rotated, mirrored and shifted.

    `shift` (2,) is a fraction of the film's extent. Outside the film, its border pixels are repeated.
    """
    extent = jnp.array(grey.shape, jnp.float32)
    grid = jnp.stack(jnp.meshgrid(*map(jnp.arange, grey.shape), indexing="ij")).astype(jnp.float32)
    y, x = (grid - (extent[:, None, None] - 1.0) / 2.0) * side
    x = x * mirror
    turned = jnp.stack([y * jnp.cos(angle) - x * jnp.sin(angle), y * jnp.sin(angle) + x * jnp.cos(angle)])
    source = turned + ((extent - 1.0) / 2.0 + shift * extent)[:, None, None]
    return map_coordinates(grey, list(source), order=1, mode="nearest")
