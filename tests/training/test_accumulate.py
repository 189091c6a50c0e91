"""A batch in parts, one after another, against the same batch at once, and against devices that share it."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from chexjax.devices import AXIS, replicate
from chexjax.errors import ConfigError
from chexjax.findings import FINDINGS, SPECIALIST_GROUPS
from chexjax.models import NETWORKS, Architecture, create_model
from chexjax.models.network import by_names
from chexjax.models.vit import ViT
from chexjax.training import loop
from chexjax.training.state import create_network, create_state
from chexjax.training.steps import Context, Fixed, Teacher, create_step, in_parts
from chexjax.workdir.checkpoints import Checkpoints
from tests.networks import drawn
from tests.stopped import train_until

FILMS = 8
GROUPS = by_names(SPECIALIST_GROUPS, FINDINGS)
PREVALENCE = np.linspace(0.02, 0.6, 14)


@pytest.fixture(autouse=True)
def normless() -> Iterator[None]:
    """A network whose norms know one film each, so that a part of a batch is computed as in the whole."""
    NETWORKS["normless"] = Architecture(
        partial(ViT, stages=(1, 1), heads=2, scale=0.5, drop=0.0), "embed", has_map=False
    )
    yield
    del NETWORKS["normless"]


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    """Eight films whose labels are known unevenly: nothing of two, a little of two others."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (FILMS, 14)).astype(np.float32)
    labels[[1, 5]] = np.nan
    labels[2:4][rng.random((2, 14)) < 0.7] = np.nan
    return {
        "image": rng.integers(0, 256, (FILMS, 32, 32, 1), np.uint8),
        "label": labels,
        "film": np.arange(FILMS, dtype=np.int32),
    }


def new_states(config: ConfigDict) -> tuple:
    return tuple(
        create_state(config, name, create_network(config, name, GROUPS, AXIS), (32, 32, 1), 10)
        for name in config.networks
    )


def prepared(
    config: ConfigDict, batch: dict, devices: int, teacher: Teacher | None = None, variables: dict | None = None,
    targets: np.ndarray | None = None, frozen: bool = False,
) -> tuple[Any, tuple]:  # fmt: skip
    """The step of the config, and its arguments."""
    placed_on = jax.devices()[:devices]
    shares = {k: x.reshape(devices, FILMS // devices, *x.shape[1:]) for k, x in batch.items()}
    step = create_step(Context(config, PREVALENCE, GROUPS, teacher, frozen), placed_on)
    fixed = replicate(Fixed(np.int32(config.seed), variables or {}, targets), placed_on)
    return step, (replicate(new_states(config), placed_on), shares, fixed)


def run(config: ConfigDict, batch: dict, devices: int = 1, accumulate: int = 1, **others: Any) -> tuple[tuple, dict]:
    """States and the last measurements after three steps, on the host."""
    config.accumulate = accumulate
    step, (states, shares, fixed) = prepared(config, batch, devices, **others)
    for _ in range(3):
        states, measured = step(states, shares, fixed)
    states, measured = jax.device_get((states, measured))
    return jax.tree.map(lambda x: x[0], states), measured


def assert_same(found: tuple[tuple, dict], expected: tuple[tuple, dict], atol: float) -> None:
    for a, b in zip(found[0], expected[0], strict=True):
        assert a.step == b.step == 3
        for tree in ("params", "collections", "average", "opt_state"):
            for x, y in zip(jax.tree.leaves(getattr(a, tree)), jax.tree.leaves(getattr(b, tree)), strict=True):
                np.testing.assert_allclose(x, y, rtol=0, atol=atol)
    for key, value in expected[1].items():
        np.testing.assert_allclose(found[1][key], value, rtol=1e-4, atol=1e-6, err_msg=key)


def settings(config: ConfigDict, model: str) -> ConfigDict:
    """Everything that counts updates or sees the whole gradient: schedule, clipping, momentum, moving average."""
    for network in config.networks.values():
        network.update({"model": model, "clip_norm": 0.1, "average_decay": 0.5, "warmup_steps": 2})
    config.loss.label_smoothing = 0.1
    return config


KINDS = ("supervised", "alternating", "simultaneous", "networks", "table", "specialists", "branches")


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_in_parts_is_the_batch_at_once(small_dml: ConfigDict, batch: dict, kind: str) -> None:
    """In every regime, whatever is known in a part: some have no label at all."""
    config, others = settings(small_dml, "normless"), {}
    if kind in ("alternating", "simultaneous"):
        config.mutual.updates = kind
    else:
        del config.networks.net2
        config.regime = "distill" if kind in ("networks", "table") else "supervised"
    if kind == "specialists":
        config.networks.net1.shared_stages = 0
    if kind == "branches":
        config.networks.net1.shared_stages = 1
    if kind == "table":
        targets = np.random.default_rng(5).normal(0, 2, (FILMS, 14)).astype(np.float32)
        others = {"targets": np.where(targets > 1.5, np.float32(np.nan), targets)}
    if kind == "networks":
        model = create_model("tiny", width=0.25)
        variables = drawn(model, 32, 32, 1)
        others = {"teacher": Teacher({"net1": model.apply}, mean=0.4, std=0.5), "variables": {"net1": variables}}
    whole = run(config, batch, **others)
    assert_same(run(config, batch, accumulate=4, **others), whole, atol=1e-6)


def test_under_a_frozen_trunk_running_statistics_serve_every_part(small_baseline: ConfigDict, batch: dict) -> None:
    config = settings(small_baseline, "tiny")
    whole = run(config, batch, frozen=True)
    assert_same(run(config, batch, accumulate=4, frozen=True), whole, atol=1e-6)


@pytest.mark.parametrize("updates", ["alternating", "simultaneous"])
def test_batch_norm_sees_a_part_as_it_sees_a_devices_share(small_dml: ConfigDict, batch: dict, updates: str) -> None:
    """Four parts are four devices that do not share statistics: film k belongs to part k mod 4."""
    config = settings(small_dml, "tiny")
    config.mutual.updates, config.sync_batch_norm = updates, False
    order = np.arange(FILMS).reshape(-1, 4).T.ravel()
    devices = run(config, {key: x[order] for key, x in batch.items()}, devices=4)
    found = run(config, batch, accumulate=4)
    assert_same(found, devices, atol=2e-6)
    with pytest.raises(AssertionError):  # which the whole batch at once is not
        assert_same(found, run(config, batch), atol=1e-4)


def test_the_number_of_devices_does_not_matter(small_dml: ConfigDict, batch: dict) -> None:
    config = settings(small_dml, "tiny")
    alone = run(config, batch, devices=1, accumulate=2)
    assert_same(run(config, batch, devices=2, accumulate=2), alone, atol=1e-5)
    assert_same(run(config, batch, devices=4, accumulate=2), alone, atol=1e-5)


def test_activations_of_one_part_are_held_at_a_time(small_baseline: ConfigDict, batch: dict) -> None:
    small_baseline.networks.net1.width = 1.0  # activations outweigh the films

    def temporary(accumulate: int) -> int:
        small_baseline.accumulate = accumulate
        step, arguments = prepared(small_baseline, batch, devices=1)
        return step.lower(*arguments).compile().memory_analysis().temp_size_in_bytes

    assert temporary(8) < 0.5 * temporary(1)


def test_each_part_knows_its_number_and_the_films_keep_their_order() -> None:
    films = jnp.arange(6.0).reshape(6, 1)
    logits, others = in_parts(lambda x, k: (10 * x + k, {"mean": x.sum(), "count": k * 0 + 7}), films, 3)
    np.testing.assert_array_equal(logits[:, 0], [0, 11, 22, 30, 41, 52])
    assert (others["mean"], others["count"]) == (5.0, 7)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "message"),
    [
        (8, 3, "config.accumulate is 3, which does not divide config.batch_size, 8"),
        (8, 4, "batch_size 8 is not a multiple of 4 devices times accumulate 4"),
    ],
)
def test_uneven_parts_are_refused_in_a_line(
    small_baseline: ConfigDict, tmp_path: Path, batch_size: int, accumulate: int, message: str
) -> None:
    small_baseline.batch_size, small_baseline.accumulate = batch_size, accumulate
    small_baseline.data.cache = str(tmp_path / "cache")
    small_baseline.data.phantom.update({"count": 40, "size": 32})
    with pytest.raises(ConfigError, match=message) as caught:
        loop.train(small_baseline, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_run_in_parts_goes_on_bit_for_bit(small_dml: ConfigDict, phantom_folder: Path, tmp_path: Path) -> None:
    """Two steps a call, or streamed and resumed; a step remains an update of the whole batch."""
    config = small_dml
    config.data.update({"source": "chestxray14", "dir": str(phantom_folder), "val_fraction": 0.3})
    config.data.cache = str(tmp_path / "cache")
    config.update({"accumulate": 2, "max_steps": 4, "eval_epochs": 0.5, "steps_per_call": 2})
    config.networks.net1.average_decay = 0.9
    loop.train(config, tmp_path / "through")

    train_until(2, config, tmp_path / "halved")
    assert Checkpoints(tmp_path / "halved").latest == 2
    config.steps_per_call, config.data.residence = 1, "host"
    loop.train(config, tmp_path / "halved")
    ends = [Checkpoints(tmp_path / name)._load(4, ("networks", "training")) for name in ("through", "halved")]
    for x, y in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_array_equal(x, y)
