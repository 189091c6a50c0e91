"""A workdir's networks as StableHLO, which JAX runs without chexjax."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from chexjax.data.augment import normalize
from chexjax.data.recipe import recipe_of
from chexjax.devices import at_precision
from chexjax.export.networks import calibration_of
from chexjax.models.network import ENSEMBLE
from chexjax.predict.classifier import choose_network
from chexjax.scanline import remove_artifacts
from chexjax.workdir.restore import Restored

PLATFORMS: Final = ("cpu", "cuda", "tpu")
PRECISION: Final = 22  # fractional bits of Pillow's coefficients for 8-bit images


def create_program(restored: Restored, network: str = ENSEMBLE, raw: bool = False) -> Callable[[jax.Array], jax.Array]:
    """The path from films to probabilities for `restored`, as one jittable function.

    Args:
      restored: the networks, and the config that says how their films are prepared.
      network: one of them by name; "ensemble" is the mean of the probabilities of all.
      raw: leaves the probabilities as the networks give them. By default they are calibrated, in float32, where the
        workdir's evaluation found a calibration.

    Returns:
      A function of uint8 (batch, height, width) -> float32 (batch, findings).

    Raises:
      ConfigError: no network has that name.
    """
    restored = choose_network(restored, network)
    data, calibration = restored.config.data, None if raw else calibration_of(restored)
    recipe = recipe_of(data)

    def prepare(film: jax.Array) -> jax.Array:
        """One film at a time: cleaning needs static shapes, and the number of films is left open."""
        if recipe.clean:
            film = remove_artifacts(film, **recipe.cleaning)
        return shrink(film, recipe.size, recipe.enlarge)

    def program(films: jax.Array) -> jax.Array:
        x = normalize(jax.lax.map(prepare, films)[..., None], data.mean, data.std)
        # As JAX arrays: NumPy constants cannot be lowered inside the rule of a branch.
        variables = {name: jax.tree.map(jnp.asarray, restored.variables[name]) for name in restored.models}
        logits: list[Any] = [model.apply(variables[name], x) for name, model in restored.models.items()]
        probabilities = jnp.stack([jax.nn.sigmoid(each) for each in logits]).mean(axis=0)
        return calibration.apply(probabilities, jnp) if calibration else probabilities

    return at_precision("highest", program)


def shrink(film: jax.Array, size: int, enlarge: str = "bicubic") -> jax.Array:
    """uint8 (height, width) -> uint8 (size, size): `data.recipe.shrink`, which is Pillow's filters, bit for bit.

    Pillow filters along the rows, rounds to 8 bits, then filters along the columns, with coefficients of 22 binary
    places (`src/libImaging/Resample.c`).
    """
    return _resample(_resample(film, size, enlarge).T, size, enlarge).T


def _resample(film: jax.Array, size: int, enlarge: str) -> jax.Array:
    """Along the rows: (height, width) -> (height, size)."""
    if film.shape[1] == size:
        return film
    kernel = enlarge if film.shape[1] < size else "area"
    first, coefficients = pillow_coefficients(film.shape[1], size, kernel)
    total = jnp.full((film.shape[0], size), 1 << (PRECISION - 1), jnp.int32)
    for tap, coefficient in enumerate(coefficients.T):
        columns = np.minimum(first + tap, film.shape[1] - 1)
        total += film[:, columns].astype(jnp.int32) * jnp.asarray(coefficient)
    return jnp.clip(total >> PRECISION, 0, 255).astype(jnp.uint8)


def _box(x: np.ndarray) -> np.ndarray:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys, "Cubic convolution interpolation for digital image processing", 1981, with a = -1/2."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1.0, ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


_KERNELS: Final = {"area": (_box, 0.5), "bicubic": (_cubic, 2.0)}  # each with its radius, in pixels of the coarser grid


def pillow_coefficients(width: int, size: int, kernel: str) -> tuple[np.ndarray, np.ndarray]:
    """A Pillow filter: for each of `size` outputs the first input, (size,), and the coefficients, (size, taps).

    `kernel` is "area", Pillow's BOX, or "bicubic".
    """
    weigh, reach = _KERNELS[kernel]
    scale = width / size
    support = reach * max(scale, 1.0)
    centres = (np.arange(size) + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + support + 0.5).astype(np.int64), width)
    taps = np.arange((last - first).max())
    offsets = (first[:, None] + taps - centres[:, None] + 0.5) / max(scale, 1.0)
    weights = np.where(first[:, None] + taps < last[:, None], weigh(offsets), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    return first, (np.copysign(0.5, weights) + weights * (1 << PRECISION)).astype(np.int32)


def to_stablehlo(
    restored: Restored, film: tuple[int, int], network: str = ENSEMBLE, platforms: Sequence[str] = PLATFORMS,
    raw: bool = False,
) -> bytes:  # fmt: skip
    """The serialised artefact of `create_program`, for any number of films of height and width `film`."""
    (batch,) = export.symbolic_shape("batch")
    films = jax.ShapeDtypeStruct((batch, *film), jnp.uint8)
    program = jax.jit(create_program(restored, network, raw))
    return bytes(export.export(program, platforms=platforms)(films).serialize())
