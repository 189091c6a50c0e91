"""Schedules and update rules by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from chexjax.configs import common
from chexjax.training.state import create_optimizer, create_schedule


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
