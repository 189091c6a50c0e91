"""The layers that the families are built from, with torchvision's conventions so that its weights fit exactly.

Everything is NHWC. Parameters and batch statistics are float32; `dtype` is that of the computation.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from chexjax.models.convolution import convolve

Dtype = Any


class Conv(nn.Module):
    """A convolution without bias, padded by `(size - 1) // 2` on every side as torch does.

    XLA's "SAME" padding is lopsided at stride 2 and would shift every feature map against torchvision's.

    A stem imported from colour weights has a second parameter, `offset` (size, size, 1, features): what each place of
    the kernel adds where it falls inside the film, whatever that shows (see `torch_weights`). New weights have none.
    """

    features: int
    size: int = 3
    stride: int = 1
    kernel_init: Initializer = nn.initializers.he_normal()
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        y = convolve(x.astype(self.dtype), kernel, self.stride)
        if self.has_variable("params", "offset"):
            inside = jnp.ones((1, *x.shape[1:3], 1), self.dtype)
            y += convolve(inside, self.get_variable("params", "offset").astype(self.dtype), self.stride)
        return y


def depthwise(channels: int, size: int, stride: int = 1, **options: Any) -> nn.Conv:
    """A convolution of each channel by itself, padded by `(size - 1) // 2` on every side as torch does.

    `options` are those of `flax.linen.Conv`. The kernel is (size, size, 1, channels).
    """
    padding = (size - 1) // 2
    return nn.Conv(channels, (size, size), stride, padding, feature_group_count=channels, **options)


class Patches(nn.Module):
    """Cuts a map into squares of `size` pixels and gives each square `features` numbers: a convolution without overlap.

    Rows and columns that fill no square are left out, as torch does. As a stem it may have an `offset` (size, size, 1,
    features) as a `Conv` has; no square reaches beyond the film, so it adds a constant.
    """

    features: int
    size: int
    kernel_init: Initializer = nn.initializers.he_normal()
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        if self.has_variable("params", "offset"):
            bias += self.get_variable("params", "offset").sum((0, 1, 2))
        batch, height, width = x.shape[0], x.shape[1] // self.size, x.shape[2] // self.size
        squares = x[:, : height * self.size, : width * self.size].astype(self.dtype)
        squares = squares.reshape(batch, height, self.size, width, self.size, -1)
        y = jnp.einsum("nhawbi,abio->nhwo", squares, kernel.astype(self.dtype))
        return y + bias.astype(self.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with torch's conventions (Ioffe & Szegedy 2015, Algorithm 1).

    The batch is normalised by its biased variance, but the running variance takes the unbiased one, and a running
    value moves by `momentum` towards the new one. flax's own layer keeps the biased variance, a difference of
    n / (n - 1) that shows in small batches.

    With `axis_name`, mean and variance are those of the whole batch over that pmap axis: what a network learns then
    does not depend on how many devices shared the batch.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, moments: jax.Array | None = None) -> jax.Array:
        """`moments`: `batch_moments` of `x`, where they are known already."""
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)

        if not train:
            mean, var = running_mean.value, running_var.value
        else:
            axis_name = None if self.is_initializing() else self.axis_name
            if moments is None:
                moments = batch_moments(x, axis_name)
            count = math.prod(x.shape[:-1]) * _devices(axis_name)
            mean = moments[0]
            var = jnp.maximum(moments[1] - jnp.square(mean), 0.0)
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value += self.momentum * (mean - running_mean.value)
                running_var.value += self.momentum * (unbiased - running_var.value)

        # One multiply and one add per element: the four per-channel vectors fold into two.
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        offset = bias - mean * factor
        return x.astype(self.dtype) * factor.astype(self.dtype) + offset.astype(self.dtype)


def batch_moments(x: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Mean and mean square of each channel over the batch, on all devices of the axis: float32 (2, channels).

    In float32 whatever the dtype of `x`: a bfloat16 sum over a batch loses the mean.
    """
    axes = tuple(range(x.ndim - 1))
    x32 = x.astype(jnp.float32)
    moments = jnp.stack([x32.mean(axes), jnp.square(x32).mean(axes)])
    # Even a mean over one device would keep XLA from fusing through it.
    return jax.lax.pmean(moments, axis_name) if _devices(axis_name) > 1 else moments


def _devices(axis_name: str | None) -> int:
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def scaled(channels: int, width: float) -> int:
    """`channels` times the width multiplier, at least 4."""
    return max(4, round(channels * width))
