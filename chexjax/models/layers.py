"""The layers of all families, with torchvision's conventions, so its weights fit exactly.

Everything is NHWC. Parameters and batch statistics are float32; `dtype` is that of the computation.
"""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from chexjax.models.convolution import convolve, convolve_depthwise
from chexjax.models.cpu_depthwise import wide

Dtype = Any


class Conv(nn.Module):
    """A convolution without bias, padded by `(size - 1) // 2` on every side as torch does.

    XLA's "SAME" padding is lopsided at stride 2 and would shift every feature map against torchvision's.

    A stem imported from colour weights has a second parameter, `offset` (size, size, 1, features): what each tap of
    the kernel adds where it lies inside the film, whatever the film shows (see `torch_weights`). New weights have none.
    """

    features: int
    size: int = 3
    stride: int = 1
    kernel_init: Initializer = nn.initializers.he_normal()
    dtype: Dtype = jnp.float32

    @nn.compact
    def weights(self, channels: int) -> jax.Array:
        """The kernel for inputs with `channels` channels: float32 (size, size, channels, features)."""
        return self.param("kernel", self.kernel_init, (self.size, self.size, channels, self.features), jnp.float32)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = convolve(x.astype(self.dtype), self.weights(x.shape[-1]).astype(self.dtype), self.stride)
        if self.has_variable("params", "offset"):
            inside = jnp.ones((1, *x.shape[1:3], 1), self.dtype)
            y += convolve(inside, self.get_variable("params", "offset").astype(self.dtype), self.stride)
        return y


class Depthwise(nn.Module):
    """A convolution of each channel by itself, padded by `(size - 1) // 2` on every side as torch does.

    The kernel is (size, size, 1, channels).
    """

    size: int
    stride: int = 1
    use_bias: bool = False
    kernel_init: Initializer = nn.initializers.he_normal()
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, 1, x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = convolve_depthwise(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)
        if not self.use_bias:
            return y
        return add_bias(y, self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32))


class Patches(nn.Module):
    """Cuts a map into squares of `size` pixels and gives each square `features` numbers: a convolution without overlap.

    Rows and columns that do not fill a square are dropped, as in torch. As a stem it may have an `offset` (size, size,
    1, features) as a `Conv` has; no square reaches beyond the film, so it adds a constant.
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
        return add_bias(y, bias)


class Dense(nn.Module):
    """flax's dense layer over the last axis, except for the gradient of its bias: see `add_bias`."""

    features: int
    kernel_init: Initializer = nn.initializers.lecun_normal()
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return add_bias(x.astype(self.dtype) @ kernel.astype(self.dtype), bias)


# Each channel's bias and factor are added and multiplied in the dtype of the map: cuDNN does it inside the convolution.
# But their gradients are sums over a batch's pixels, and those are in float32: bfloat16 has 8 bits, so that a running
# sum of 256 equal numbers grows no further.


@jax.custom_jvp
def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """`y + bias` in the dtype of `y`; `bias` is the same for many pixels or films of `y`."""
    return y + bias.astype(y.dtype)


@add_bias.defjvp
def _add_bias_derivative(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
    of_y, of_bias = tangents
    return add_bias(*primals), (of_y + wide(of_bias)).astype(of_y.dtype)


@jax.custom_jvp
def scale_channels(y: jax.Array, factor: jax.Array) -> jax.Array:
    """`y * factor` in the dtype of `y`; `factor` is the same for many pixels of `y`."""
    return y * factor.astype(y.dtype)


@scale_channels.defjvp
def _scale_channels_derivative(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
    (y, factor), (of_y, of_factor) = primals, tangents
    by_factor = (wide(y) * wide(of_factor)).astype(y.dtype)
    return scale_channels(y, factor), scale_channels(of_y, factor) + by_factor


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with torch's conventions (Ioffe & Szegedy 2015, Algorithm 1).

    The batch is normalised by its biased variance, but the running variance takes the unbiased one, and a running
    value moves by `momentum` towards the new one. flax's layer keeps the biased variance, which differs by n / (n - 1),
    noticeable in small batches.

    With `axis_name`, mean and variance are those of the whole batch over that pmap axis: the result of
    training then does not depend on the number of devices.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def parameters(self, channels: int) -> tuple[jax.Array, jax.Array, nn.Variable, nn.Variable]:
        """Scale, bias, running mean and running variance: float32 (channels,)."""
        return (
            self.param("scale", nn.initializers.ones, (channels,), jnp.float32),
            self.param("bias", nn.initializers.zeros, (channels,), jnp.float32),
            self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32),
            self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32),
        )

    def __call__(self, x: jax.Array, train: bool, moments: jax.Array | None = None) -> jax.Array:
        """`moments`: `batch_moments` of `x`, if already known."""
        scale, bias, mean, var = self.parameters(x.shape[-1])
        if train:
            if moments is None:
                moments = batch_moments(x, self.axis)
            self.remember(moments, math.prod(x.shape[:-1]))
            factor, offset = fold(moments[0], variance(moments), scale, bias, self.epsilon)
        else:
            factor, offset = fold(mean.value, var.value, scale, bias, self.epsilon)
        return normalized(x, factor, offset).astype(self.dtype)

    def remember(self, moments: jax.Array, count: int) -> None:
        """Moves the running values towards `moments`, those of `count` values on each device."""
        if self.is_initializing():
            return
        *_, mean, var = self.parameters(moments.shape[-1])
        count *= _devices(self.axis)
        unbiased = variance(moments) * (count / max(count - 1, 1))
        mean.value += self.momentum * (moments[0] - mean.value)
        var.value += self.momentum * (unbiased - var.value)

    @property
    def axis(self) -> str | None:
        """`axis_name`, but None during initialisation, when there is no such axis."""
        return None if self.is_initializing() else self.axis_name


def variance(moments: jax.Array) -> jax.Array:
    """The biased variance, from mean and mean square."""
    return jnp.maximum(moments[1] - jnp.square(moments[0]), 0.0)


def fold(
    mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array]:
    """Normalisation as one multiply and one add per element: the four channel vectors become two."""
    factor = scale * jax.lax.rsqrt(var + epsilon)
    return factor, bias - mean * factor


def normalized(x: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
    """`x * factor + offset`, at least in float32.

    In bfloat16 the gradient of a ResNet-18's first kernel had a cosine of 0.83 with float32's; rounded once, of 0.98.
    """
    return wide(x) * factor + offset


def conv_norm(conv: Conv, norm: BatchNorm, x: jax.Array, train: bool) -> jax.Array:
    """`norm(conv(x), train)` of a 1x1 convolution that does not reduce the channels.

    In training, except on a CPU, the mean and the mean square of the convolution's output are computed from
    the mean and the Gram matrix of its input, and the norm is folded into the kernel. So no pass reads the output to
    normalise it, and it is not kept for the backward pass; in a bottleneck it is four times as large as the input.
    """
    if not train or norm.is_initializing():
        return norm(conv(x), train)
    kernel = conv.weights(x.shape[-1])
    scale, bias, *_ = norm.parameters(conv.features)
    on_cpu, elsewhere = (
        partial(form, stride=conv.stride, epsilon=norm.epsilon, axis_name=norm.axis_name)
        for form in (normed_by_output, normed_by_input)
    )
    inputs = (x.astype(conv.dtype), kernel, scale, bias)
    y, moments = jax.lax.platform_dependent(*inputs, cpu=on_cpu, default=elsewhere)
    norm.remember(moments, math.prod(y.shape[:-1]))
    return y


def normed_by_output(
    x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array,
    stride: int, epsilon: float, axis_name: str | None,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """The normalised convolution and its `batch_moments`, in the order of the formulas."""
    y = convolve(x, kernel.astype(x.dtype), stride)
    moments = batch_moments(y, axis_name)
    factor, offset = fold(moments[0], variance(moments), scale, bias, epsilon)
    return normalized(y, factor, offset).astype(y.dtype), moments


def normed_by_input(
    x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array,
    stride: int, epsilon: float, axis_name: str | None,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """The same, from the input's moments: E[w.x] = w.E[x] and E[(w.x)^2] = w.E[x x^T].w for each kernel w."""
    x = x[:, ::stride, ::stride]
    count = math.prod(x.shape[:-1])
    mean = x.astype(jnp.float32).mean((0, 1, 2))
    seen = kernel[0, 0].astype(x.dtype).astype(jnp.float32)
    squares = (seen * _product("ij,jo->io", gram_matrix(x) / count, seen)).sum(0)
    moments = _shared(jnp.stack([_product("i,io->o", mean, seen), squares]), axis_name)
    factor, offset = fold(moments[0], variance(moments), scale, bias, epsilon)
    return add_bias(convolve(x, (kernel * factor).astype(x.dtype)), offset), moments


_product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


@jax.custom_jvp
def gram_matrix(x: jax.Array) -> jax.Array:
    """The sum of x xᵀ over all pixels: (batch, height, width, channels) -> float32 (channels, channels)."""
    return _product("nhwi,nhwj->ij", x, x)


@gram_matrix.defjvp
def _gram_derivative(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """x dxᵀ and its transpose: one product, and one backward. By the rule for products there would be two of each."""
    half = _product("nhwi,nhwj->ij", primals[0], tangents[0])
    return gram_matrix(*primals), half + half.T


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU (Hendrycks & Gimpel 2016, section 2), elementwise.

    On a GPU its backward pass begins again from `x`: XLA would write two more arrays of its size to memory, and read
    them there. On a CPU computing the error function twice would cost more.
    """
    exact = partial(nn.gelu, approximate=False)
    return jax.lax.platform_dependent(x, cpu=exact, tpu=exact, default=jax.checkpoint(exact))


def batch_moments(x: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Mean and mean square of each channel over the batch, on all devices of the axis: float32 (2, channels).

    Always in float32: a bfloat16 sum over a batch is too inaccurate.
    """
    axes = tuple(range(x.ndim - 1))
    x32 = x.astype(jnp.float32)
    return _shared(jnp.stack([x32.mean(axes), jnp.square(x32).mean(axes)]), axis_name)


def _shared(moments: jax.Array, axis_name: str | None) -> jax.Array:
    # Even a mean over one device would prevent XLA from fusing through it.
    return jax.lax.pmean(moments, axis_name) if _devices(axis_name) > 1 else moments


def _devices(axis_name: str | None) -> int:
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def scaled(channels: int, width: float) -> int:
    """`channels` times the width multiplier, at least 4."""
    return max(4, round(channels * width))
