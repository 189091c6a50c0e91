"""Depthwise convolutions as a CPU runs them, against a loop over places and against XLA's own grouped convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chexjax.models.convolution import convolve_depthwise
from chexjax.models.layers import Depthwise

FORMS = [((2, 5, 4, 3), 3, 1), ((2, 5, 4, 3), 3, 2), ((3, 8, 6, 4), 5, 2), ((2, 7, 7, 4), 7, 1), ((1, 1, 2, 3), 5, 2)]


def grouped(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    pad = ((kernel.shape[0] - 1) // 2,) * 2
    return jax.lax.conv_general_dilated(
        x, kernel, (stride,) * 2, (pad, pad), dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )  # fmt: skip


def draw(shape: tuple[int, ...], size: int) -> tuple[jax.Array, jax.Array]:
    random = np.random.default_rng(size)
    x, kernel = random.normal(size=shape), random.normal(size=(size, size, 1, shape[-1]))
    return jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)


@pytest.mark.parametrize(("shape", "size", "stride"), FORMS)
def test_it_is_a_sum_over_what_each_place_sees(shape: tuple[int, ...], size: int, stride: int) -> None:
    x, kernel = draw(shape, size)
    pad = size // 2
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = range(0, shape[1], stride), range(0, shape[2], stride)
    expected = [[(padded[:, i : i + size, j : j + size] * kernel[:, :, 0]).sum((1, 2)) for j in columns] for i in rows]
    found = jax.jit(convolve_depthwise, static_argnums=2)(x, kernel, stride)
    np.testing.assert_allclose(found, np.moveaxis(np.array(expected), 2, 0), atol=1e-4)


@pytest.mark.parametrize(("shape", "size", "stride"), FORMS)
def test_its_derivatives_are_those_of_the_grouped_convolution(shape: tuple[int, ...], size: int, stride: int) -> None:
    x, kernel = draw(shape, size)
    expected, back = jax.vjp(lambda x, kernel: grouped(x, kernel, stride), x, kernel)
    found, own_back = jax.vjp(lambda x, kernel: convolve_depthwise(x, kernel, stride), x, kernel)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    upstream = jnp.asarray(np.random.default_rng(1).normal(size=expected.shape), jnp.float32)
    for own, other in zip(own_back(upstream), back(upstream), strict=True):
        np.testing.assert_allclose(own, other, atol=1e-3)

    def squared(convolution):
        return lambda x, kernel: (convolution(x, kernel, stride) ** 2).sum()

    tangents = (x[::-1], kernel[::-1])
    for own, other in zip(
        jax.jvp(jax.grad(squared(convolve_depthwise), (0, 1)), (x, kernel), tangents)[1],
        jax.jvp(jax.grad(squared(grouped), (0, 1)), (x, kernel), tangents)[1],
        strict=True,
    ):
        np.testing.assert_allclose(own, other, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("shared_films", [True, False])
def test_a_batch_of_kernels(shared_films: bool) -> None:
    x, _ = draw((2, 6, 5, 4), 3)
    kernels = jnp.stack([draw((1, 1, 1, 4), 3)[1] * k for k in (1.0, -2.0, 0.5)])
    films = x if shared_films else jnp.stack([x, 2 * x, x + 1])

    def loss(convolution):
        def total(films, kernels):
            axes = (None if shared_films else 0, 0)
            return (jax.vmap(lambda x, kernel: convolution(x, kernel, 2), axes)(films, kernels) ** 3).sum()

        return jax.value_and_grad(total, (0, 1))

    found, expected = (jax.tree.leaves(loss(form)(films, kernels)) for form in (convolve_depthwise, grouped))
    for own, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("platform", ["cuda", "tpu", "cpu"])
def test_on_a_cpu_alone_it_is_a_sum_of_shifted_maps(platform: str) -> None:
    layer, x = Depthwise(3), jnp.zeros((2, 8, 8, 16))
    variables = layer.init(jax.random.key(0), x)
    step = jax.jit(jax.grad(lambda v, x: (layer.apply(v, x) ** 2).sum(), (0, 1)))
    text = step.trace(variables, x).lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.convolution" in text) == (platform != "cpu")


def test_bfloat16_is_summed_in_float32() -> None:
    x, kernel = (a.astype(jnp.bfloat16) for a in draw((2, 6, 6, 8), 7))
    found = jax.jit(convolve_depthwise, static_argnums=2)(x, kernel, 1)
    expected = grouped(x.astype(jnp.float32), kernel.astype(jnp.float32), 1)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, expected.astype(jnp.bfloat16))
