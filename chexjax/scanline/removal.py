"""`remove_artifacts`: the rule for batches of films on any device; the package says how."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from chexjax.scanline.accelerators import clean_words
from chexjax.scanline.cpu import clean_octets
from chexjax.scanline.rule import MAX_WIDTH, ROWS, THRESHOLD, WHITE, check_arguments


def remove_artifacts(
    images: Any,
    threshold: Any = THRESHOLD,
    max_width: Any = MAX_WIDTH,
    *,
    edge_span: int = 1,
    axes: Sequence[int] = (ROWS,),
    spare_wide: bool = False,
    return_mask: bool = False,
) -> Any:
    """Replaces bright, narrow objects by the mean of the darker pixels at their two ends.

    Works under jit, vmap and pmap. Equals `remove_artifacts_reference` bit for bit. The defaults are the report's.

    Args:
      images: uint8 (..., H, W), NumPy or JAX.
      threshold: the smallest jump, 1 to 255 grey levels. A Python number or a scalar array, possibly traced; a traced
        value cannot be checked, and is clipped to that range.
      max_width: the widest object in pixels, at least 1; also possibly traced, which costs up to twice the time, since
        the program must then handle any width.
      edge_span: pixels over which a jump may ramp up or down. With more than 1, pixel i is an up-edge where
        `x[i] > x[i-1]` and `max(x[i], ..., x[i+edge_span-1]) - x[i-1] >= threshold`, a down-edge likewise towards the
        left; of neighbouring up-edges the first counts, of neighbouring down-edges the last.
      axes: -1 scans along rows, -2 along columns; (-1, -2) does both, the columns on the result of the rows.
      spare_wide: leaves objects wider than `max_width` untouched: only the first up-edge after a down-edge counts.
        Otherwise the rule may find a second up-edge inside a wide object and remove its right end.
      return_mask: also returns where the result differs from `images`: bool (..., H, W).

    Returns:
      uint8 (..., H, W); with `return_mask` a pair.

    Raises:
      ValueError: another dtype than uint8, a rank below 2, a number out of range.
    """
    threshold, max_width = check_arguments(images, threshold, max_width, edge_span, axes)
    return _remove(
        images,
        threshold,
        max_width,
        steps=max_width.bit_length() if isinstance(max_width, int) else None,
        edge_span=int(edge_span),
        axes=tuple(axes),
        spare_wide=bool(spare_wide),
        return_mask=bool(return_mask),
    )


@functools.partial(jax.jit, static_argnames=("steps", "edge_span", "axes", "spare_wide", "return_mask"))
def _remove(
    images: Array,
    threshold: Array,
    max_width: Array,
    *,
    steps: int | None,
    edge_span: int,
    axes: tuple[int, ...],
    spare_wide: bool,
    return_mask: bool,
) -> Any:
    """`steps`: the number of bits of `max_width`; None if it is traced, so possibly as wide as the film."""
    threshold = jnp.clip(threshold, 1, WHITE).astype(jnp.uint8)
    cleaned = images
    for axis in axes if images.size else ():
        lines = jnp.moveaxis(cleaned, axis, -1)
        length = lines.shape[-1]
        clean = _for_any_batch(
            steps=min((length - 1).bit_length(), steps or length), edge_span=edge_span, spare_wide=spare_wide
        )
        rows = clean(lines.reshape(-1, length), threshold, jnp.clip(max_width, 1, length - 1).astype(jnp.int32))
        cleaned = jnp.moveaxis(rows.reshape(lines.shape), -1, axis)
    return (cleaned, cleaned != images) if return_mask else cleaned


def _for_any_batch(steps: int, edge_span: int, spare_wide: bool) -> Callable[[Array, Array, Array], Array]:
    """The platform's form with a vmap rule of its own: a batch is just more rows.

    JAX's rule for the loop in `clean_octets` would copy the whole batch in every iteration.
    """

    @jax.custom_batching.custom_vmap
    def clean(rows: Array, threshold: Array, max_width: Array) -> Array:
        return lax.platform_dependent(
            rows,
            threshold,
            max_width,
            cpu=functools.partial(clean_octets, steps=steps, edge_span=edge_span, spare_wide=spare_wide),
            default=functools.partial(clean_words, edge_span=edge_span, spare_wide=spare_wide),
        )

    @clean.def_vmap
    def batch_rule(size: int, batched: Sequence[bool], *arguments: Array) -> tuple[Array, bool]:
        if list(batched) == [True, False, False]:
            rows, threshold, max_width = arguments
            return clean(rows.reshape(-1, rows.shape[-1]), threshold, max_width).reshape(rows.shape), True
        whole = [
            argument if is_batched else jnp.broadcast_to(argument, (size, *argument.shape))
            for argument, is_batched in zip(arguments, batched, strict=True)
        ]
        return lax.map(lambda one: clean(*one), tuple(whole)), True

    return clean
