"""The steps against a naive version of themselves, a NumPy derivation of the losses, and other device counts."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from scipy.special import expit, rel_entr, softmax

from benchmarks.scaling import all_reduces
from chexjax.data.augment import normalize
from chexjax.devices import AXIS, replicate
from chexjax.findings import FINDINGS, SPECIALIST_GROUPS
from chexjax.models import create_model
from chexjax.models.network import by_names
from chexjax.training.objectives import DIVERGENCES, binary_cross_entropy
from chexjax.training.state import create_network, create_optimizer, create_state
from chexjax.training.steps import Context, Fixed, Teacher, compiled_together, create_step, create_steps, prepare
from tests.networks import drawn

FILMS = 8


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    """Eight films of 32 px with labels, on one device."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (1, FILMS, 32, 32, 1), np.uint8),
        "label": rng.integers(0, 2, (1, FILMS, 14)).astype(np.float32),
        "film": np.arange(FILMS, dtype=np.int32)[None],
    }


PREVALENCE = np.linspace(0.02, 0.6, 14)
GROUPS = by_names(SPECIALIST_GROUPS, FINDINGS)


def new_states(config: ConfigDict, axis_name: str | None = AXIS) -> tuple:
    return tuple(
        create_state(config, name, create_network(config, name, GROUPS, axis_name), (32, 32, 1), 10)
        for name in config.networks
    )


def add_networks(config: ConfigDict, count: int) -> None:
    """Copies of the second network, with other seeds, until there are `count`."""
    for k in range(len(config.networks) + 1, count + 1):
        config.networks[f"net{k}"] = config.networks.net2.copy_and_resolve_references()
        config.networks[f"net{k}"].seed = k


def run(
    config: ConfigDict, batch: dict, steps: int, devices: int, teacher: Teacher | None = None, fixed: dict | None = None
) -> tuple[tuple, dict]:
    """States (on the host) and the last measurements after some steps on the first devices."""
    placed_on = jax.devices()[:devices]
    shares = {k: x.reshape(devices, FILMS // devices, *x.shape[2:]) for k, x in batch.items()}
    states = replicate(new_states(config), placed_on)
    step = create_step(Context(config, PREVALENCE, GROUPS, teacher), placed_on)
    constants = replicate(Fixed(np.int32(config.seed), fixed or {}), placed_on)
    for _ in range(steps):
        states, measured = step(states, shares, constants)
    states, measured = jax.device_get((states, measured))
    return jax.tree.map(lambda x: x[0], states), measured


def assert_same_networks(found: tuple, expected: tuple, atol: float) -> None:
    for a, b in zip(found, expected, strict=True):
        for tree in ("params", "collections"):
            for x, y in zip(jax.tree.leaves(getattr(a, tree)), jax.tree.leaves(getattr(b, tree)), strict=True):
                np.testing.assert_allclose(x, y, rtol=0, atol=atol)


def compiled(config: ConfigDict, batch: dict, devices: int) -> Any:
    """The regime's step for the first devices, compiled."""
    placed_on = jax.devices()[:devices]
    shares = {k: x.reshape(devices, FILMS // devices, *x.shape[2:]) for k, x in batch.items()}
    states = replicate(new_states(config), placed_on)
    fixed = replicate(Fixed(np.int32(config.seed)), placed_on)
    return create_step(Context(config, PREVALENCE, GROUPS), placed_on).lower(states, shares, fixed).compile()


@pytest.mark.parametrize("sync_batch_norm", [False, True])
def test_gradients_travel_in_one_message(small_baseline: ConfigDict, batch: dict, sync_batch_norm: bool) -> None:
    """Beside that of how many labels are known, and those of synchronised norms: two a norm, forward and backward."""
    small_baseline.sync_batch_norm = sync_batch_norm
    messages = all_reduces(compiled(small_baseline, batch, devices=4).as_text())
    (state,) = new_states(small_baseline)
    gradients = 4 * sum(leaf.size for leaf in jax.tree.leaves(state.params))
    norms = len(jax.tree.leaves(state.collections)) // 2
    assert sum(size >= gradients for size in messages) == 1
    if sync_batch_norm:  # XLA may let the count of labels travel with a norm's
        assert 2 < len(messages) <= 2 + 2 * norms
    else:
        assert len(messages) == 2
        assert min(messages) == 4 * 14


def test_no_forward_pass_is_run_needlessly(small_dml: ConfigDict, batch: dict) -> None:
    """By XLA's count: simultaneous costs what both supervised steps do, alternating one forward pass more."""
    small_dml.augment.update({"crop": 1.0, "flip": 0.0, "rotation": 0.0, "brightness": 0.0, "contrast": 0.0})
    for network in small_dml.networks.values():
        network.width = 0.5  # wide enough for convolutions to outweigh the rest
    flops = {}
    for updates in ("alternating", "simultaneous"):
        small_dml.mutual.updates = updates
        flops[updates] = compiled(small_dml, batch, devices=1).cost_analysis()["flops"]
    alone = 0.0
    for which in ("net1", "net2"):
        config = small_dml.copy_and_resolve_references()
        config.regime, config.networks = "supervised", {which: small_dml.networks[which]}
        alone += compiled(config, batch, devices=1).cost_analysis()["flops"]
    state, model = new_states(small_dml, None)[0], create_network(small_dml, "net1")

    def forward(variables, films):
        return model.apply(variables, films, train=True, mutable=["batch_stats"])

    films = jnp.zeros((FILMS, 32, 32, 1))
    variables = {"params": state.params, **state.collections}
    once = jax.jit(forward).lower(variables, films).compile().cost_analysis()["flops"]
    assert flops["simultaneous"] == pytest.approx(alone, abs=0.2 * once)
    assert flops["alternating"] == pytest.approx(alone + once, abs=0.2 * once)


@pytest.mark.parametrize("count", [1, 3])
def test_several_steps_in_a_call_are_so_many_steps(small_dml: ConfigDict, batch: dict, count: int) -> None:
    """Each sees its own batch; no more steps are done, and no more measurements filled, than were asked for."""
    devices = jax.devices()[:1]
    batches = {k: np.stack([np.roll(x[0], k_, axis=0) for k_ in range(4)])[None] for k, x in batch.items()}
    context, fixed = Context(small_dml, PREVALENCE, GROUPS), Fixed(np.full(1, small_dml.seed, np.int32))

    def read(source, seed, begin):
        return lambda step: jax.tree.map(lambda x: x[step], source)

    step, steps = create_step(context, devices), create_steps(context, read, 4, devices)
    states, each_step = replicate(new_states(small_dml), devices), []
    for k in range(count):
        states, measured = step(states, jax.tree.map(lambda x, k=k: x[:, k], batches), fixed)
        each_step.append(measured)
    found = steps(replicate(new_states(small_dml), devices), batches, fixed, np.int32(0), np.int32(count))
    assert_same_networks(found[0], states, atol=1e-6)
    for key, values in found[1].items():
        np.testing.assert_allclose(values[:count], np.stack([one[key] for one in each_step]), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(values[count:], 0)


def naive_mutual_step(states: tuple, batch: dict, config: ConfigDict) -> tuple:
    """Zhang et al. 2018, Algorithm 1, for any number of networks, every forward pass run anew. One device."""
    images = normalize(batch["image"][0], config.data.mean, config.data.std)
    labels = batch["label"][0]

    def forward(state, params):
        variables = {"params": params, **state.collections}
        logits, mutated = state.apply_fn(variables, images, train=True, mutable=["batch_stats"])
        return logits, mutated

    moved = list(states)
    for network_index, state in enumerate(states):
        others = moved if config.mutual.updates == "alternating" else states
        # The batch statistics of `state` do not count in training mode, so a moved network predicts by its weights.
        peers = [forward(states[k], others[k].params)[0] for k in range(len(states)) if k != network_index]

        def loss(params, state=state, peers=peers):
            logits, collections = forward(state, params)
            divergences = [DIVERGENCES[config.mutual.kl](peer, logits, config.mutual.temperature) for peer in peers]
            supervised = binary_cross_entropy(logits, labels).mean()
            return supervised + config.mutual.weight * sum(divergences) / len(peers), collections

        gradients, collections = jax.grad(loss, has_aux=True)(state.params)
        moved[network_index] = state.apply_gradients(grads=gradients, collections=collections)
    return tuple(moved)


@pytest.mark.parametrize("updates", ["alternating", "simultaneous"])
@pytest.mark.parametrize(("count", "kl"), [(2, "bernoulli"), (2, "softmax"), (3, "bernoulli")])
def test_mutual_step_equals_the_naive_many_pass_step(
    small_dml: ConfigDict, batch: dict, updates: str, count: int, kl: str
) -> None:
    add_networks(small_dml, count)
    small_dml.mutual.update({"updates": updates, "kl": kl, "temperature": 2.0, "weight": 0.7})
    small_dml.augment.update({"crop": 1.0, "flip": 0.0, "rotation": 0.0, "brightness": 0.0, "contrast": 0.0})
    found, _ = run(small_dml, batch, steps=1, devices=1)
    expected = jax.jit(partial(naive_mutual_step, config=small_dml))(new_states(small_dml, None), batch)
    assert_same_networks(found, expected, atol=1e-6)


def test_the_two_orders_of_updates_differ_in_the_second_network_alone(small_dml: ConfigDict, batch: dict) -> None:
    (a1, a2), _ = run(small_dml, batch, steps=1, devices=1)
    small_dml.mutual.updates = "simultaneous"
    (s1, s2), _ = run(small_dml, batch, steps=1, devices=1)
    assert_same_networks((a1,), (s1,), atol=1e-8)
    with pytest.raises(AssertionError):
        assert_same_networks((a2,), (s2,), atol=1e-7)


@pytest.mark.parametrize("kl", ["bernoulli", "softmax"])
def test_measured_losses_equal_a_numpy_derivation(small_dml: ConfigDict, batch: dict, kl: str) -> None:
    small_dml.mutual.update({"updates": "simultaneous", "kl": kl, "temperature": 3.0, "weight": 0.5})
    _, measured = run(small_dml, batch, steps=1, devices=1)
    images = prepare({k: x[0] for k, x in batch.items()}, jnp.int32(0), small_dml.seed, small_dml)["image"]
    logits = []
    for state in new_states(small_dml, None):
        variables = {"params": state.params, **state.collections}
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


@pytest.mark.parametrize(
    ("regime", "count", "shared_stages"),
    [("supervised", 2, None), ("mutual", 2, None), ("mutual", 3, None), ("supervised", 2, 0), ("distill", 2, None)],
)
def test_one_device_and_four_agree_after_three_steps(
    small_dml: ConfigDict, batch: dict, teacher: tuple, regime: str, count: int, shared_stages: int | None
) -> None:
    """By SGD, whose steps are as long as the gradient; and with augmentation, which goes by film, not by place."""
    small_dml.regime = regime
    add_networks(small_dml, count)
    for name in small_dml.networks:
        small_dml.networks[name].shared_stages = shared_stages
    alone, measured_alone = run(small_dml, batch, 3, 1, *teacher)
    shared, measured_shared = run(small_dml, batch, 3, 4, *teacher)
    assert_same_networks(shared, alone, atol=1e-5)
    for key, value in measured_alone.items():
        np.testing.assert_allclose(measured_shared[key], value, rtol=1e-3, err_msg=key)


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
    images = prepare({k: x[0] for k, x in batch.items()}, jnp.int32(0), small_baseline.seed, small_baseline)["image"]

    def loss(params):
        variables = {"params": params, **state.collections}
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


@pytest.fixture(scope="module")
def teacher() -> tuple[Teacher, dict]:
    """Two small networks that teach, and their variables."""
    model = create_model("tiny", width=0.25)
    variables = {f"net{k}": drawn(model, 32, 32, 1, seed=k) for k in (1, 2)}
    return Teacher(dict.fromkeys(variables, model.apply), mean=0.4, std=0.5), variables


@pytest.mark.parametrize("targets", ["bernoulli", "softmax"])
def test_distillation_is_descent_on_labels_and_soft_targets(
    small_baseline: ConfigDict, batch: dict, teacher: tuple, targets: str
) -> None:
    """The loss in NumPy out of the networks' logits, and one plain gradient step on it."""
    config = small_baseline
    config.regime = "distill"
    config.distill.update({"targets": targets, "weight": 0.3, "temperature": 3.0})
    config.networks.net1.update({"clip_norm": 0.0, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"})
    config.augment.update({"crop": 1.0, "flip": 0.0, "rotation": 0.0, "brightness": 0.0, "contrast": 0.0})
    (found,), measured = run(config, batch, 1, 1, *teacher)
    (state,), y = new_states(config, None), batch["label"][0]
    squash = expit if targets == "bernoulli" else softmax

    def logits_of(params):
        variables = {"params": params, **state.collections}
        images = normalize(batch["image"][0], config.data.mean, config.data.std)
        return state.apply_fn(variables, images, train=True, mutable=["batch_stats"])[0]

    taught = [
        np.asarray(apply(teacher[1][name], normalize(batch["image"][0], 0.4, 0.5), train=False), np.float64)
        for name, apply in teacher[0].apply.items()
    ]
    p = np.mean([squash(z / 3, **({} if targets == "bernoulli" else {"axis": -1})) for z in taught], axis=0)
    z = np.asarray(logits_of(state.params), np.float64)
    hard = -(y * np.log(expit(z)) + (1 - y) * np.log(expit(-z))).mean()
    if targets == "bernoulli":
        soft = -9 * (p * np.log(expit(z / 3)) + (1 - p) * np.log(expit(-z / 3))).mean()
        upstream = 0.7 * (expit(z) - y) / y.size + 0.3 * 3 * (expit(z / 3) - p) / y.size
    else:
        soft = -9 * (p * np.log(softmax(z / 3, -1))).sum(-1).mean()
        upstream = 0.7 * (expit(z) - y) / y.size + 0.3 * 3 * (softmax(z / 3, -1) - p) / len(y)
    np.testing.assert_allclose(measured["loss"][0], 0.7 * hard + 0.3 * soft, rtol=1e-4)
    np.testing.assert_allclose(measured["divergence"][0], soft, rtol=1e-4)
    (gradients,) = jax.jit(lambda p, g: jax.vjp(logits_of, p)[1](g))(state.params, jnp.asarray(upstream, jnp.float32))
    expected = jax.tree.map(lambda w, g: w - 0.05 * g, state.params, gradients)
    for x, w in zip(jax.tree.leaves(found.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, w, atol=1e-6)


def test_specialists_move_as_in_four_runs_of_their_own(small_baseline: ConfigDict, batch: dict) -> None:
    """Clipping, weight decay and momentum are each specialist's own; the seeds are the network's, and the next ones."""
    config = small_baseline
    config.networks.net1.update({"shared_stages": 0, "clip_norm": 0.5, "weight_decay": 0.01, "width": 0.25})
    (found,), _ = run(config, batch, steps=4, devices=1)
    shared, _ = run(config, batch, steps=4, devices=4)
    assert_same_networks(shared, (found,), atol=1e-5)
    images = [
        prepare({k: x[0] for k, x in batch.items()}, jnp.int32(step), config.seed, config)["image"] for step in range(4)
    ]
    rule = create_optimizer(config.networks.net1, 10)
    for k, group in enumerate(GROUPS):
        model, labels = create_model("tiny", len(group), width=0.25), batch["label"][0][:, group]
        key = jax.random.fold_in(jax.random.key(config.seed, impl="rbg"), config.networks.net1.seed + k)
        variables = jax.jit(model.init)(key, jnp.zeros((1, 32, 32, 1)))
        params, batch_stats, memory = variables["params"], variables["batch_stats"], None

        @jax.jit
        def descend(params, batch_stats, memory, x, model=model, labels=labels):
            def loss(params):
                variables = {"params": params, "batch_stats": batch_stats}
                logits, mutated = model.apply(variables, x, train=True, mutable=["batch_stats"])
                return optax.sigmoid_binary_cross_entropy(logits, labels).mean(), mutated["batch_stats"]

            gradients, batch_stats = jax.grad(loss, has_aux=True)(params)
            updates, memory = rule.update(gradients, memory, params)
            return optax.apply_updates(params, updates), batch_stats, memory

        memory = rule.init(params)
        for x in images:
            params, batch_stats, memory = descend(params, batch_stats, memory, x)
        for expected, whole in ((params, found.params), (batch_stats, found.collections["batch_stats"])):
            mine = jax.tree.map(lambda leaf, k=k: leaf[k], whole["branch"])
            if "head" in mine:
                mine["head"] = {key: leaf[..., : len(group)] for key, leaf in mine["head"].items()}
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), mine, dict(expected))


def test_a_shared_trunk_gets_the_sum_of_its_branches_gradients(small_baseline: ConfigDict, batch: dict) -> None:
    config = small_baseline
    config.networks.net1.update({"model": "tiny2", "shared_stages": 1, "clip_norm": 0.0, "weight_decay": 0.0})
    config.networks.net1.update({"momentum": 0.0, "schedule": "constant"})
    (found,), _ = run(config, batch, steps=1, devices=1)
    (state,) = new_states(config, None)
    images = prepare({k: x[0] for k, x in batch.items()}, jnp.int32(0), config.seed, config)["image"]

    def gradient(group):
        def loss(params):
            variables = {"params": params, **state.collections}
            logits, _ = state.apply_fn(variables, images, train=True, mutable=["batch_stats"])
            taken = np.array(group)
            return optax.sigmoid_binary_cross_entropy(logits[:, taken], batch["label"][0][:, taken]).mean()

        return jax.jit(jax.grad(loss))(state.params)

    gradients = [gradient(group) for group in GROUPS]
    for k, each in enumerate(gradients):  # a group's films do not disturb another's branch
        assert all(not leaf[j].any() for leaf in jax.tree.leaves(each["branch"]) for j in range(4) if j != k)
    expected = jax.tree.map(lambda w, *each: w - 0.05 * sum(each), state.params, *gradients)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found.params, dict(expected))


@pytest.mark.parametrize("loss", ["weighted_bce", "focal", "asymmetric"])
def test_the_configured_loss_is_the_one_that_is_minimised(small_baseline: ConfigDict, batch: dict, loss: str) -> None:
    config = small_baseline
    config.loss.update({"name": loss, "label_smoothing": 0.1, "positive_weight_limit": 10.0})
    _, measured = run(config, batch, steps=1, devices=1)
    (state,) = new_states(config, None)
    images = prepare({k: x[0] for k, x in batch.items()}, jnp.int32(0), config.seed, config)["image"]
    variables = {"params": state.params, **state.collections}
    z = np.asarray(state.apply_fn(variables, images, train=True, mutable=["batch_stats"])[0], np.float64)
    p, y = expit(z), batch["label"][0] * 0.9 + 0.05
    if loss == "weighted_bce":
        each = -np.minimum((1 - PREVALENCE) / PREVALENCE, 10) * y * np.log(p) - (1 - y) * np.log(1 - p)
    elif loss == "focal":
        each = -y * (1 - p) ** 2 * np.log(p) - (1 - y) * p**2 * np.log(1 - p)
    else:
        shifted = np.maximum(p - 0.05, 0)
        each = -y * (1 - p) * np.log(p) - (1 - y) * shifted**4 * np.log(1 - shifted)
    np.testing.assert_allclose(measured["loss"][0], each.mean(), rtol=1e-4)


def test_the_first_call_compiles_by_taking_no_step() -> None:
    """So that other processes can be waited for before the first message; the caller's own steps are all taken."""
    taken = []

    def steps(states: int, source: None, fixed: None, begin: np.integer, count: np.integer) -> tuple[int, int]:
        taken.append(int(count))
        return states + int(count), int(begin)

    together: Any = compiled_together(steps)  # type: ignore[arg-type]
    assert together(0, None, None, np.int32(0), np.int32(3)) == (3, 0)
    assert together(3, None, None, np.int32(3), np.int32(2)) == (5, 3)
    assert taken == [0, 3, 2]
