"""The rule as a plain loop, the check of its arguments, and the edges from which both fast forms start."""

import functools
from collections.abc import Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

THRESHOLD: Final = 50  # grey levels, as in the report
MAX_WIDTH: Final = 40  # pixels, as in the report, for films of 1024 x 1024
ROWS: Final = -1  # the axis that a scan along rows runs over
COLUMNS: Final = -2
AXES: Final = {"rows": ROWS, "columns": COLUMNS}  # the names in flags and configs
WHITE: Final = 255
NOWHERE: Final = 2**30  # a column beyond any film; a larger `max_width` makes no difference


def remove_artifacts_reference(
    images: Any,
    threshold: int = THRESHOLD,
    max_width: int = MAX_WIDTH,
    *,
    edge_span: int = 1,
    axes: Sequence[int] = (ROWS,),
    spare_wide: bool = False,
    return_mask: bool = False,
) -> Any:
    """The rule as a plain NumPy loop over pixels, slow and short: the tests' reference. Arguments as above."""
    threshold, max_width = check_arguments(images, threshold, max_width, edge_span, axes)
    images = np.asarray(images)
    cleaned = images
    for axis in axes if images.size else ():
        lines = np.moveaxis(cleaned, axis, -1)
        rows = [
            _clean_line(row, threshold, max_width, edge_span, spare_wide)
            for row in lines.reshape(-1, lines.shape[-1]).tolist()
        ]
        cleaned = np.moveaxis(np.array(rows, np.uint8).reshape(lines.shape), -1, axis)
    return (cleaned, cleaned != images) if return_mask else cleaned


def _clean_line(x: list[int], threshold: int, max_width: int, span: int, spare_wide: bool) -> list[int]:
    """One row of Python ints, pixel by pixel."""
    width = len(x)
    up = [i > 0 and x[i] > x[i - 1] and max(x[i : i + span]) - x[i - 1] >= threshold for i in range(width)]
    down = [j > 0 and x[j - 1] > x[j] and max(x[max(j - span, 0) : j]) - x[j] >= threshold for j in range(width)]
    if span > 1:
        up = [up[i] and not up[i - 1] for i in range(width)]  # column 0 is never an edge, so up[-1] is harmless
        down = [down[j] and not (j + 1 < width and down[j + 1]) for j in range(width)]
    cleaned = list(x)
    i = 1
    while i < width:
        if not up[i]:
            i += 1
            continue
        j = i + 1
        while j < width and not down[j]:
            j += 1
        if j == width:
            break  # no down-edge follows
        if j - i <= max_width:
            cleaned[i:j] = [(x[i - 1] + x[j]) // 2] * (j - i)
        i = j + 1 if j - i <= max_width or spare_wide else i + 1
    return cleaned


def check_arguments(
    images: Any, threshold: Any, max_width: Any, edge_span: Any, axes: Sequence[int]
) -> tuple[Any, Any]:
    """The two numbers as Python ints, or unchanged if traced."""
    shape, dtype = np.shape(images), images.dtype if hasattr(images, "dtype") else np.asarray(images).dtype
    if dtype != np.uint8:
        hint = " (films scaled to [0, 1] are not understood: clean before scaling)" if dtype.kind == "f" else ""
        raise ValueError(f"images must be uint8 grey levels, 0 to 255; got {dtype} of shape {shape}{hint}")
    if len(shape) < 2:
        raise ValueError(f"images must have a height and a width, (..., H, W); got shape {shape}")
    if not isinstance(edge_span, (int, np.integer)) or edge_span < 1:
        raise ValueError(f"edge_span must be a whole number of pixels, at least 1; got {edge_span!r}")
    if not axes or set(axes) - {ROWS, COLUMNS} or len(set(axes)) < len(axes):
        raise ValueError(f"axes must hold -1 (along rows), -2 (along columns) or both; got {tuple(axes)}")
    threshold = _whole_number("threshold", threshold, WHITE, "grey levels, 1 to 255")
    return threshold, _whole_number("max_width", max_width, None, "pixels, at least 1")


def _whole_number(name: str, value: Any, largest: int | None, meaning: str) -> Any:
    if not isinstance(value, int) and (np.ndim(value) or not jnp.issubdtype(jnp.result_type(value), jnp.integer)):
        raise ValueError(f"{name} must be a whole number of {meaning}; got {value!r}")
    if isinstance(value, jax.core.Tracer):
        return value
    if int(value) < 1 or (largest is not None and int(value) > largest):
        raise ValueError(f"{name} must be a whole number of {meaning}; got {value!r}")
    return min(int(value), NOWHERE)


def shifted(x: Array, by: int, fill: Any) -> Array:
    """Moves the last axis to the right by `by` pixels (to the left where negative), and fills the gap."""
    by = max(-x.shape[-1], min(by, x.shape[-1]))
    return lax.pad(x, jnp.asarray(fill, x.dtype), [(0, 0, 0)] * (x.ndim - 1) + [(by, -by, 0)])


def edges(x: Array, threshold: Array, span: int) -> tuple[Array, Array]:
    """Up-edges and down-edges of uint8 (..., W): two bool (..., W). No difference here can wrap around.

    `max(a, b) - b` is a - b or, where that were negative, 0: all of it fits a byte, and the film is read as bytes.
    """
    width = x.shape[-1]
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(span, span - 1)])

    def at(offset: int) -> Array:
        return padded[..., span + offset : span + offset + width]

    ahead = functools.reduce(jnp.maximum, (at(step) for step in range(span)))
    behind = functools.reduce(jnp.maximum, (at(-step) for step in range(1, span + 1)))
    ups = (jnp.maximum(ahead, at(-1)) - at(-1) >= threshold) & (jnp.arange(width) > 0)
    downs = jnp.maximum(behind, x) - x >= threshold
    if span > 1:
        ups &= x > at(-1)
        downs &= at(-1) > x
        ups, downs = ups & ~shifted(ups, 1, False), downs & ~shifted(downs, -1, False)
    return ups, downs


def floor_mean(a: Array, b: Array) -> Array:
    """(a + b) // 2 of uint8 without overflow: the common bits plus half of those that differ."""
    return (a & b) + ((a ^ b) >> 1)
