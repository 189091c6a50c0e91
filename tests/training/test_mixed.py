"""Steps on mixed films: each regime's loss by hand, on mixed labels and mixed targets."""

from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy.special import expit, rel_entr, softmax

from chexjax.data.augment import normalize
from chexjax.data.mix import draw_mixture
from chexjax.devices import AXIS, replicate
from chexjax.models import create_model
from chexjax.training.state import create_network, create_state
from chexjax.training.steps import Context, Fixed, Teacher, create_step
from tests.networks import drawn

FILMS = 8
TARGETS = np.random.default_rng(5).normal(0, 2, (FILMS, 14)).astype(np.float32)
TARGETS[3] = np.nan


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    """Eight films, one of which is known of nothing."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (FILMS, 14)).astype(np.float32)
    labels[5] = np.nan
    return {
        "image": rng.integers(0, 256, (FILMS, 32, 32, 1), np.uint8),
        "label": labels,
        "film": np.arange(FILMS, dtype=np.int32),
    }


@pytest.fixture
def config(small_dml: ConfigDict) -> ConfigDict:
    """Both mixtures on films that are not augmented otherwise."""
    small_dml.augment.update({"crop": 1.0, "flip": 0.0, "rotation": 0.0, "brightness": 0.0, "contrast": 0.0})
    small_dml.augment.update({"mixup": 0.8, "cutmix": 0.8})
    return small_dml


def new_states(config: ConfigDict, axis_name: str | None = AXIS) -> tuple:
    return tuple(
        create_state(config, name, create_network(config, name, None, axis_name), (32, 32, 1), 10)
        for name in config.networks
    )


def run(config: ConfigDict, batch: dict, devices: int = 1, steps: int = 1, **fixed: Any) -> tuple[tuple, dict]:
    """States and the last measurements, on the host; `fixed`: `teaching`, a teacher, and the fields of Fixed."""
    placed_on = jax.devices()[:devices]
    shares = {k: x.reshape(devices, FILMS // devices, *x.shape[1:]) for k, x in batch.items()}
    step = create_step(Context(config, np.full(14, 0.3), None, fixed.pop("teaching", None)), placed_on)
    constants = replicate(Fixed(np.int32(config.seed), **fixed), placed_on)
    states = replicate(new_states(config), placed_on)
    for _ in range(steps):
        states, measured = step(states, shares, constants)
    states, measured = jax.device_get((states, measured))
    return jax.tree.map(lambda x: x[0], states), measured


def mixture(config: ConfigDict) -> tuple[np.ndarray, np.ndarray]:
    """The masks and shares of the first step, which tests/data/test_mix.py derives by hand."""
    drawn = draw_mixture(np.arange(FILMS), (32, 32), 0, config.seed, config.augment)
    return np.asarray(drawn.mask, np.float64), np.asarray(drawn.share, np.float64)


def mixed(values: np.ndarray, share: np.ndarray) -> np.ndarray:
    return share * values + (1 - share) * np.roll(values, -1, axis=0)


def logits_of(config: ConfigDict, batch: dict) -> list[np.ndarray]:
    """What each network says of the mixed films."""
    images = normalize(mixed(batch["image"].astype(np.float64), mixture(config)[0]), config.data.mean, config.data.std)
    found = []
    for state in new_states(config, None):
        variables = {"params": state.params, **state.collections}
        found.append(np.asarray(state.apply_fn(variables, images, train=True, mutable=["batch_stats"])[0], np.float64))
    return found


def hard(z: np.ndarray, batch: dict, share: np.ndarray) -> float:
    """The cross-entropy with mixed labels: a film mixed with the one of which nothing is known does not count."""
    y = mixed(batch["label"], share)
    assert np.isnan(y).any(axis=1).sum() == 2
    return float(np.nanmean(-y * np.log(expit(z)) - (1 - y) * np.log(expit(-z))))


def test_both_networks_learn_from_the_same_mixed_films(config: ConfigDict, batch: dict) -> None:
    config.mutual.updates = "simultaneous"
    _, measured = run(config, batch)
    logits, share = logits_of(config, batch), mixture(config)[1]
    for k, (z, peer) in enumerate([(logits[0], logits[1]), (logits[1], logits[0])]):
        p, q = expit(peer), expit(z)
        divergence = (rel_entr(p, q) + rel_entr(1 - p, 1 - q)).mean()
        np.testing.assert_allclose(measured["divergence"][k], divergence, rtol=1e-3)
        np.testing.assert_allclose(measured["loss"][k], hard(z, batch, share) + divergence, rtol=1e-4)


@pytest.mark.parametrize("targets", ["bernoulli", "softmax"])
def test_a_tables_softened_probabilities_are_mixed(config: ConfigDict, batch: dict, targets: str) -> None:
    """The labels have weight 1 where one of the two films has no target."""
    del config.networks.net2
    config.regime = "distill"
    config.distill.update({"targets": targets, "weight": 0.3, "temperature": 3.0})
    _, measured = run(config, batch, targets=TARGETS)
    (z,), share = logits_of(config, batch), mixture(config)[1]
    squash = expit if targets == "bernoulli" else lambda x: softmax(x, axis=-1)
    p = mixed(squash(TARGETS.astype(np.float64) / 3), share)
    if targets == "bernoulli":
        each = -9 * (p * np.log(expit(z / 3)) + (1 - p) * np.log(expit(-z / 3)))
        soft = np.nan_to_num(each).mean()
    else:
        soft = np.nan_to_num(-9 * p * np.log(squash(z / 3))).sum(-1).mean()
    y, weight = mixed(batch["label"], share), np.where(np.isnan(p), 1.0, 0.7)
    each = weight * (-y * np.log(expit(z)) - (1 - y) * np.log(expit(-z)))
    np.testing.assert_allclose(measured["divergence"][0], soft, rtol=1e-4)
    np.testing.assert_allclose(measured["loss"][0], np.nanmean(each) + 0.3 * soft, rtol=1e-4)


def test_a_teacher_sees_the_students_mixed_films(config: ConfigDict, batch: dict) -> None:
    del config.networks.net2
    config.regime = "distill"
    config.distill.update({"weight": 0.3, "temperature": 3.0})
    model = create_model("tiny", width=0.25)
    variables = drawn(model, 32, 32, 1)
    teacher = Teacher({"net1": model.apply}, mean=0.4, std=0.5)
    _, measured = run(config, batch, teaching=teacher, teacher={"net1": variables})
    (z,), (mask, share) = logits_of(config, batch), mixture(config)
    seen = normalize(mixed(batch["image"].astype(np.float64), mask), 0.4, 0.5)
    p = expit(np.asarray(model.apply(variables, seen, train=False), np.float64) / 3)
    soft = -9 * (p * np.log(expit(z / 3)) + (1 - p) * np.log(expit(-z / 3))).mean()
    np.testing.assert_allclose(measured["loss"][0], 0.7 * hard(z, batch, share) + 0.3 * soft, rtol=1e-4)


def test_one_device_and_four_agree(config: ConfigDict, batch: dict) -> None:
    """With augmentation: the next film comes from the next device as it was augmented there."""
    config.augment.update({"crop": 0.8, "flip": 0.5, "brightness": 0.2})
    (alone, _), (shared, _) = (run(config, batch, devices, steps=3) for devices in (1, 4))
    for one, other in zip(alone, shared, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), other.variables, one.variables)
