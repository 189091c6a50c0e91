"""Augmentation: what it may do to a film, and on what it depends."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy.ndimage import affine_transform, gaussian_filter

from chexjax.data.augment import _resample, augment, normalize

FILMS = np.random.default_rng(0).integers(0, 256, (6, 24, 24, 1), np.uint8)
NUMBERS = np.array([5, 0, 17, 3, 8, 9], np.int32)


def settings(**changed: float) -> ConfigDict:
    nothing = {"crop": 1.0, "flip": 0.0, "rotation": 0.0, "blur": 0.0, "brightness": 0.0, "contrast": 0.0}
    return ConfigDict(nothing | changed)


ALL = settings(crop=0.8, flip=0.5, rotation=10.0, blur=1.5, brightness=0.2, contrast=0.2)


def run(films=FILMS, numbers=NUMBERS, step=0, seed=0, config=ALL) -> np.ndarray:
    return np.asarray(jax.jit(lambda x, n, s: augment(x, n, s, seed, config))(films, numbers, step))


def test_nothing_asked_nothing_done() -> None:
    np.testing.assert_array_equal(run(config=settings()), FILMS)


def test_a_film_fares_the_same_at_any_place_of_any_batch() -> None:
    whole = run()
    order = np.array([3, 1, 5])
    np.testing.assert_array_equal(run(FILMS[order], NUMBERS[order]), whole[order])


@pytest.mark.parametrize("change", [{"step": 1}, {"seed": 1}, {"numbers": NUMBERS + 1}])
def test_step_seed_and_film_each_matter(change: dict) -> None:
    assert np.abs(run(**change) - run()).mean(axis=(1, 2, 3)).min() > 1


def test_grey_levels_stay_in_their_range() -> None:
    found = run(config=settings(brightness=0.9, contrast=0.9, crop=0.5, rotation=45.0))
    assert found.min() >= 0
    assert found.max() <= 255


def test_flip_is_the_mirror_image_of_some_films_and_nothing_else() -> None:
    found = run(config=settings(flip=0.5))
    mirrored = [np.allclose(found[k], FILMS[k, :, ::-1], atol=1e-2) for k in range(len(FILMS))]
    kept = [np.allclose(found[k], FILMS[k], atol=1e-2) for k in range(len(FILMS))]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert any(mirrored)
    assert any(kept)
    assert np.allclose(run(config=settings(flip=1.0)), FILMS[:, :, ::-1], atol=1e-2)


def test_resampling_is_scipys_affine_transform() -> None:
    film = FILMS[0, ..., 0].astype(np.float32)
    side, angle, shift = 0.8, 0.2, np.array([0.05, -0.08])
    cosine, sine = np.cos(angle), np.sin(angle)
    matrix = np.array([[cosine, -sine], [sine, cosine]]) * side
    centre = (np.array(film.shape) - 1) / 2
    expected = affine_transform(
        film, matrix, offset=centre + shift * film.shape - matrix @ centre, order=1, mode="nearest"
    )
    np.testing.assert_allclose(_resample(film, side, angle, 1.0, shift), expected, atol=1e-2)


def test_blur_is_scipys_gaussian_of_a_deviation_up_to_the_one_named() -> None:
    found = run(config=settings(blur=2.0), step=3, seed=4)
    step_key = jax.random.fold_in(jax.random.key(4), 3)
    deviations = [2.0 * jax.random.uniform(jax.random.fold_in(jax.random.fold_in(step_key, n), 7)) for n in NUMBERS]
    assert np.ptp(deviations) > 0.5
    for film, blurred, deviation in zip(FILMS, found, deviations, strict=True):
        expected = gaussian_filter(film[..., 0].astype(np.float64), float(deviation), mode="nearest", radius=6)
        np.testing.assert_allclose(blurred[..., 0], expected, atol=1e-3)


def test_blur_leaves_the_other_draws_as_they_are() -> None:
    constant = np.full_like(FILMS, 90)  # which no blur changes
    plain = settings(brightness=0.3)
    np.testing.assert_allclose(
        run(constant, config=settings(brightness=0.3, blur=2.0)), run(constant, config=plain), rtol=1e-5
    )
    assert np.ptp(run(constant, config=plain)) > 10


def test_brightness_and_contrast_by_hand() -> None:
    flat = np.full((4, 8, 8, 1), 100, np.uint8)
    found = run(flat, NUMBERS[:4], config=settings(brightness=0.1))
    assert np.ptp(found, axis=(1, 2, 3)).max() == 0  # one factor a film
    assert np.unique(found).size == 4
    assert ((found > 89.9) & (found < 110.1)).all()
    np.testing.assert_allclose(run(flat, NUMBERS[:4], config=settings(contrast=0.5)), 100, rtol=1e-5)


def test_normalize() -> None:
    found = normalize(np.array([[[[0]], [[255]]]], np.uint8), 0.5, 0.25)
    np.testing.assert_allclose(np.ravel(found), [-2.0, 2.0])
