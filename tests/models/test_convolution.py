"""`convolve` in each of its forms, against a loop over windows and against JAX's own gradients."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chexjax.models import convolution, cpu_convolution
from chexjax.models.convolution import convolve, max_pool, relu
from chexjax.models.cpu_convolution import IM2COL, PRODUCT, WINDOW, WINOGRAD, Form
from chexjax.models.resnet import Bottleneck

FORMS = {"product": PRODUCT, "winograd": WINOGRAD, "im2col": IM2COL, "window": WINDOW}


def plain(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """JAX's convolution with torch's padding."""
    pad = ((kernel.shape[0] - 1) // 2,) * 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), (pad, pad), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def draw(shape: tuple[int, ...], size: int, outputs: int, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Films and a kernel."""
    rng = np.random.default_rng(sum(shape))
    return rng.normal(size=shape).astype(dtype), rng.normal(size=(size, size, shape[-1], outputs)).astype(dtype)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("shape", [(2, 1, 2, 3), (2, 3, 4, 16), (3, 8, 9, 16), (2, 9, 10, 5)])
def test_convolve_is_a_convolution(shape: tuple[int, ...], size: int, stride: int) -> None:
    x, kernel = draw(shape, size, 4)
    pad = (size - 1) // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))).astype(np.float64)
    rows, columns = range(0, shape[1], stride), range(0, shape[2], stride)
    expected = np.array(
        [
            [
                [np.tensordot(film[i : i + size, j : j + size], kernel, axes=3) for j in columns]
                for i in rows
            ]
            for film in padded
        ]
    )  # fmt: skip
    found = jax.jit(convolve, static_argnums=2)(x, kernel, stride)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("films_at_once", [2, 6])
@pytest.mark.parametrize(
    ("form", "size", "stride"),
    [
        ("product", 1, 1),
        ("product", 1, 2),
        ("winograd", 3, 1),
        ("im2col", 3, 1),
        ("im2col", 3, 2),
        ("window", 7, 1),
        ("window", 7, 2),
    ],
)
@pytest.mark.parametrize("sides", [(7, 5), (10, 8)])
def test_every_form_is_the_convolution_and_its_gradients(
    sides: tuple[int, int], form: str, size: int, stride: int, films_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sides at which windows and tiles end at the border, short of it and beyond it."""
    monkeypatch.setattr(cpu_convolution, "_films_at_once", lambda batch, bytes_a_film: films_at_once)
    x, kernel = draw((6, *sides, 3), size, 4)
    expected, back = jax.vjp(lambda x, kernel: plain(x, kernel, stride), x, kernel)
    upstream = np.random.default_rng(1).normal(size=expected.shape).astype(np.float32)

    @jax.jit
    def run(x: jax.Array, kernel: jax.Array, upstream: jax.Array) -> tuple[jax.Array, ...]:
        forward, input_gradient, kernel_gradient = FORMS[form]
        return (
            forward(x, kernel, stride),
            input_gradient(kernel, upstream, x.shape, stride),
            kernel_gradient(x, upstream, size, stride),
        )

    for one, other in zip(run(x, kernel, upstream), (expected, *back(upstream)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5 * np.abs(other).max())


@pytest.mark.parametrize("shape", [(5, 14, 13, 16), (2, 5, 4, 16), (2, 6, 6, 4), (2, 6, 6, 1)])
def test_a_batch_of_kernels_and_the_gradient_through_it(shape: tuple[int, ...]) -> None:
    x, _ = draw(shape, 3, 5)
    kernels = np.random.default_rng(0).normal(size=(3, 3, 3, shape[-1], 5)).astype(np.float32)

    def loss(convolve: object, kernels: jax.Array) -> jax.Array:
        return jnp.square(jax.vmap(lambda kernel: convolve(x, kernel, 1))(kernels)).mean()  # type: ignore[operator]

    found, expected = (jax.value_and_grad(lambda k, f=f: loss(f, k))(kernels) for f in (convolve, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


def test_as_many_films_at_once_as_fit() -> None:
    fit, cache = cpu_convolution._films_at_once, cpu_convolution.tuning().cache
    assert fit(16, 1) == 16
    assert fit(16, cache // 5) == 4
    assert fit(7, cache // 5) == 1
    assert fit(16, 2 * cache) == 1


@pytest.mark.parametrize(
    ("films", "side", "form"),
    [(1, 28, WINOGRAD), (1, 14, IM2COL), (16, 14, WINOGRAD), (1, 7, IM2COL), (16, 7, WINOGRAD), (16, 4, IM2COL)],
)
def test_winograds_form_is_for_many_outputs(films: int, side: int, form: Form) -> None:
    """Its kernel is transformed once a batch, and the tiles of some sides reach far beyond the border."""
    assert cpu_convolution.form_of((films, side, side, 64), 3, 1, np.dtype(np.float32)) is form


def test_small_maps_stay_in_bfloat16_where_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    for features, form in ((("avx512_bf16",), IM2COL), ((), WINOGRAD)):
        monkeypatch.setattr(cpu_convolution, "_features", lambda features=features: features)
        assert cpu_convolution.form_of((16, 7, 7, 64), 3, 1, jnp.dtype(jnp.bfloat16)) is form


PROCESSORS = [(), ("avx512_bf16",), ("avx512_bf16", "amx_bf16")]


@pytest.mark.parametrize("features", PROCESSORS)
@pytest.mark.parametrize(("size", "sides", "stride"), [(1, 5, 1), (1, 6, 2), (3, 7, 1), (3, 14, 1), (3, 7, 2)])
def test_bfloat16_films_and_gradients_are_sums_in_float32(
    monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...], size: int, sides: int, stride: int
) -> None:
    """Operands and results are rounded, sums are not: against the same numbers in float64, whatever the processor."""
    monkeypatch.setattr(cpu_convolution, "_features", lambda: features)
    x, kernel = (jnp.asarray(array, jnp.bfloat16) for array in draw((2, sides, sides, 48), size, 20))
    y, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, stride), x, kernel)
    upstream = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), jnp.bfloat16)
    with jax.enable_x64(True):
        wide = (jnp.asarray(np.asarray(array, np.float64)) for array in (x, kernel))
        exact, exact_pull = jax.vjp(lambda x, kernel: plain(x, kernel, stride), *wide)
        expected = (exact, *exact_pull(jnp.asarray(np.asarray(upstream, np.float64))))
        expected = [np.asarray(array) for array in expected]
    for found, right in zip((y, *jax.jit(pull)(upstream)), expected, strict=True):
        assert found.dtype == jnp.bfloat16
        scale = np.abs(right).max()
        np.testing.assert_allclose(np.asarray(found, np.float64), right, rtol=2**-8, atol=scale * 1e-4)


def test_narrow_films_are_computed_in_float32() -> None:
    x, kernel = draw((2, 12, 12, 16), 3, 16)
    narrow = jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16)
    wide = [value.astype(jnp.float32) for value in narrow]
    found = convolve(*narrow)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), plain(*wide, 1), rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_derivatives_of_any_order_in_either_direction(size: int, stride: int) -> None:
    x, kernel = draw((2, 7, 6, 16), size, 4)
    along = np.cos(x), np.sin(kernel)

    def energy(function: Callable[..., jax.Array], x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.square(function(x, kernel, stride)).sum()

    def derivatives(function: Callable[..., jax.Array]) -> Any:
        gradient = jax.grad(partial(energy, function), argnums=(0, 1))
        forward = jax.jvp(lambda x, kernel: function(x, kernel, stride), (x, kernel), along)
        over_reverse = jax.jvp(gradient, (x, kernel), along)
        twice = jax.grad(lambda x: sum(jnp.sum(part**2) for part in gradient(x, kernel)))(x)
        return forward, over_reverse, twice

    for found, expected in zip(
        jax.tree.leaves(derivatives(convolve)), jax.tree.leaves(derivatives(plain)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("platform", "groups"), [("cuda", {"1"}), ("tpu", {"1", "3"}), ("cpu", {"1"})])
def test_several_kernels_are_groups_of_one_convolution_on_a_tpu_alone(platform: str, groups: set[str]) -> None:
    """Forward and both gradients; kernels for the same films, as specialists' stems have them."""

    def loss(x: jax.Array, kernels: jax.Array) -> jax.Array:
        return jnp.square(jax.vmap(convolve, in_axes=(None, 0))(x, kernels)).sum()

    step = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 3, 4, 8)))
    text = step.lower(lowering_platforms=(platform,)).as_text()
    assert set(re.findall(r"_group_count = (\d+)", text)) == groups


@pytest.mark.parametrize("many_films", [True, False])
@pytest.mark.parametrize("many_kernels", [True, False])
def test_any_nest_of_batches(many_films: bool, many_kernels: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(*[2] * many_films, *[3] * many_films, 2, 5, 6, 16)).astype(np.float32)
    kernel = rng.normal(size=(*[3] * many_kernels, 3, 3, 16, 4)).astype(np.float32)

    def nested(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        def single(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jnp.square(function(x, kernel, 1)).sum()

        if many_films or many_kernels:
            single = jax.vmap(single, in_axes=(0 if many_films else None, 0 if many_kernels else None))
        if many_films:
            single = jax.vmap(single, in_axes=(0, None))
        return lambda x, kernel: single(x, kernel).sum()

    found, expected = (jax.grad(nested(f), argnums=(0, 1))(x, kernel) for f in (convolve, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), found, expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_max_pool_is_the_same_on_a_cpu(dtype: str) -> None:
    x = jnp.asarray(np.random.default_rng(0).permutation(256)[: 2 * 7 * 8 * 2].reshape(2, 7, 8, 2), dtype)  # no ties
    both = [jax.vjp(f, x) for f in (max_pool, convolution._max_pool)]
    np.testing.assert_array_equal(both[0][0], both[1][0])
    np.testing.assert_array_equal(both[0][1](both[0][0])[0], both[1][1](both[1][0])[0])


@pytest.mark.parametrize("platform", ["cuda", "tpu", "cpu"])
def test_forms_for_a_cpu_are_lowered_for_a_cpu_alone(platform: str) -> None:
    """A bottleneck at stride 2, backward too: on accelerators every convolution and the pool are XLA's own."""
    block = Bottleneck(channels=16, stride=2)
    x = jnp.ones((2, 32, 32, 16))
    variables = jax.eval_shape(partial(block.init, train=False), jax.random.key(0), max_pool(x))

    def loss(variables: Any, x: jax.Array) -> jax.Array:
        y, _ = block.apply(variables, max_pool(x), True, mutable=["batch_stats"])
        return jnp.square(y).sum()

    text = jax.jit(jax.grad(loss, argnums=1)).trace(variables, x).lower(lowering_platforms=(platform,)).as_text()
    if platform == "cpu":
        assert "reduce_window" not in text
        assert "stablehlo.dot_general" in text
        return
    folded = 2  # kernels, into which a norm goes: their gradients are needed for those of the norm
    assert text.count("stablehlo.convolution") == 8 + folded  # four, and the gradients of their inputs
    assert text.count("stablehlo.select_and_scatter") == (platform == "tpu")


def test_relu_is_that_of_flax_forward_and_backward() -> None:
    x = jnp.array([-1.5, -0.0, 0.0, 1e-30, 2.0, jnp.inf])
    for f, expected in ((relu, nn.relu), (jax.vmap(relu), jax.vmap(nn.relu))):
        np.testing.assert_array_equal(f(x), expected(x))
        np.testing.assert_array_equal(jax.vjp(f, x)[1](x)[0], jax.vjp(expected, x)[1](x)[0])
        np.testing.assert_array_equal(jax.jvp(f, (x,), (x,))[1], jax.jvp(expected, (x,), (x,))[1])


@pytest.mark.parametrize("pool", [convolution._max_pool, convolution._max_pool_on_cpu])
def test_the_first_of_equal_maxima_has_the_gradient_of_a_pool(pool: Callable[[jax.Array], jax.Array]) -> None:
    """As XLA's own derivative, select-and-scatter, has it."""
    x = np.random.default_rng(0).integers(0, 3, (2, 9, 8, 3)).astype(np.float32)

    def windowed(x: jax.Array) -> jax.Array:
        window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, ((0, 0), (1, 1), (1, 1), (0, 0)))

    (found, pull), (expected, expected_pull) = (jax.vjp(f, x) for f in (pool, windowed))
    np.testing.assert_array_equal(found, expected)
    upstream = np.random.default_rng(1).normal(size=found.shape).astype(np.float32)
    np.testing.assert_allclose(pull(upstream)[0], expected_pull(upstream)[0], rtol=1e-6)
