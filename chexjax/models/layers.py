"""The three layers both families are built from, with torchvision's conventions so that its weights fit exactly.

Everything is NHWC. Parameters and batch statistics are float32; `dtype` is that of the computation.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

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


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """`x` (batch, height, width, in) * `kernel` (size, size, in, out), symmetric padding.

    Two kinds of convolution are written as the matrix products that they are, because XLA's CPU backend is slow at
    them: 1x1 (two to five times), and any kernel on a map of at most 3x3 outputs (thirty times at 2x2).
    """
    size = kernel.shape[0]
    pad = (size - 1) // 2
    if size == 1:
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    height, width = ((extent - 1) // stride + 1 for extent in x.shape[1:3])
    if height * width <= 9:
        padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        shifts = [
            padded[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
            for i in range(size)
            for j in range(size)
        ]
        return jnp.concatenate(shifts, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])
    return _window(x, kernel, stride, pad)


def _lax_convolution(x: jax.Array, kernel: jax.Array, stride: int, pad: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(x, kernel, ...)` whose vmap over kernels is a loop.

    JAX would make one grouped convolution of it, and XLA's CPU backend runs that ten to fifty times slower.
    """
    looped = jax.custom_batching.custom_vmap(function)

    @looped.def_vmap
    def rule(size: int, batched: Sequence[bool], *arguments: jax.Array) -> tuple[Any, Any]:
        if not batched[1]:
            result = jax.vmap(function, in_axes=[0 if b else None for b in batched])(*arguments)
        else:
            each = [looped(*(a[k] if b else a for a, b in zip(arguments, batched, strict=True))) for k in range(size)]
            result = jax.tree.map(lambda *parts: jnp.stack(parts), *each)
        return result, jax.tree.map(lambda _: True, result)

    return looped


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _window(x: jax.Array, kernel: jax.Array, stride: int, pad: int) -> jax.Array:
    """The convolution as XLA has it; with a gradient of its own, as JAX finds none behind a vmap rule."""
    return _one_by_one(partial(_lax_convolution, stride=stride, pad=pad))(x, kernel)


def _window_forward(x: jax.Array, kernel: jax.Array, stride: int, pad: int) -> tuple[jax.Array, Any]:
    return _window(x, kernel, stride, pad), (x, kernel)


def _window_backward(stride: int, pad: int, kept: Any, upstream: jax.Array) -> tuple[jax.Array, jax.Array]:
    def plain(x: jax.Array, kernel: jax.Array, upstream: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(partial(_lax_convolution, stride=stride, pad=pad), x, kernel)[1](upstream)

    def pull_back(x: jax.Array, kernel: jax.Array, upstream: jax.Array) -> tuple[jax.Array, jax.Array]:
        in_order = partial(_pull_back_in_order, stride=stride, pad=pad)
        return jax.lax.platform_dependent(x, kernel, upstream, cpu=in_order, default=plain)

    return _one_by_one(pull_back)(*kept, upstream)


def _pull_back_in_order(
    x: jax.Array, kernel: jax.Array, upstream: jax.Array, stride: int, pad: int
) -> tuple[jax.Array, jax.Array]:
    """A convolution's two gradients as convolutions of arrays that lie in the order (batch, height, width, channels).

    JAX writes them with the axes of `x` in other roles. XLA's CPU backend brings that into this order by itself, but
    not inside a loop, where it falls back to a scalar one (twenty times slower, see `steps.create_steps`).
    """
    size = kernel.shape[0]
    convolve = partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    # What the last window leaves over at the far end: no output has seen it.
    ends = [(n + 2 * pad - size) - (m - 1) * stride for n, m in zip(x.shape[1:3], upstream.shape[1:3], strict=True)]
    turned = jnp.flip(kernel, (0, 1)).transpose(0, 1, 3, 2)
    border = [(size - 1 - pad, size - 1 - pad + end) for end in ends]
    of_x = convolve(upstream, turned, (1, 1), border, lhs_dilation=(stride, stride))
    # The channels of `x` play the batch, and the films the channels: each place of the kernel sums over films.
    border = [(pad, pad - end) for end in ends]
    films, places = x.transpose(3, 1, 2, 0), upstream.transpose(1, 2, 0, 3)
    of_kernel = convolve(films, places, (1, 1), border, rhs_dilation=(stride, stride))
    return of_x, of_kernel.transpose(1, 2, 0, 3)


_window.defvjp(_window_forward, _window_backward)


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
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)

        if not train:
            mean, var = running_mean.value, running_var.value
        else:
            axes = tuple(range(x.ndim - 1))
            count = math.prod(x.shape[:-1])
            # Statistics in float32 whatever the computation's dtype: a bfloat16 sum over a batch loses the mean.
            x32 = x.astype(jnp.float32)
            moments = jnp.stack([x32.mean(axes), jnp.square(x32).mean(axes)])
            devices = 1 if self.axis_name is None or self.is_initializing() else jax.lax.axis_size(self.axis_name)
            if devices > 1:  # even a mean over one device would keep XLA from fusing through it
                moments = jax.lax.pmean(moments, self.axis_name)
                count *= devices
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


def max_pool(x: jax.Array) -> jax.Array:
    """The 3x3 maximum at stride 2 with one pixel of padding that both stems end in.

    Written as maxima of shifted views, rows then columns: the gradient is then a chain of selections, where that of
    a windowed reduction is a scatter (sixteen times slower on XLA's CPU backend).
    """
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    x = jnp.maximum(jnp.maximum(x[:, 0:height:2], x[:, 1 : height + 1 : 2]), x[:, 2 : height + 2 : 2])
    return jnp.maximum(jnp.maximum(x[:, :, 0:width:2], x[:, :, 1 : width + 1 : 2]), x[:, :, 2 : width + 2 : 2])


def scaled(channels: int, width: float) -> int:
    """`channels` times the width multiplier, at least 4."""
    return max(4, round(channels * width))
