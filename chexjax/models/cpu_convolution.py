"""Convolutions and their two gradients in forms that are fast on XLA's CPU backend; no other backend runs them.

That backend reaches a quarter of the processor's speed in `lax.conv_general_dilated`, a fortieth in some gradients, but
all of it in matrix products. So the same sums are written as products, a few films at a time, so that intermediate
results stay in the processor's cache:

- `PRODUCT`: 1x1, which is a matrix product.
- `WINOGRAD`: 3x3 at stride 1. Tiles of 4x4 outputs are 6x6 products after a small linear transform of the tile, of the
  kernel, and back: a fourth of the multiplications (Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks",
  CVPR 2016, section 4.3). Rounding grows to some 1e-5 of the largest output in float32.
- `IM2COL`: other kernels, and few or small maps. The views of all taps side by side, times the kernel's matrix.
- `WINDOW`: narrow maps, above all the stem's films: XLA's own convolution, except for the gradient of the kernel.

`convolution.convolve` chooses between these and XLA's own where a program is lowered.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental.layout import Layout, with_layout_constraint


class Tuning(NamedTuple):
    """What is fastest on a kind of processor."""

    cache: int  # bytes that intermediate results of a few films may fill
    narrow_map: float  # outputs per film up to which columns are better built in bfloat16 than in float32


# BUILD-measurements.md, "XLA's CPU backend" and "bfloat16 on a CPU", has the figures.
TUNING: Final = Tuning(cache=12 * 2**20, narrow_map=64)  # AMD EPYC
# Intel Xeons with matrix units, which multiply bfloat16 at three to eight times float32's speed.
TUNING_WITH_AMX: Final = Tuning(cache=48 * 2**20, narrow_map=math.inf)

SMALL_MAP: Final = 64  # outputs per film up to which columns of bfloat16 are faster than Winograd's form in float32
# What Winograd's transforms take, in the time of outputs by columns: of a tile, and of the kernel, once a batch.
TILE_COST: Final = 7
KERNEL_COST: Final = 300
NARROW: Final = 16  # channels below which XLA's own convolution is as fast, and compiles faster
FEW_CHANNELS: Final = 4  # channels below which columns would be copied a few bytes at a time

# Lavin & Gray 2016, section 4.3: F(4x4, 3x3), the polynomials' points being 0, 1, -1, 2, -2 and infinity.
OF_TILE: Final = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
OF_KERNEL: Final = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
OF_OUTPUT: Final = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
TILE: Final = 4  # outputs
SEEN: Final = 6  # inputs that they see


class Form(NamedTuple):
    """A way to write a convolution and its two gradients, for float32 or float64."""

    forward: Callable[[Array, Array, int], Array]  # x, kernel, stride
    input_gradient: Callable[[Array, Array, tuple[int, ...], int], Array]  # kernel, upstream, shape of x, stride
    kernel_gradient: Callable[[Array, Array, int, int], Array]  # x, upstream, size of the kernel, stride


def convolve(x: Array, kernel: Array, stride: int) -> Array:
    """`x` (batch, height, width, in) * `kernel` (size, size, in, out), padded by `(size - 1) // 2` on every side."""
    form = form_of(x.shape, kernel.shape[0], stride, x.dtype)
    wide_x, wide_kernel = _widened(form, _outputs(x.shape, stride), x, kernel)
    return form.forward(wide_x, wide_kernel, stride).astype(x.dtype)


def input_gradient(kernel: Array, upstream: Array, shape: tuple[int, ...], stride: int) -> Array:
    """The gradient of an input of this shape, `upstream` being that of the outputs."""
    form = form_of(shape, kernel.shape[0], stride, upstream.dtype)
    wide_kernel, wide_upstream = _widened(form, _outputs(shape, stride), kernel, upstream)
    return form.input_gradient(wide_kernel, wide_upstream, shape, stride).astype(upstream.dtype)


def kernel_gradient(x: Array, upstream: Array, size: int, stride: int) -> Array:
    """The gradient of a size x size kernel, `upstream` being that of the outputs."""
    form = form_of(x.shape, size, stride, upstream.dtype)
    wide_x, wide_upstream = _widened(form, _outputs(x.shape, stride), x, upstream)
    return form.kernel_gradient(wide_x, wide_upstream, size, stride).astype(upstream.dtype)


def form_of(shape: tuple[int, ...], size: int, stride: int, dtype: np.dtype) -> Form:
    """The fastest form for films of this shape and dtype."""
    if size == 1:
        return PRODUCT
    if shape[-1] < NARROW:
        return WINDOW
    if size != 3 or stride != 1:
        return IM2COL
    narrow = dtype == jnp.bfloat16 and multiplies_bfloat16()
    saves = _outputs(shape, 1) > SMALL_MAP if narrow else _winograd_saves(shape)
    return WINOGRAD if saves else IM2COL


def _winograd_saves(shape: tuple[int, ...]) -> bool:
    """Whether it saves more multiplications than its transforms cost; an export's films of no number count as eight."""
    films = shape[0] if isinstance(shape[0], int) else 8
    return films * (_outputs(shape, 1) - TILE_COST * math.prod(_grid(shape))) > KERNEL_COST


def _widened(form: Form, outputs: int, *arrays: Array) -> list[Array]:
    """bfloat16 to float32, but for products that are quicker without; `outputs` a film.

    Written out, not left to be fused: each of the tiles that see a pixel would widen it anew.
    """
    fixed = all(isinstance(extent, int) for array in arrays for extent in array.shape)  # not in an export
    narrow = fixed and (form is PRODUCT or (form is IM2COL and outputs <= tuning().narrow_map))
    if arrays[0].dtype != jnp.bfloat16 or (narrow and multiplies_bfloat16()):
        return list(arrays)
    wide = [array.astype(jnp.float32) for array in arrays]
    return [_in_rows(array) for array in wide] if fixed else wide


def tuning() -> Tuning:
    """What is fastest on this processor."""
    return TUNING_WITH_AMX if _multiplies_matrices() else TUNING


def multiplies_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 numbers; where it is not known, it does not."""
    return "avx512_bf16" in _features() or _multiplies_matrices()


def _multiplies_matrices() -> bool:
    """Whether it multiplies whole matrices of them, by Intel's AMX."""
    return "amx_bf16" in _features()


@cache
def _features() -> frozenset[str]:
    """What Linux says that the processor can do; elsewhere nothing is known."""
    try:
        flags = Path("/proc/cpuinfo").read_text().partition("\nflags")[2].partition("\n")[0]
    except OSError:
        return frozenset()
    return frozenset(flags.split())


def xla_convolve(x: Array, kernel: Array, stride: int, precision: str | None = None, groups: int = 1) -> Array:
    """XLA's own convolution, which every other backend runs."""
    pad = (kernel.shape[0] - 1) // 2
    return _in_order(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        precision=precision,
        feature_group_count=groups,
    )


# The canonical layout. XLA's CPU backend transposes other layouts by itself, but not inside a loop, where it falls
# back to a scalar loop (twenty times slower, see `steps.create_steps`).
_in_order = partial(lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _outputs(shape: tuple[int, ...], stride: int) -> int:
    """Of a film of this shape."""
    return math.prod((extent - 1) // stride + 1 for extent in shape[1:3])


# Matrix products. Of bfloat16 operands XLA's CPU backend makes one at twice float32's speed (AVX512_BF16, jax 0.10) if
# the result is to be float32, at a third of it if bfloat16; and only if all three lie in rows.


def _in_rows(x: Array) -> Array:
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))


def _matmul(x: Array, y: Array, y_axis: int = 0) -> Array:
    """x y, or x yᵀ where `y_axis` is 1; of bfloat16 in float32."""
    axes = (((x.ndim - 1,), (y_axis,)), ((), ()))
    if x.dtype != jnp.bfloat16:
        return lax.dot_general(x, y, axes)
    product = lax.dot_general(_in_rows(x), _in_rows(y), axes, preferred_element_type=jnp.float32)
    return _in_rows(product)


def _sum_of_products(x: Array, y: Array) -> Array:
    """xᵀ y of matrices with many rows; float32 of bfloat16.

    The one with fewer columns is turned: XLA turns its left operand, and this makes that up to 1.5 times quicker.
    """
    if x.shape[1] > y.shape[1]:
        return _sum_of_products(y, x).T
    if x.dtype != jnp.bfloat16:
        return lax.dot_general(x, y, (((0,), (0,)), ((), ())))
    product = lax.dot_general(_in_rows(x.T), _in_rows(y), (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)
    return _in_rows(product)


# A few films at a time


def _films_at_once(batch: int, bytes_a_film: int) -> int:
    """The largest divisor of `batch` whose films fit into the cache; all of them if `batch` is symbolic (export)."""
    if not isinstance(batch, int):
        return batch
    divisors = (n for n in range(batch, 0, -1) if batch % n == 0)
    return next((n for n in divisors if n * bytes_a_film <= tuning().cache), min(batch, 1))


def _for_each(function: Callable[[Array], Array], bytes_a_film: int, x: Array) -> Array:
    """`function(x)` over the films of `x`."""
    at_once = _films_at_once(x.shape[0], bytes_a_film)
    if at_once == x.shape[0]:
        return function(x)
    y = lax.map(function, x.reshape(-1, at_once, *x.shape[1:]))
    return y.reshape(x.shape[0], *y.shape[2:])


def _sum_of_each(function: Callable[[Array, Array], Array], bytes_a_film: int, x: Array, y: Array) -> Array:
    """The sum of `function(x, y)` over films."""
    at_once = _films_at_once(x.shape[0], bytes_a_film)
    if at_once == x.shape[0]:
        return function(x, y)
    xs, ys = (array.reshape(-1, at_once, *array.shape[1:]) for array in (x, y))
    nothing = jax.eval_shape(function, xs[0], ys[0])
    start = jnp.zeros(nothing.shape, nothing.dtype)
    return lax.fori_loop(0, len(xs), lambda i, total: total + function(xs[i], ys[i]), start)


# Winograd's form. Transformed tiles: (36, tiles, channels), the 6x6 places of a tile first.


def _combine(matrix: np.ndarray, parts: Sequence[Array]) -> list[Array]:
    """`matrix` times a vector of arrays: sums with the zeros and ones left out."""
    sums = []
    for row in matrix.tolist():
        terms = [part if factor == 1 else part * factor for factor, part in zip(row, parts, strict=True) if factor]
        sums.append(sum(terms[1:], terms[0]))
    return sums


def _grid(shape: tuple[int, ...]) -> tuple[int, int]:
    """Tiles down and across a film of this shape."""
    return -(-shape[1] // TILE), -(-shape[2] // TILE)


def _tiles(x: Array, matrix: np.ndarray, before: int) -> Array:
    """Every tile t of the films as `matrix` t `matrix`ᵀ; a tile begins `before` pixels ahead of its outputs."""
    batch, height, width, channels = x.shape
    seen = matrix.shape[1]
    down, across = _grid(x.shape)
    after = [TILE * (count - 1) + seen - before - n for count, n in ((down, height), (across, width))]
    x = jnp.pad(x, ((0, 0), (before, after[0]), (before, after[1]), (0, 0)))
    ends = TILE * (down - 1) + 1, TILE * (across - 1) + 1
    rows = jnp.stack(_combine(matrix, [x[:, i : i + ends[0] : TILE] for i in range(seen)]))
    both = jnp.stack(_combine(matrix, [rows[..., j : j + ends[1] : TILE, :] for j in range(seen)]), 1)
    return both.reshape(SEEN * SEEN, batch * down * across, channels)


def _tiles_seen(x: Array) -> Array:
    return _tiles(x, OF_TILE, before=1)


def _of_tiles(tiles: Array, shape: tuple[int, ...]) -> Array:
    """Tiles of outputs, transformed back and joined to maps: (batch, height, width, channels)."""
    batch, height, width, channels = shape
    down, across = _grid(shape)
    tiles = tiles.reshape(SEEN, SEEN, batch, down, across, channels)
    rows = jnp.stack(_combine(OF_OUTPUT, list(tiles)))
    both = jnp.stack(_combine(OF_OUTPUT, [rows[:, j] for j in range(SEEN)]), 4)
    y = both.transpose(1, 2, 0, 3, 4, 5).reshape(batch, TILE * down, TILE * across, channels)
    return y[:, :height, :width]


def _on_both_sides(matrix: np.ndarray, w: Array) -> Array:
    """`matrix` w `matrix`ᵀ on the two leading axes."""
    rows = jnp.stack(_combine(matrix, list(w)))
    return jnp.stack(_combine(matrix, [rows[:, j] for j in range(w.shape[1])]), 1)


def _bytes_of_tiles(x: Array, channels: int) -> int:
    """Of a film's tiles with the larger of two numbers of channels."""
    down, across = _grid(x.shape)
    return SEEN * SEEN * down * across * max(x.shape[-1], channels) * x.dtype.itemsize


def _winograd(x: Array, kernel: Array, stride: int) -> Array:
    channels = kernel.shape[-1]
    products = _on_both_sides(OF_KERNEL, kernel).reshape(SEEN * SEEN, -1, channels)

    def few(x: Array) -> Array:
        return _of_tiles(_tiles_seen(x) @ products, (*x.shape[:3], channels))

    return _for_each(few, _bytes_of_tiles(x, channels), x)


def _winograd_input_gradient(kernel: Array, upstream: Array, shape: tuple[int, ...], stride: int) -> Array:
    """`upstream` convolved with the kernel rotated by 180 degrees, its input and output channels swapped."""
    channels = shape[-1]
    products = _on_both_sides(OF_KERNEL, jnp.flip(kernel, (0, 1))).reshape(SEEN * SEEN, channels, -1)

    def few(upstream: Array) -> Array:
        tiles = lax.dot_general(_tiles_seen(upstream), products, (((2,), (2,)), ((0,), (0,))))
        return _of_tiles(tiles, (*upstream.shape[:3], channels))

    return _for_each(few, _bytes_of_tiles(upstream, channels), upstream)


def _winograd_kernel_gradient(x: Array, upstream: Array, size: int, stride: int) -> Array:
    """The transposes of `_winograd`'s three linear maps, in reverse order."""

    def few(x: Array, upstream: Array) -> Array:
        outputs = _tiles(upstream, OF_OUTPUT.T, before=0)
        return lax.dot_general(_tiles_seen(x), outputs, (((1,), (1,)), ((0,), (0,))))

    products = _sum_of_each(few, _bytes_of_tiles(x, upstream.shape[-1]), x, upstream)
    return _on_both_sides(OF_KERNEL.T, products.reshape(SEEN, SEEN, *products.shape[1:]))


# The form of columns


def _views(x: Array, size: int, stride: int) -> list[Array]:
    """The view of each of the kernel's size x size taps: (batch, outputs down, outputs across, channels)."""
    pad = (size - 1) // 2
    down, across = (stride * ((extent - 1) // stride) + 1 for extent in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    return [x[:, i : i + down : stride, j : j + across : stride] for i in range(size) for j in range(size)]


def _columns(x: Array, size: int, stride: int) -> Array:
    """The views of all taps side by side: (batch, outputs down, outputs across, taps * channels)."""
    return jnp.concatenate(_views(x, size, stride), axis=-1)


def _bytes_of_columns(shape: tuple[int, ...], dtype: np.dtype, size: int, stride: int) -> int:
    return _outputs(shape, stride) * size * size * shape[-1] * dtype.itemsize


def _im2col(x: Array, kernel: Array, stride: int) -> Array:
    size, matrix = kernel.shape[0], kernel.reshape(-1, kernel.shape[-1])

    def few(x: Array) -> Array:
        return _matmul(_columns(x, size, stride), matrix)

    return _for_each(few, _bytes_of_columns(x.shape, x.dtype, size, stride), x)


def _im2col_input_gradient(kernel: Array, upstream: Array, shape: tuple[int, ...], stride: int) -> Array:
    """The gradient of each tap, added back to the pixels that it saw."""
    size, matrix = kernel.shape[0], kernel.reshape(-1, kernel.shape[-1])

    def few(upstream: Array) -> Array:
        sent = _matmul(upstream, matrix, y_axis=1)
        films = jnp.zeros((upstream.shape[0], *shape[1:]), sent.dtype)
        columns, back = jax.vjp(lambda films: _columns(films, size, stride), films)
        return back(sent.reshape(columns.shape))[0]

    return _for_each(few, _bytes_of_columns(shape, upstream.dtype, size, stride), upstream)


def _im2col_kernel_gradient(x: Array, upstream: Array, size: int, stride: int) -> Array:
    channels = upstream.shape[-1]

    def few(x: Array, upstream: Array) -> Array:
        columns = _columns(x, size, stride).reshape(-1, size * size * x.shape[-1])
        return _sum_of_products(columns, upstream.reshape(-1, channels))

    matrix = _sum_of_each(few, _bytes_of_columns(x.shape, x.dtype, size, stride), x, upstream)
    return matrix.reshape(size, size, x.shape[-1], channels)


# The form of windows


def _window_input_gradient(kernel: Array, upstream: Array, shape: tuple[int, ...], stride: int) -> Array:
    """`upstream`, dilated by zeros for the stride, convolved with the rotated kernel."""
    size = kernel.shape[0]
    pad = (size - 1) // 2
    # Pixels beyond the last window, which no output has seen.
    ends = [n + 2 * pad - size - (m - 1) * stride for n, m in zip(shape[1:3], upstream.shape[1:3], strict=True)]
    border = [(size - 1 - pad, size - 1 - pad + end) for end in ends]
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return _in_order(upstream, turned, window_strides=(1, 1), padding=border, lhs_dilation=(stride, stride))


def _window_kernel_gradient(x: Array, upstream: Array, size: int, stride: int) -> Array:
    """`_im2col_kernel_gradient`; with few channels its columns are built as rows, which are then contiguous."""
    if x.shape[-1] >= FEW_CHANNELS:
        return _im2col_kernel_gradient(x, upstream, size, stride)
    channels = upstream.shape[-1]

    def few(x: Array, upstream: Array) -> Array:
        rows = jnp.stack([view[..., c] for view in _views(x, size, stride) for c in range(x.shape[-1])])
        return rows.reshape(len(rows), -1) @ upstream.reshape(-1, channels)

    bytes_a_film = _bytes_of_columns(x.shape, x.dtype, size, stride) + upstream[0].size * upstream.dtype.itemsize
    matrix = _sum_of_each(few, bytes_a_film, x, upstream)
    return matrix.reshape(size, size, x.shape[-1], channels)


# The form of products. All pixels on ONE axis: XLA's CPU backend is slow at the kernel's gradient otherwise.


def _product(x: Array, kernel: Array, stride: int) -> Array:
    x = x[:, ::stride, ::stride]
    return _matmul(x.reshape(-1, x.shape[-1]), kernel[0, 0]).reshape(*x.shape[:-1], -1)


def _product_input_gradient(kernel: Array, upstream: Array, shape: tuple[int, ...], stride: int) -> Array:
    x = _matmul(upstream.reshape(-1, upstream.shape[-1]), kernel[0, 0], y_axis=1).reshape(*upstream.shape[:-1], -1)
    ends = [n - (m - 1) * stride - 1 for n, m in zip(shape[1:3], upstream.shape[1:3], strict=True)]
    padding = [(0, 0, 0), *((0, end, stride - 1) for end in ends), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), padding)


def _product_kernel_gradient(x: Array, upstream: Array, size: int, stride: int) -> Array:
    x = x[:, ::stride, ::stride]
    pixels, channels = x.reshape(-1, x.shape[-1]), upstream.reshape(-1, upstream.shape[-1])
    return _sum_of_products(pixels, channels)[None, None]


PRODUCT: Final = Form(_product, _product_input_gradient, _product_kernel_gradient)
WINOGRAD: Final = Form(_winograd, _winograd_input_gradient, _winograd_kernel_gradient)
IM2COL: Final = Form(_im2col, _im2col_input_gradient, _im2col_kernel_gradient)
WINDOW: Final = Form(xla_convolve, _window_input_gradient, _window_kernel_gradient)
