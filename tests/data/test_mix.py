"""Mixup and CutMix against NumPy, from the documented keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy.stats import beta, kstest

from chexjax.data.mix import draw_mixture, mix_images, mix_labels
from chexjax.devices import AXIS

FILMS, SIZE = 8, (12, 20)
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0, 255, (FILMS, *SIZE, 1)).astype(np.float32)
LABELS = RNG.integers(0, 2, (FILMS, 5)).astype(np.float32)
NUMBERS = np.array([5, 0, 17, 3, 8, 9, 2, 11], np.int32)


def settings(mixup: float = 0.0, cutmix: float = 0.0) -> ConfigDict:
    return ConfigDict({"mixup": mixup, "cutmix": cutmix})


def run(config: ConfigDict, labels: np.ndarray = LABELS, devices: int = 1, step: int = 3, seed: int = 4) -> tuple:
    """Mixed images and labels, computed on so many devices."""

    def share(images, labels, films):
        mixture = draw_mixture(films, SIZE, step, seed, config)
        return mix_images(images, mixture), mix_labels(labels, mixture)

    shares = [x.reshape(devices, FILMS // devices, *x.shape[1:]) for x in (IMAGES, labels, NUMBERS)]
    found = jax.pmap(share, AXIS, devices=jax.devices()[:devices])(*shares)
    return tuple(np.asarray(x).reshape(FILMS, *x.shape[2:]) for x in found)


def draws(film: int, a: float, step: int = 3, seed: int = 4) -> tuple[float, np.ndarray]:
    """A film's share out of Beta(a, a), and its three uniform numbers: the coin, then the centre."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), film), 8)
    return float(jax.random.beta(jax.random.fold_in(key, 1), a, a)), np.asarray(jax.random.uniform(key, (3,)))


def cutmix_mask(share: float, y: float, x: float) -> np.ndarray:
    """`rand_bbox` of the authors' program: 1 where the film's own pixels stay."""
    (height, width), cut = SIZE, np.sqrt(np.float32(1.0 - share))
    cut_h, cut_w, cy, cx = int(height * cut), int(width * cut), int(height * y), int(width * x)
    top, bottom = np.clip([cy - cut_h // 2, cy + cut_h // 2], 0, height)
    left, right = np.clip([cx - cut_w // 2, cx + cut_w // 2], 0, width)
    mask = np.ones(SIZE)
    mask[top:bottom, left:right] = 0
    return mask


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.7, 0.7)])
def test_films_and_labels_are_mixed_as_the_papers_say(mixup: float, cutmix: float) -> None:
    images, labels = run(settings(mixup, cutmix))
    used = []
    for k, film in enumerate(NUMBERS):
        share, (coin, *centre) = draws(film, mixup or cutmix)
        used.append(bool(mixup) and (coin < 0.5 or not cutmix))
        mask = np.full(SIZE, share) if used[-1] else cutmix_mask(share, *centre)
        other, own = (k + 1) % FILMS, mask.mean()
        expected = mask[..., None] * IMAGES[k] + (1 - mask[..., None]) * IMAGES[other]
        np.testing.assert_allclose(images[k], expected, atol=1e-3)
        np.testing.assert_allclose(labels[k], own * LABELS[k] + (1 - own) * LABELS[other], atol=1e-6)
    assert set(used) == ({True, False} if mixup and cutmix else {bool(mixup)})


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0)])
def test_the_number_of_devices_changes_nothing(mixup: float, cutmix: float) -> None:
    alone = run(settings(mixup, cutmix))
    for devices in (2, 4):
        for found, expected in zip(run(settings(mixup, cutmix), devices=devices), alone, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("a", [0.2, 1.0, 3.0])
def test_shares_are_drawn_from_beta(a: float) -> None:
    shares = draw_mixture(jnp.arange(3000), (1, 1), 0, 0, settings(mixup=a)).share[:, 0]
    assert kstest(np.asarray(shares, np.float64), beta(a, a).cdf).pvalue > 0.01


def test_step_seed_and_film_each_matter() -> None:
    images = run(settings(mixup=1.0))[0]
    for change in ({"step": 4}, {"seed": 5}):
        assert np.abs(run(settings(mixup=1.0), **change)[0] - images).mean(axis=(1, 2, 3)).min() > 0.01


def test_a_mixed_label_is_known_where_both_are() -> None:
    labels = LABELS.copy()
    labels[2, 1] = labels[7, 3] = np.nan
    _, found = run(settings(mixup=1.0), labels)
    expected = np.isnan(labels) | np.isnan(np.roll(labels, -1, axis=0))
    assert expected.sum() == 4
    np.testing.assert_array_equal(np.isnan(found), expected)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_film_without_a_share_has_no_say(share: float) -> None:
    labels = np.where(np.arange(FILMS)[:, None] % 2, np.nan, LABELS).astype(np.float32)

    def mix(labels):
        return mix_labels(labels, draw_mixture(NUMBERS, SIZE, 0, 0, settings(mixup=1.0))._replace(
            share=jnp.full((FILMS, 1), share)
        ))  # fmt: skip

    found = jax.pmap(mix, AXIS, devices=jax.devices()[:1])(labels[None])[0]
    np.testing.assert_array_equal(found, labels if share else np.roll(labels, -1, axis=0))


def test_off_there_is_no_mixture() -> None:
    assert draw_mixture(NUMBERS, SIZE, 0, 0, settings()) is None
