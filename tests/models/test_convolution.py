"""`convolve` in each of its forms, against a loop over windows and against JAX's own gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chexjax.models import convolution
from chexjax.models.convolution import COLUMNS, WINDOW, WINOGRAD, convolve

FORMS = {"winograd": WINOGRAD, "columns": COLUMNS, "window": WINDOW}


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
    [("winograd", 3, 1), ("columns", 3, 1), ("columns", 3, 2), ("window", 7, 1), ("window", 7, 2)],
)
@pytest.mark.parametrize("sides", [(7, 5), (10, 8)])
def test_every_form_is_the_convolution_and_its_gradients(
    sides: tuple[int, int], form: str, size: int, stride: int, films_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sides at which windows and tiles end at the border, short of it and beyond it."""
    monkeypatch.setattr(convolution, "_films_at_once", lambda batch, bytes_a_film: films_at_once)
    x, kernel = draw((6, *sides, 3), size, 4)
    expected, back = jax.vjp(lambda x, kernel: plain(x, kernel, stride), x, kernel)
    upstream = np.random.default_rng(1).normal(size=expected.shape).astype(np.float32)

    @jax.jit
    def run(x: jax.Array, kernel: jax.Array, upstream: jax.Array) -> tuple[jax.Array, ...]:
        forward, of_films, of_kernel = FORMS[form]
        return forward(x, kernel, stride), of_films(x, kernel, upstream, stride), of_kernel(x, upstream, size, stride)

    for one, other in zip(run(x, kernel, upstream), (expected, *back(upstream)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5 * np.abs(other).max())


@pytest.mark.parametrize("shape", [(2, 10, 9, 16), (2, 5, 4, 16), (2, 6, 6, 4), (2, 6, 6, 1)])
def test_a_batch_of_kernels_and_the_gradient_through_it(shape: tuple[int, ...]) -> None:
    x, _ = draw(shape, 3, 5)
    kernels = np.random.default_rng(0).normal(size=(3, 3, 3, shape[-1], 5)).astype(np.float32)

    def loss(convolve: object, kernels: jax.Array) -> jax.Array:
        return jnp.square(jax.vmap(lambda kernel: convolve(x, kernel, 1))(kernels)).mean()  # type: ignore[operator]

    found, expected = (jax.value_and_grad(lambda k, f=f: loss(f, k))(kernels) for f in (convolve, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


def test_as_many_films_at_once_as_fit() -> None:
    fit = convolution._films_at_once
    assert fit(16, 1) == 16
    assert fit(16, convolution.CACHE // 5) == 4
    assert fit(7, convolution.CACHE // 5) == 1
    assert fit(16, 2 * convolution.CACHE) == 1


def test_narrow_films_are_computed_in_float32() -> None:
    x, kernel = draw((2, 12, 12, 16), 3, 16)
    narrow = jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16)
    wide = [value.astype(jnp.float32) for value in narrow]
    found = convolve(*narrow)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), plain(*wide, 1), rtol=2**-8, atol=1e-3)
