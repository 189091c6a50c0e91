"""A workdir's networks as StableHLO: what jax runs without chexjax."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from chexjax.data.augment import normalize
from chexjax.data.recipe import recipe_of
from chexjax.devices import at_precision
from chexjax.export.networks import chosen
from chexjax.models.network import ENSEMBLE
from chexjax.scanline import remove_artifacts
from chexjax.workdir.restore import Restored

PLATFORMS: Final = ("cpu", "cuda", "tpu")
PRECISION: Final = 22  # bits behind the point in Pillow's coefficients of 8-bit images


def create_program(restored: Restored, network: str = ENSEMBLE) -> Callable[[jax.Array], jax.Array]:
    """From films to probabilities, as one jittable function of what `restored` holds.

    Args:
      restored: the networks, and the config that says how their films are prepared.
      network: one of them by name; "ensemble" is the mean of the probabilities of all.

    Returns:
      A function of uint8 (batch, height, width) -> float32 (batch, findings).

    Raises:
      ConfigError: no network has that name.
    """
    names = chosen(restored, network)
    data = restored.config.data
    recipe = recipe_of(data)

    def prepare(film: jax.Array) -> jax.Array:
        """One film at a time: the cleaning needs to know its shapes, and the number of films is left open."""
        if recipe.clean:
            film = remove_artifacts(film, **recipe.cleaning)
        return shrink(film, recipe.size)

    def program(films: jax.Array) -> jax.Array:
        x = normalize(jax.lax.map(prepare, films)[..., None], data.mean, data.std)
        # As arrays of JAX: a NumPy one that a branch's rule meets as a constant cannot be lowered.
        variables = {name: jax.tree.map(jnp.asarray, restored.variables[name]) for name in names}
        logits: list[Any] = [restored.models[name].apply(variables[name], x) for name in names]
        return jnp.stack([jax.nn.sigmoid(each) for each in logits]).mean(axis=0)

    return at_precision("highest", program)


def shrink(film: jax.Array, size: int) -> jax.Array:
    """uint8 (height, width) -> uint8 (size, size): `recipe.shrink`, which is Pillow's BOX filter, bit for bit.

    Pillow averages along the rows, rounds to 8 bits, then averages along the columns, with coefficients of 22 binary
    places (`src/libImaging/Resample.c`).
    """
    if film.shape == (size, size):
        return film
    return _average(_average(film, size).T, size).T


def _average(film: jax.Array, size: int) -> jax.Array:
    """Along the rows: (height, width) -> (height, size)."""
    if film.shape[1] == size:
        return film
    first, coefficients = box_coefficients(film.shape[1], size)
    total = jnp.full((film.shape[0], size), 1 << (PRECISION - 1), jnp.int32)
    for tap, coefficient in enumerate(coefficients.T):
        columns = np.minimum(first + tap, film.shape[1] - 1)
        total += film[:, columns].astype(jnp.int32) * jnp.asarray(coefficient)
    return jnp.clip(total >> PRECISION, 0, 255).astype(jnp.uint8)


def box_coefficients(width: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Of Pillow's BOX filter for each of `size` outputs the first input, (size,), and coefficients, (size, taps)."""
    scale = width / size
    support = 0.5 * max(scale, 1.0)
    centres = (np.arange(size) + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + support + 0.5).astype(np.int64), width)
    taps = np.arange((last - first).max())
    offsets = (first[:, None] + taps - centres[:, None] + 0.5) / max(scale, 1.0)
    weights = ((offsets > -0.5) & (offsets <= 0.5) & (first[:, None] + taps < last[:, None])).astype(np.float64)
    weights /= weights.sum(axis=1, keepdims=True)
    return first, (0.5 + weights * (1 << PRECISION)).astype(np.int32)


def to_stablehlo(
    restored: Restored, film: tuple[int, int], network: str = ENSEMBLE, platforms: Sequence[str] = PLATFORMS
) -> bytes:
    """The serialised artefact of `create_program`, for any number of films of height and width `film`."""
    (batch,) = export.symbolic_shape("batch")
    films = jax.ShapeDtypeStruct((batch, *film), jnp.uint8)
    program = jax.jit(create_program(restored, network))
    return bytes(export.export(program, platforms=platforms)(films).serialize())
