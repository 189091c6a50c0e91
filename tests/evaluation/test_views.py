"""Test-time views against NumPy's own slices and means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from chexjax.evaluation.views import CROPS, VIEWS, mean_logits, mirrored

FILMS = np.random.default_rng(0).normal(size=(2, 16, 16, 1)).astype(np.float32)


def test_counts_and_a_mirror_image() -> None:
    assert {name: len(views) for name, views in VIEWS.items()} == {"one": 1, "flip": 2, "ten-crop": 10}
    np.testing.assert_array_equal(mirrored(jnp.asarray(FILMS))[0, :, 0], FILMS[0, :, -1])


def test_ten_crop_sees_the_centre_and_the_corners() -> None:
    for crop, (y, x) in zip(CROPS, [(1, 1), (0, 0), (0, 2), (2, 0), (2, 2)], strict=True):
        expected = jax.image.resize(FILMS[:, y : y + 14, x : x + 14], FILMS.shape, "linear", antialias=False)
        np.testing.assert_allclose(crop(jnp.asarray(FILMS)), expected, atol=1e-6)


@pytest.mark.parametrize("views", ["one", "flip", "ten-crop"])
def test_probabilities_are_averaged(views: str) -> None:
    weights = np.random.default_rng(1).normal(size=(16 * 16, 14)).astype(np.float32)

    def classify(images: jax.Array) -> jax.Array:
        return images.reshape(len(images), -1) @ weights

    found = expit(np.asarray(mean_logits(classify, jnp.asarray(FILMS), views), np.float64))
    seen = [expit(np.asarray(classify(view(jnp.asarray(FILMS))), np.float64)) for view in VIEWS[views]]
    np.testing.assert_allclose(found, np.mean(seen, axis=0), atol=1e-5)
    sure = mean_logits(lambda images: jnp.full((1, 14), 200.0), jnp.asarray(FILMS[:1]), views)
    np.testing.assert_allclose(sure, 200.0, rtol=1e-5)
