"""Depthwise convolutions and their two gradients as XLA's CPU backend is quick at them; no other backend runs these.

That backend takes a grouped convolution one number at a time. Here the same sums are sums of shifted maps, each times
what the kernel has at that place: plain loops over channels, which it vectorizes and fuses into one.
"""

from collections.abc import Iterator

import jax.numpy as jnp
from jax import Array, lax


def convolve(x: Array, kernel: Array, stride: int) -> Array:
    """`x` (batch, height, width, channels) * `kernel` (size, size, 1, channels), padded by `(size - 1) // 2`."""
    wide_x, wide_kernel = wide(x), wide(kernel)
    total = sum(view * wide_kernel[i, j, 0] for i, j, view in _views(wide_x, len(kernel), stride))
    return jnp.asarray(total).astype(x.dtype)


def input_gradient(kernel: Array, upstream: Array, shape: tuple[int, ...], stride: int) -> Array:
    """The gradient of an input of this shape, `upstream` being that of the outputs."""
    if stride > 1:
        gaps = [
            (0, side - 1 - stride * (taken - 1), stride - 1)
            for side, taken in zip(shape[1:3], upstream.shape[1:3], strict=True)
        ]
        upstream = lax.pad(upstream, jnp.zeros((), upstream.dtype), [(0, 0, 0), *gaps, (0, 0, 0)])
    return convolve(upstream, kernel[::-1, ::-1], 1)


def kernel_gradient(x: Array, upstream: Array, size: int, stride: int) -> Array:
    """The gradient of a size x size kernel, `upstream` being that of the outputs; a film at a time, which stays in the
    processor's cache."""

    def add(total: Array, film: tuple[Array, Array]) -> tuple[Array, None]:
        one, own = wide(film[0])[None], wide(film[1])
        sums = [(view[0] * own).sum((0, 1)) for _, _, view in _views(one, size, stride)]
        return total + jnp.stack(sums).reshape(total.shape), None

    zeros = jnp.zeros((size, size, 1, x.shape[-1]), jnp.promote_types(x.dtype, jnp.float32))
    return lax.scan(add, zeros, (x, upstream))[0].astype(upstream.dtype)


def _views(x: Array, size: int, stride: int) -> Iterator[tuple[int, int, Array]]:
    """What each place (i, j) of the kernel sees."""
    pad = (size - 1) // 2
    height, width = ((side - 1) // stride * stride + 1 for side in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    for i in range(size):
        for j in range(size):
            yield i, j, x[:, i : i + height : stride, j : j + width : stride]


def wide(x: Array) -> Array:
    """To float32 where it is narrower."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
