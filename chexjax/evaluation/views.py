"""Test-time views: a film is predicted several times, mirrored or cropped, and the probabilities are averaged.

Each view costs one forward pass. Ten-crop is what CheXNet's re-implementations report: the centre and the four corners,
7/8 of the side (224 of 256 px), each also mirrored. Here a crop is enlarged to the film's size, the size that the
networks were trained on.
"""

from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp

View = Callable[[jax.Array], jax.Array]  # float (batch, height, width, channels) -> the same shape

CROP: Final = 7 / 8


def whole(images: jax.Array) -> jax.Array:
    """The film itself."""
    return images


def mirrored(images: jax.Array) -> jax.Array:
    """Left and right exchanged."""
    return images[:, :, ::-1]


def cropped(top: float, left: float) -> View:
    """A crop of 7/8 of the side, enlarged to the film's size; at `top` 0 and `left` 0 it is the upper left corner."""

    def view(images: jax.Array) -> jax.Array:
        height, width = images.shape[1:3]
        rows, columns = round(CROP * height), round(CROP * width)
        y, x = round(top * (height - rows)), round(left * (width - columns))
        part = images[:, y : y + rows, x : x + columns]
        return jax.image.resize(part, images.shape, "linear", antialias=False)

    return view


def _both(view: View) -> tuple[View, View]:
    return view, lambda images: view(mirrored(images))


CROPS: Final = tuple(cropped(top, left) for top, left in ((0.5, 0.5), (0, 0), (0, 1), (1, 0), (1, 1)))

# A new kind is one line here.
VIEWS: Final[dict[str, tuple[View, ...]]] = {
    "one": (whole,),
    "flip": _both(whole),
    "ten-crop": tuple(view for crop in CROPS for view in _both(crop)),
}


def mean_logits(classify: Callable[[jax.Array], jax.Array], images: jax.Array, views: str) -> jax.Array:
    """The logit of the mean probability over the views of `images`; `classify` gives logits.

    logit(mean sigmoid(z)) is computed in logarithms, so confident networks do not saturate.
    """
    logits = [classify(view(images)) for view in VIEWS[views]]
    if len(logits) == 1:
        return logits[0]
    stacked = jnp.stack(logits).astype(jnp.float32)
    for_it, against = (jax.nn.logsumexp(jax.nn.log_sigmoid(sign * stacked), axis=0) for sign in (1.0, -1.0))
    return for_it - against
