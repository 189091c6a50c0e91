"""The steps against a naive version of themselves, a NumPy derivation of the losses, and other device counts."""

from functools import partial

import flax.jax_utils
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from scipy.special import expit, rel_entr, softmax

from chexjax.data.augment import normalize
from chexjax.training.objectives import mutual_loss
from chexjax.training.state import create_network, create_state
from chexjax.training.steps import AXIS, create_step, prepare

FILMS = 8


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    """Eight films of 32 px with labels, on one device."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (1, FILMS, 32, 32, 1), np.uint8),
        "label": rng.integers(0, 2, (1, FILMS, 14), np.uint8),
        "film": np.arange(FILMS, dtype=np.int32)[None],
    }


def new_states(config: ConfigDict, axis_name: str | None = AXIS) -> tuple:
    return tuple(
        create_state(config, name, create_network(config, name, 14, axis_name), (32, 32, 1), 10)
        for name in config.networks
    )


def run(config: ConfigDict, batch: dict, steps: int, devices: int) -> tuple[tuple, dict]:
    """States (on the host) and the last measurements after some steps on the first devices."""
    places = jax.devices()[:devices]
    shares = {k: x.reshape(devices, FILMS // devices, *x.shape[2:]) for k, x in batch.items()}
    states = flax.jax_utils.replicate(new_states(config), places)
    step = create_step(config, places)
    for _ in range(steps):
        states, measured = step(states, shares)
    states, measured = jax.device_get((states, measured))
    return jax.tree.map(lambda x: x[0], states), measured


def assert_same_networks(found: tuple, expected: tuple, atol: float) -> None:
    for a, b in zip(found, expected, strict=True):
        for tree in ("params", "batch_stats"):
            for x, y in zip(jax.tree.leaves(getattr(a, tree)), jax.tree.leaves(getattr(b, tree)), strict=True):
                np.testing.assert_allclose(x, y, rtol=0, atol=atol)


def naive_mutual_step(states: tuple, batch: dict, config: ConfigDict) -> tuple:
    """Zhang et al. 2018, Algorithm 1, for two networks, every forward pass run anew. One device."""
    images = normalize(batch["image"][0], config.data.mean, config.data.std)
    labels = batch["label"][0]
    first, second = states
    options = {"weight": config.mutual.weight, "kl": config.mutual.kl, "temperature": config.mutual.temperature}

    def forward(state, params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, mutated = state.apply_fn(variables, images, train=True, mutable=["batch_stats"])
        return logits, mutated["batch_stats"]

    def learn(state, peer_logits):
        def loss(params):
            logits, batch_stats = forward(state, params)
            return mutual_loss(logits, peer_logits, labels, **options), batch_stats

        gradients, batch_stats = jax.grad(loss, has_aux=True)(state.params)
        return state.apply_gradients(grads=gradients, batch_stats=batch_stats)

    before = forward(first, first.params)[0]
    learned = learn(first, forward(second, second.params)[0])
    after = forward(first, learned.params)[0]
    return learned, learn(second, after if config.mutual.updates == "alternating" else before)


@pytest.mark.parametrize("updates", ["alternating", "simultaneous"])
@pytest.mark.parametrize("kl", ["bernoulli", "softmax"])
def test_mutual_step_equals_the_naive_two_pass_step(small_dml: ConfigDict, batch: dict, updates: str, kl: str) -> None:
    small_dml.mutual.update({"updates": updates, "kl": kl, "temperature": 2.0, "weight": 0.7})
    small_dml.augment.update({"crop": 1.0, "flip": 0.0, "rotation": 0.0, "brightness": 0.0, "contrast": 0.0})
    found, _ = run(small_dml, batch, steps=1, devices=1)
    expected = jax.jit(partial(naive_mutual_step, config=small_dml))(new_states(small_dml, None), batch)
    assert_same_networks(found, expected, atol=1e-6)


def test_the_two_orders_of_updates_differ_in_the_second_network_alone(small_dml: ConfigDict, batch: dict) -> None:
    (a1, a2), _ = run(small_dml, batch, steps=1, devices=1)
    small_dml.mutual.updates = "simultaneous"
    (s1, s2), _ = run(small_dml, batch, steps=1, devices=1)
    assert_same_networks((a1,), (s1,), atol=0)
    with pytest.raises(AssertionError):
        assert_same_networks((a2,), (s2,), atol=1e-7)


@pytest.mark.parametrize("kl", ["bernoulli", "softmax"])
def test_measured_losses_equal_a_numpy_derivation(small_dml: ConfigDict, batch: dict, kl: str) -> None:
    small_dml.mutual.update({"updates": "simultaneous", "kl": kl, "temperature": 3.0, "weight": 0.5})
    _, measured = run(small_dml, batch, steps=1, devices=1)
    images = prepare({k: x[0] for k, x in batch.items()}, jnp.int32(0), small_dml)
    logits = []
    for state in new_states(small_dml, None):
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        logits.append(np.asarray(state.apply_fn(variables, images, train=True, mutable=["batch_stats"])[0], np.float64))
    y = batch["label"][0]
    for k, (own, peer) in enumerate([(0, 1), (1, 0)]):
        q = expit(logits[own])
        cross_entropy = -(y * np.log(q) + (1 - y) * np.log(1 - q)).mean(0)
        if kl == "bernoulli":
            p, q = expit(logits[peer] / 3), expit(logits[own] / 3)
            divergence = 9 * (rel_entr(p, q) + rel_entr(1 - p, 1 - q)).mean()
        else:
            p, q = softmax(logits[peer] / 3, -1), softmax(logits[own] / 3, -1)
            divergence = 9 * rel_entr(p, q).sum(-1).mean()
        np.testing.assert_allclose(measured["cross_entropy"][k], cross_entropy, rtol=1e-4)
        np.testing.assert_allclose(measured["divergence"][k], divergence, rtol=1e-3)
        np.testing.assert_allclose(measured["loss"][k], cross_entropy.mean() + 0.5 * divergence, rtol=1e-4)


@pytest.mark.parametrize("regime", ["supervised", "mutual"])
def test_one_device_and_four_agree_after_three_steps(small_dml: ConfigDict, batch: dict, regime: str) -> None:
    """By SGD, whose steps are as long as the gradient; and with augmentation, which goes by film, not by place."""
    small_dml.regime = regime
    alone, measured_alone = run(small_dml, batch, steps=3, devices=1)
    shared, measured_shared = run(small_dml, batch, steps=3, devices=4)
    assert_same_networks(shared, alone, atol=1e-5)
    for key, value in measured_alone.items():
        np.testing.assert_allclose(measured_shared[key], value, rtol=1e-3, err_msg=key)


def test_three_networks_learn_from_the_mean_of_their_peers(small_dml: ConfigDict, batch: dict) -> None:
    small_dml.networks.net3 = small_dml.networks.net2.copy_and_resolve_references()
    small_dml.networks.net3.seed = 3
    states, measured = run(small_dml, batch, steps=1, devices=1)
    assert len(states) == 3
    assert measured["divergence"].shape == (3,)
    assert (measured["divergence"] > 0).all()


def test_twins_of_one_seed_would_never_disagree_and_other_seeds_do(small_dml: ConfigDict, batch: dict) -> None:
    _, measured = run(small_dml, batch, steps=1, devices=1)
    assert measured["divergence"][0] > 1e-4
    small_dml.networks.net2.seed = small_dml.networks.net1.seed
    _, measured = run(small_dml, batch, steps=1, devices=1)
    assert measured["divergence"][0] == pytest.approx(0, abs=1e-7)


def test_supervised_step_is_plain_gradient_descent(small_baseline: ConfigDict, batch: dict) -> None:
    small_baseline.networks.net1.update(
        {"clip_norm": 0.0, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}
    )
    (found,), _ = run(small_baseline, batch, steps=1, devices=1)
    (state,) = new_states(small_baseline, None)
    images = prepare({k: x[0] for k, x in batch.items()}, jnp.int32(0), small_baseline)

    def loss(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, _ = state.apply_fn(variables, images, train=True, mutable=["batch_stats"])
        return optax.sigmoid_binary_cross_entropy(logits, batch["label"][0]).mean()

    expected = jax.tree.map(lambda p, g: p - 0.05 * g, state.params, jax.grad(loss)(state.params))
    for x, y in zip(jax.tree.leaves(found.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


def test_moving_average_of_the_weights(small_baseline: ConfigDict, batch: dict) -> None:
    small_baseline.networks.net1.average_decay = 0.75
    (start,) = new_states(small_baseline, None)
    (state,), _ = run(small_baseline, batch, steps=1, devices=1)
    expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, start.params, state.params)
    for x, y in zip(jax.tree.leaves(state.variables["params"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)
