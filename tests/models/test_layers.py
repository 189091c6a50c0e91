"""A norm folded into the convolution before it, against the norm after it."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chexjax.devices import AXIS, each_device
from chexjax.models.layers import BatchNorm, gelu, gram_matrix, normed_by_input, normed_by_output


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("devices", [1, 2])
def test_moments_from_the_input_are_those_of_the_output(stride: int, devices: int) -> None:
    """Result, moments and all four gradients, in float64; the batch on one device or on two."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(1.0, 2.0, (2, 3, 6, 5, 4)))
        kernel, scale = jnp.asarray(rng.normal(size=(1, 1, 4, 9))), jnp.asarray(rng.uniform(0.5, 2, 9))
        bias, weights = jnp.asarray(rng.normal(size=9)), rng.normal(size=(2, 3, -(-6 // stride), -(-5 // stride), 9))
        if devices == 1:
            x, weights = x.reshape(1, 6, 6, 5, 4), weights.reshape(1, 6, *weights.shape[2:])

        def run(form, x, weights, kernel, scale, bias):
            def loss(*arguments):
                y, moments = form(*arguments, stride=stride, epsilon=1e-5, axis_name=AXIS)
                return (y * weights).sum() + jnp.sin(moments).sum(), (y, moments)

            return jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True)(x, kernel, scale, bias)

        placed_on = jax.devices()[:devices]
        compared = [
            each_device(partial(run, form), in_axes=(0, 0, None, None, None), devices=placed_on)(
                x, weights, kernel, scale, bias
            )
            for form in (normed_by_input, normed_by_output)
        ]
    for found, expected in zip(*map(jax.tree.leaves, compared), strict=True):
        # The Gram matrix is summed in float32, as the moments are.
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gram_matrix_has_the_derivatives_of_its_product(dtype: str) -> None:
    """Forwards and backwards, by one product each way."""
    rng = np.random.default_rng(0)
    x, tangent = (jnp.asarray(rng.normal(size=(2, 3, 4, 5)), dtype) for _ in range(2))
    upstream = jnp.asarray(rng.normal(size=(5, 5)), jnp.float32)
    wide, wide_tangent = (np.asarray(array, np.float64).reshape(-1, 5) for array in (x, tangent))
    close = partial(np.testing.assert_allclose, rtol=1e-2 if dtype == "bfloat16" else 1e-5, atol=1e-5)

    value, along = jax.jvp(gram_matrix, (x,), (tangent,))
    close(value, wide.T @ wide)
    close(along, wide.T @ wide_tangent + wide_tangent.T @ wide)

    _, pull = jax.vjp(gram_matrix, x)
    (back,) = pull(upstream)
    assert back.dtype == x.dtype
    close(back.astype(jnp.float32).reshape(-1, 5), wide @ (upstream + upstream.T))
    assert str(jax.make_jaxpr(pull)(upstream)).count("dot_general[") == 1


@pytest.mark.parametrize("platform", ["cuda", "tpu", "cpu"])
def test_a_gelu_begins_again_backwards_on_a_gpu_alone(platform: str) -> None:
    x = jnp.linspace(-4.0, 4.0, 33)
    exact = partial(nn.gelu, approximate=False)
    for found, expected in zip(jax.jvp(gelu, (x,), (x,)), jax.jvp(exact, (x,), (x,)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    text = jax.jit(jax.grad(lambda x: gelu(x).sum())).trace(x).lower(lowering_platforms=(platform,)).as_text()
    assert ("optimization_barrier" in text) == (platform == "cuda")


def test_a_norm_in_bfloat16_rounds_once() -> None:
    """Maps whose mean is far from 0: the result, and the gradient of the input, are float32's, rounded."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(8.0, 1.0, (4, 5, 6, 3)), jnp.bfloat16)
    upstream = jnp.asarray(rng.normal(size=x.shape), jnp.bfloat16)
    found = {}
    for dtype in (jnp.bfloat16, jnp.float32):
        norm = BatchNorm(dtype=dtype)
        variables = norm.init(jax.random.key(0), x, train=False)
        run = partial(norm.apply, variables, train=True, mutable=["batch_stats"])
        y, back, _ = jax.vjp(run, x.astype(dtype), has_aux=True)
        found[dtype.__name__] = [np.asarray(each, np.float32) for each in (y, *back(upstream.astype(y.dtype)))]
    (y, gradient), (y32, gradient32) = found["bfloat16"], found["float32"]
    np.testing.assert_array_equal(y, np.asarray(jnp.asarray(y32, jnp.bfloat16), np.float32))
    np.testing.assert_allclose(gradient, gradient32, atol=2**-7 * np.abs(gradient32).max())
