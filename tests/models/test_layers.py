"""A norm folded into the convolution before it, against the norm after it."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chexjax.devices import AXIS, each_device
from chexjax.models import create_model
from chexjax.models.layers import (
    BatchNorm,
    add_bias,
    gelu,
    gram_matrix,
    normed_by_input,
    normed_by_output,
    scale_channels,
)
from tests.networks import make_shallow


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


def test_sums_over_pixels_for_a_bias_and_a_factor_are_in_float32() -> None:
    """A sum of bfloat16 numbers in bfloat16 grows no further than 256 of them."""
    rng = np.random.default_rng(0)
    y, upstream = (jnp.asarray(rng.uniform(0.5, 1.5, (4, 32, 32, 3)), jnp.bfloat16) for _ in range(2))
    value = jnp.asarray(rng.uniform(0.5, 1.5, 3), jnp.float32)
    wide_y, wide_upstream = (np.asarray(array, np.float64) for array in (y, upstream))
    for function, along in ((add_bias, wide_upstream), (scale_channels, wide_upstream * wide_y)):
        result, pull = jax.vjp(function, y, value)
        by_y, by_value = pull(upstream)
        assert (result.dtype, by_y.dtype, by_value.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
        np.testing.assert_allclose(by_value, along.sum((0, 1, 2)), rtol=1e-5)


def test_a_norm_folded_into_a_bfloat16_convolution_keeps_its_gradients() -> None:
    """Against the same bfloat16 numbers in float64. The gradient by the scale is a difference of two large sums."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(np.maximum(rng.normal(1.0, 1.0, (8, 14, 14, 32)), 0), jnp.bfloat16)
    upstream = jnp.asarray(rng.normal(size=(8, 14, 14, 48)), jnp.bfloat16)
    kernel, scale, bias = rng.normal(size=(1, 1, 32, 48)) / 6, rng.uniform(0.5, 2, 48), rng.normal(size=48)

    def gradients(x: jax.Array, *parameters: jax.Array) -> tuple[jax.Array, ...]:
        form = partial(normed_by_input, stride=1, epsilon=1e-5, axis_name=None)
        y, pull = jax.vjp(lambda *arguments: form(*arguments)[0], x, *parameters)
        return pull(upstream.astype(y.dtype))

    found = gradients(x, *(jnp.asarray(array, jnp.float32) for array in (kernel, scale, bias)))
    with jax.enable_x64(True):
        wide = (jnp.asarray(np.asarray(array, np.float64)) for array in (x, kernel, scale, bias))
        expected = [np.asarray(gradient) for gradient in gradients(*wide)]
    for one, other in zip(found, expected, strict=True):
        assert np.linalg.norm(np.asarray(one, np.float64) - other) < 0.01 * np.linalg.norm(other)


@pytest.mark.parametrize(
    "name", ["resnet50", "densenet121", "efficientnet_b0", "convnext_tiny", "vit_small_16", "swin_t"]
)
def test_no_network_sums_in_bfloat16(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products apart, which accumulate in float32: no gradient is a sum over pixels or films of bfloat16 numbers."""
    make_shallow(monkeypatch, name)
    model = create_model(name, dtype=jnp.bfloat16)
    films = jax.ShapeDtypeStruct((2, 64, 64, 1), jnp.float32)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), films)

    def loss(params, variables, films):
        rngs = {"dropout": jax.random.key(0)}
        logits, _ = model.apply({**variables, "params": params}, films, True, mutable=["batch_stats"], rngs=rngs)
        return logits.sum()

    assert not sums_in_bfloat16(jax.make_jaxpr(jax.grad(loss))(variables["params"], variables, films).jaxpr)


def sums_in_bfloat16(jaxpr) -> list[str]:
    """The sums of more than one number each, in this program and those that it calls."""
    found = []
    for equation in jaxpr.eqns:
        (result, *_), (operand, *_) = equation.outvars or [None], equation.invars or [None]
        if equation.primitive.name == "reduce_sum" and operand.aval.dtype == jnp.bfloat16:
            found += [str(equation.source_info.name_stack)] if operand.aval.size > result.aval.size else []
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda value: hasattr(value, "eqns")):
            inner = getattr(value, "jaxpr", value)
            found += sums_in_bfloat16(inner) if hasattr(inner, "eqns") else []
    return found


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
