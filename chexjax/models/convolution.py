"""A convolution and a max-pool: XLA's own on accelerators, `cpu_convolution`'s where a program is lowered for a CPU.

A convolution and its two gradients are bilinear: they are the derivatives of the sum of upstream * convolve(x, kernel)
with respect to upstream, x and kernel. Each is a JAX primitive whose derivatives are the other two, so networks can be
differentiated forwards and backwards, repeatedly, on every backend.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from chexjax.models import cpu_convolution, cpu_depthwise
from chexjax.models.cpu_convolution import xla_convolve


def convolve(x: Array, kernel: Array, stride: int = 1) -> Array:
    """`x` (batch, height, width, in) * `kernel` (size, size, in, out), padded by `(size - 1) // 2` on every side.

    Its products, and those of its gradients, have the precision of `jax.default_matmul_precision` at the call; on a CPU
    they are always float32 products.
    """
    return CONVOLVE.bind(x, kernel, stride=stride, precision=jax.config.jax_default_matmul_precision)  # type: ignore[attr-defined]


def convolve_depthwise(x: Array, kernel: Array, stride: int = 1) -> Array:
    """As `convolve`, each channel by itself: `kernel` is (size, size, 1, channels)."""
    return DEPTHWISE.bind(x, kernel, stride=stride, precision=jax.config.jax_default_matmul_precision)  # type: ignore[attr-defined]


@jax.custom_jvp
def relu(x: Array) -> Array:
    """max(x, 0), whose derivative is taken from its result, so the input need not be kept or even written."""
    return jnp.maximum(x, 0)


@relu.defjvp
def _relu_derivative(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    y = relu(*primals)
    # XLA would turn "y > 0" back into a test of the input.
    return y, jnp.where(y == 0, 0, *tangents)


def max_pool(x: Array) -> Array:
    """The 3x3 maximum at stride 2 with one pixel of padding at the end of the stems of ResNets and DenseNets."""
    return lax.platform_dependent(x, cpu=_max_pool_on_cpu, tpu=_windowed_maximum, default=_max_pool)


def _windowed_maximum(x: Array) -> Array:
    """XLA's own, whose gradient a TPU takes in one pass; on a GPU it would write the map in float32, and indices."""
    window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, ((0, 0), (1, 1), (1, 1), (0, 0)))


_max_pool = jax.custom_jvp(_windowed_maximum)


@_max_pool.defjvp
def _max_pool_derivative(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """The tangent at the first maximum; for its transpose, one byte per window is kept."""
    (x,), (tangent,) = primals, tangents
    highest, *others = _windows(x, -jnp.inf)
    chosen = jnp.zeros(highest.shape, jnp.uint8)
    for index, view in enumerate(others, 1):
        chosen = jnp.where(view > highest, jnp.uint8(index), chosen)
        highest = jnp.maximum(view, highest)
    picked = (jnp.where(chosen == index, view, 0) for index, view in enumerate(_windows(tangent, 0.0)))
    return highest, sum(picked, jnp.zeros_like(highest))


def _windows(x: Array, fill: float) -> list[Array]:
    """The nine shifted views of the 3x3 windows at stride 2, in reading order."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=fill)
    return [x[:, i : height + i : 2, j : width + j : 2] for i in range(3) for j in range(3)]


def _max_pool_on_cpu(x: Array) -> Array:
    """Maxima of shifted views, columns then rows: the gradient is then a chain of selections; that of a windowed
    reduction is a scatter, sixteen times slower on XLA's CPU backend. In bfloat16 the selections take five times
    float32's time, so they are made in float32, which is exact."""
    sides, dtype = x.shape[1:3], x.dtype
    x = cpu_depthwise.wide(x)
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    for axis in (2, 1):
        first, second, third = (lax.slice_in_dim(x, i, sides[axis - 1] + i, 2, axis) for i in range(3))
        x = _greater(_greater(first, second), third)
    return x.astype(dtype)


@jax.custom_jvp
def _greater(x: Array, y: Array) -> Array:
    """The maximum; where both are equal its derivative is that of `x`. (`jnp.maximum` has the mean of both, which makes
    the pool's gradient a third slower.)"""
    return jnp.maximum(x, y)


@_greater.defjvp
def _greater_derivative(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    x, y = primals
    by_x, by_y = tangents
    return _greater(x, y), jnp.where(y > x, by_y, by_x)


# The primitives, three a convolution. Under `vmap`, an operand has one more leading axis, and so has the result.

SINGLE: Final = 4  # axes of films, kernels and feature maps


def _bilinear(
    name: str, default: Callable[..., Array], cpu: Callable[..., Array], kernel: int | None = None
) -> Primitive:
    """A primitive of two operands: a convolution or a gradient, `cpu` on a CPU and `default` elsewhere.

    Operand number `kernel` is shared by all films, so several batches can be merged into one.
    """
    primitive = Primitive(name)

    def grouped(x: Array, y: Array, **static: Any) -> Array:
        """All kernels in one convolution of several groups: on a TPU that moves fewer bytes."""
        axes = [0 if operand.ndim > SINGLE else None for operand in (x, y)]
        function = partial(default, **static)
        return function(x, y) if axes == [None, None] else jax.vmap(function, in_axes=axes)(x, y)

    def looped(single: Callable[..., Array], x: Array, y: Array, **static: Any) -> Array:
        """One kernel after another.

        XLA's CPU backend runs a convolution of groups ten to fifty times slower. For a GPU it writes the gradient of
        the kernels as a convolution whose kernel is as large as the map.
        """
        operands, several = [x, y], [operand.ndim > SINGLE for operand in (x, y)]
        if not any(several):
            return single(x, y, **static)
        count = operands[several.index(True)].shape[0]
        if kernel is not None and not several[kernel]:
            films = operands[1 - kernel]
            operands[1 - kernel] = films.reshape(-1, *films.shape[2:])
            result = single(*operands, **static)
            return result.reshape(count, -1, *result.shape[1:])
        rows = ([x[k] if many else x for x, many in zip(operands, several, strict=True)] for k in range(count))
        return jnp.stack([single(*row, **static) for row in rows])

    def on_cpu(x: Array, y: Array, precision: str | None, **static: Any) -> Array:
        return cpu(x, y, **static)

    def abstract(x: Any, y: Any, **static: Any) -> jax.core.ShapedArray:
        operands = (jax.ShapeDtypeStruct(operand.shape, operand.dtype) for operand in (x, y))
        result = jax.eval_shape(partial(grouped, **static), *operands)
        return jax.core.ShapedArray(result.shape, result.dtype)

    def batch(operands: Sequence[Array], axes: Sequence[int | None], **static: Any) -> tuple[Array, int]:
        pairs = list(zip(operands, axes, strict=True))
        moved = [x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in pairs]
        inner = [x.ndim - (axis is not None) > SINGLE for x, axis in pairs]
        if not any(inner):
            return primitive.bind(*moved, **static), 0
        # A vmap inside a vmap: merge both axes.
        size = next(x.shape[0] for x, axis in zip(moved, axes, strict=True) if axis is not None)
        count = next(x.shape[-SINGLE - 1] for x, several in zip(moved, inner, strict=True) if several)
        merged = []
        for x, axis, several in zip(moved, axes, inner, strict=True):
            x = x if axis is not None else x[None]
            x = x if several else x[:, None]
            merged.append(jnp.broadcast_to(x, (size, count, *x.shape[2:])).reshape(-1, *x.shape[2:]))
        result = primitive.bind(*merged, **static)
        return result.reshape(size, count, *result.shape[1:]), 0

    primitive.def_impl(jax.jit(primitive.bind, static_argnames=("stride", "sides", "size", "precision")))
    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batch
    forms: dict[str | None, Callable[..., Array]] = {
        "cpu": partial(looped, on_cpu),
        "tpu": grouped,
        None: partial(looped, default),
    }
    for platform, form in forms.items():
        mlir.register_lowering(primitive, mlir.lower_fun(form, multiple_results=False), platform=platform)
    return primitive


def _convolution(name: str, xla: Callable[..., Array], cpu: Any, kernel_shape: Callable[..., tuple]) -> Primitive:
    """The primitive of a convolution: `cpu` on a CPU, a module of it and its two gradients; `xla` elsewhere.

    `kernel_shape(size, channels, features)` is that of its kernels.
    """

    def input_gradient(
        kernel: Array, upstream: Array, stride: int, sides: tuple[int, int], precision: str | None
    ) -> Array:  # fmt: skip
        x = jax.ShapeDtypeStruct(input_shape(kernel, upstream, sides), upstream.dtype)
        return jax.linear_transpose(lambda x: xla(x, kernel, stride, precision), x)(upstream)[0]

    def input_gradient_on_cpu(kernel: Array, upstream: Array, stride: int, sides: tuple[int, int]) -> Array:
        return cpu.input_gradient(kernel, upstream, input_shape(kernel, upstream, sides), stride)

    def input_shape(kernel: Array, upstream: Array, sides: tuple[int, int]) -> tuple[int, ...]:
        channels = upstream.shape[-1] if kernel_shape is _of_each_channel else kernel.shape[-2]
        return (upstream.shape[0], *sides, channels)

    def kernel_gradient(x: Array, upstream: Array, stride: int, size: int, precision: str | None) -> Array:
        kernel = jax.ShapeDtypeStruct(kernel_shape(size, x.shape[-1], upstream.shape[-1]), upstream.dtype)
        return jax.linear_transpose(lambda kernel: xla(x, kernel, stride, precision), kernel)(upstream)[0]

    forward = _bilinear(name, xla, cpu.convolve, kernel=1)
    # (kernel, upstream); sides: height and width of the input
    by_input = _bilinear(f"{name}_input_gradient", input_gradient, input_gradient_on_cpu, kernel=0)
    # (x, upstream); size: of the kernel
    by_kernel = _bilinear(f"{name}_kernel_gradient", kernel_gradient, cpu.kernel_gradient)

    def to_input(upstream: Array, x: Any, kernel: Array, **static: Any) -> Array:
        return _like(x, by_input.bind(kernel, upstream, sides=x.aval.shape[-3:-1], **static))

    def to_kernel(upstream: Array, x: Array, kernel: Any, **static: Any) -> Array:
        return _like(kernel, by_kernel.bind(x, upstream, size=kernel.aval.shape[-3], **static))

    # In each of these one operand of the sum is the primitive's cotangent, one is the undefined one.
    ad.defbilinear(forward, to_input, to_kernel)
    ad.defbilinear(
        by_input,
        lambda x, kernel, upstream, sides, **static: to_kernel(upstream, x, kernel, **static),
        lambda x, kernel, upstream, sides, **static: _like(upstream, forward.bind(x, kernel, **static)),
    )
    ad.defbilinear(
        by_kernel,
        lambda kernel, x, upstream, size, **static: to_input(upstream, x, kernel, **static),
        lambda kernel, x, upstream, size, **static: _like(upstream, forward.bind(x, kernel, **static)),
    )
    return forward


def _like(operand: Any, gradient: Array) -> Array:
    """`gradient`, summed over the axis along which the operand was shared."""
    return gradient if gradient.ndim == operand.aval.ndim else gradient.sum(0)


def _of_all_channels(size: int, channels: int, features: int) -> tuple[int, ...]:
    return (size, size, channels, features)


def _of_each_channel(size: int, channels: int, features: int) -> tuple[int, ...]:
    return (size, size, 1, features)


def _xla_depthwise(x: Array, kernel: Array, stride: int, precision: str | None = None) -> Array:
    return xla_convolve(x, kernel, stride, precision, groups=x.shape[-1])


CONVOLVE: Final = _convolution("convolve", xla_convolve, cpu_convolution, _of_all_channels)
DEPTHWISE: Final = _convolution("depthwise", _xla_depthwise, cpu_depthwise, _of_each_channel)
