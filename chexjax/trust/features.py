"""A network's pooled features of a film, on which the out-of-domain score is based."""

from collections.abc import Callable
from typing import Any, Final

import flax.linen as nn
import jax
import jax.numpy as jnp

PyTree = Any

# How a film can be wrong as a whole; the first is how it should be. uint8 (batch, height, width, 1) -> the same.
POSES: Final[dict[str, Callable[[jax.Array], jax.Array]]] = {
    "upright": lambda films: films,
    "turned by 90 degrees to the left": lambda films: jnp.rot90(films, 1, axes=(1, 2)),
    "turned by 180 degrees": lambda films: jnp.rot90(films, 2, axes=(1, 2)),
    "turned by 90 degrees to the right": lambda films: jnp.rot90(films, 3, axes=(1, 2)),
    "mirrored": lambda films: films[:, :, ::-1],
    "inverted": lambda films: 255 - films,
}


def see(model: nn.Module, variables: PyTree, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits (batch, findings) and pooled features (batch, features) of normalised films, both float32, in one pass."""
    features: Any = model.apply(variables, x, method="features")
    logits: Any = model.apply(variables, features, method="classify")
    return logits, pool_features(features)


def pool_features(features: jax.Array) -> jax.Array:
    """The means over the quarters of a feature map, side by side, in float32.

    A mean over the whole map, such as the network itself takes, could not distinguish a film from one upside down. On
    an odd side, the middle row or column belongs to both halves.

    Args:
      features: (batch, height, width, channels).

    Returns:
      float32 (batch, 4 * channels): top left, top right, bottom left, bottom right.
    """
    height, width = features.shape[1:3]
    rows, columns = (((0, -(-side // 2)), (side // 2, side)) for side in (height, width))
    quarters = [features[:, top:bottom, left:right] for top, bottom in rows for left, right in columns]
    return jnp.concatenate([quarter.astype(jnp.float32).mean((1, 2)) for quarter in quarters], axis=-1)
