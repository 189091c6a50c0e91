"""Schedules and update rules by hand."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from chexjax.configs import common
from chexjax.errors import ConfigError
from chexjax.models import create_model
from chexjax.training.depths import depth_groups
from chexjax.training.state import create_network, create_optimizer, create_schedule, create_state


def network(**changed):
    config = common.network("resnet18", seed=1)
    config.update({"learning_rate": 1.0} | changed)
    return config


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447]),
    ],
)
def test_schedules_warm_up_and_then_decay(schedule: str, expected: list[float]) -> None:
    rate = create_schedule(network(schedule=schedule, warmup_steps=2), steps=6)
    np.testing.assert_allclose([rate(step) for step in range(6)], expected, atol=1e-6)


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("steps", [7, 24, 1000])  # of the whole run, which must not matter
def test_a_warm_restart_begins_schedule_and_warm_up_anew(warmup: int, steps: int) -> None:
    """SGDR's equation 5, with a linear warm-up in front, step by step."""
    expected = []
    for step in range(20):
        now = step % 8
        decayed = 0.5 * (1.0 + np.cos(np.pi * (now - warmup) / (8 - warmup)))
        expected.append((now + 1) / warmup if now < warmup else decayed)
    rate = create_schedule(network(schedule="cosine", warmup_steps=warmup, restart_steps=8), steps)
    np.testing.assert_allclose([rate(step) for step in range(20)], expected, atol=1e-6)
    np.testing.assert_allclose(jax.jit(rate)(jnp.int32(17)), expected[17], atol=1e-6)


def test_a_constant_rate_does_not_depend_on_the_length_of_the_run() -> None:
    """Such a run may be made longer (`check_config`), also during its warm-up."""
    short, long = (create_schedule(network(schedule="constant", warmup_steps=10), steps) for steps in (4, 400))
    np.testing.assert_allclose([short(step) for step in range(4)], [0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    assert [float(short(step)) for step in range(4)] == [float(long(step)) for step in range(4)]


def test_a_rate_of_the_head_needs_one_of_the_trunk() -> None:
    with pytest.raises(ConfigError, match="a multiple of the learning_rate, which is 0"):
        create_optimizer(network(learning_rate=0.0, head_learning_rate=0.1), 10)


@pytest.mark.parametrize("steps", [10, 25, 200])
def test_one_cycle_is_torchs(steps: int) -> None:
    torch = pytest.importorskip("torch")
    rule = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(rule, 0.3, total_steps=steps, cycle_momentum=False)
    expected = []
    for _ in range(steps):
        expected.append(theirs.get_last_lr()[0])
        rule.step()
        if len(expected) < steps:
            theirs.step()
    rate = create_schedule(network(schedule="onecycle", learning_rate=0.3), steps)
    np.testing.assert_allclose([rate(step) for step in range(steps)], expected, rtol=1e-4, atol=1e-8)


def test_a_run_without_warm_up_starts_at_its_peak() -> None:
    assert float(create_schedule(network(), steps=6)(0)) == 1.0


def step(config, gradient: float = 1.0) -> dict:
    params = {"kernel": jnp.full((1, 1), 2.0), "bias": jnp.full((1,), 2.0)}
    gradients = {"kernel": jnp.full((1, 1), gradient), "bias": jnp.full((1,), gradient)}
    rule = create_optimizer(config, steps=10)
    updates, _ = rule.update(gradients, rule.init(params), params)
    return {key: float(value.reshape(())) for key, value in updates.items()}


def test_sgd_decays_kernels_and_spares_biases() -> None:
    found = step(network(optimizer="sgd", weight_decay=0.1, momentum=0.0, schedule="constant"))
    assert found["kernel"] == pytest.approx(-(1.0 + 0.1 * 2.0))
    assert found["bias"] == pytest.approx(-1.0)


def test_adamw_decays_apart_from_the_gradient() -> None:
    found = step(network(optimizer="adamw", weight_decay=0.1, schedule="constant"))
    assert found["kernel"] == pytest.approx(-(1.0 + 0.2), rel=1e-4)  # Adam's first step is the sign of the gradient
    assert found["bias"] == pytest.approx(-1.0, rel=1e-4)


def test_clipping_is_by_the_norm_over_all_parameters() -> None:
    config = network(optimizer="sgd", weight_decay=0.0, momentum=0.0, schedule="constant", clip_norm=1.0)
    found = step(config, gradient=3.0)
    assert found["kernel"] == pytest.approx(-1 / np.sqrt(2), rel=1e-5)
    assert step(config, gradient=0.1)["kernel"] == pytest.approx(-0.1)


def test_depth_groups_are_the_stages_in_the_order_of_the_computation() -> None:
    names = {
        "resnet18": ["conv1", "layer1", "layer2", "layer3", "layer4"],
        "densenet121": [
            "conv0", "denseblock1", "transition1", "denseblock2", "transition2",
            "denseblock3", "transition3", "denseblock4",
        ],
        "convnext_tiny": [f"features_{k}" for k in range(8)],
    }  # fmt: skip
    for model, expected in names.items():
        groups = depth_groups(create_model(model), (64, 64, 1))
        assert [re.match(r"\D*\d+", group[0]).group() for group in groups] == expected
    assert depth_groups(create_model("resnet18"), (64, 64, 1))[:2] == [["conv1", "bn1"], ["layer1_0", "layer1_1"]]
    blocks = depth_groups(create_model("vit_small_16"), (64, 64, 1))
    assert [group[0] for group in blocks] == ["embed", *(f"blocks_{k}" for k in range(12))]
    assert "pos_embed" in blocks[0]
    assert blocks[-1] == ["blocks_11", "norm"]
    assert depth_groups(create_model("densenet121"), (64, 64, 1))[-1][-1] == "norm5"


@pytest.mark.parametrize(("shared_stages", "frozen_steps"), [(None, 0), (None, 1), (0, 0), (1, 1)])
def test_a_rate_by_depth_is_adamw_by_hand_in_each_stage(small_baseline, shared_stages, frozen_steps: int) -> None:
    """Loshchilov and Hutter 2019, Algorithm 2, with the rate that each stage has; vectors do not decay."""
    network = small_baseline.networks.net1
    network.update({"model": "tiny2", "optimizer": "adamw", "weight_decay": 0.1, "schedule": "constant"})
    network.update({"learning_rate": 0.01, "layer_decay": 0.5, "shared_stages": shared_stages, "clip_norm": 0.0})
    model = create_network(small_baseline, "net1", ((0, 1, 2, 3), tuple(range(4, 14))))
    state = create_state(small_baseline, "net1", model, (32, 32, 1), 10, frozen_steps)
    first = jax.tree_util.tree_leaves_with_path(jax.tree.map(np.asarray, state.params))
    rng = np.random.default_rng(0)
    gradients = [
        jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), state.params) for _ in range(3)
    ]
    params, memory = state.params, state.opt_state
    for gradient in gradients:
        updates, memory = state.tx.update(gradient, memory, params)
        params = optax.apply_updates(params, updates)
    rates = {"conv1": 0.125, "bn1": 0.125, "layer1_0": 0.25, "layer2_0": 0.5}
    for (path, leaf), found, *steps in zip(first, *map(jax.tree.leaves, (params, *gradients)), strict=True):
        keys = [entry.key for entry in path]
        in_head, stacked = "head" in keys, keys[0] == "branch"
        rate = 0.01 * (1.0 if in_head else rates[next(key for key in keys if key in rates)])
        decay = 0.1 if leaf.ndim - stacked > 1 else 0.0
        m = v = 0.0
        for t, g in enumerate(steps if in_head else steps[frozen_steps:], start=1):
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            leaf = leaf - rate * (m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + decay * leaf)
        np.testing.assert_allclose(found, leaf, atol=2e-6, err_msg="/".join(keys))


def test_without_decay_by_depth_the_optimizer_is_what_it_was(small_baseline) -> None:
    model = create_network(small_baseline, "net1")
    state = create_state(small_baseline, "net1", model, (32, 32, 1), 10)
    before = create_optimizer(small_baseline.networks.net1, 10).init(state.params)
    assert jax.tree.structure(state.opt_state) == jax.tree.structure(before)
