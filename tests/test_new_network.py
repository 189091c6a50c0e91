"""A network of another kind, brought in by its own code and one line, goes through everything that the others do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from ml_collections import ConfigDict
from PIL import Image

from chexjax.configs import common, dml
from chexjax.data.augment import normalize
from chexjax.devices import replicate
from chexjax.errors import ConfigError
from chexjax.explain.cam import class_activation_map, grad_cam
from chexjax.export import to_stablehlo, to_torch
from chexjax.findings import FINDINGS, SPECIALIST_GROUPS
from chexjax.models import NETWORKS, Architecture, create_branched_model, create_model
from chexjax.models.layers import Conv, Dtype, scaled
from chexjax.models.network import by_names
from chexjax.models.trunk import Trunk
from chexjax.predict import Classifier
from chexjax.training import loop
from chexjax.training.objectives import bernoulli_kl, binary_cross_entropy
from chexjax.training.state import create_network, create_state
from chexjax.training.steps import AXIS, Context, Fixed, Teacher, create_step, prepare
from chexjax.workdir.checkpoints import Checkpoints
from chexjax.workdir.restore import restore_best
from tests.conftest import shrink
from tests.stopped import train_until

GROUPS = by_names(SPECIALIST_GROUPS, FINDINGS)


# What would be a file of its own


class Block(nn.Module):
    """A depthwise convolution, a norm over channels, two dense layers, dropout (Liu et al. 2022, Figure 4)."""

    dropout: float
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        channels = x.shape[-1]
        y = nn.Conv(channels, (7, 7), feature_group_count=channels, dtype=self.dtype, name="depthwise")(x)
        y = nn.LayerNorm(dtype=self.dtype, name="norm")(y)
        y = nn.gelu(nn.Dense(4 * channels, dtype=self.dtype, name="wide")(y))
        y = nn.Dense(channels, dtype=self.dtype, name="narrow")(y)
        return x + nn.Dropout(self.dropout)(y, deterministic=not train)


class Toy(Trunk, kw_only=True):
    """Two such stages, the second at half the resolution, and no batch statistics. It can be cut in two."""

    stages: tuple[int, ...] = (1, 1)
    dropout: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if self.has_stem:
            x = Conv(scaled(64, self.width), 3, 2, dtype=self.dtype, name="stem")(x)
        for stage in self.built:
            if stage:
                x = nn.Conv(2 * x.shape[-1], (2, 2), 2, dtype=self.dtype, name=f"downsample_{stage}")(x)
            for k in range(self.stages[stage]):
                x = Block(self.dropout, self.dtype, name=f"block_{stage}_{k}")(x, train)
            x = nn.LayerNorm(dtype=self.dtype, name=f"norm_{stage}")(x)
        return x


class Counting(nn.Module):
    """A trunk that keeps a counter and an array under names of its own, and cannot be cut."""

    width: float = 1.0
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = Conv(scaled(64, self.width), 3, 8, dtype=self.dtype, name="stem")(x)
        count = self.variable("counters", "batches", jnp.zeros, (), jnp.int32)
        brightest = self.variable("memory", "brightest", jnp.zeros, x.shape[-1:], jnp.float32)
        if train:
            count.value += 1
            brightest.value = x.max((0, 1, 2))
        return nn.relu(x)


# What would be one line in `chexjax.models`
NETWORKS["toy"] = Architecture(Toy, "stem")


@pytest.fixture(autouse=True)
def others() -> Iterator[None]:
    """The same without dropout, and the trunk that counts, while a test runs."""
    NETWORKS["toy-0"] = Architecture(lambda **options: Toy(dropout=0.0, **options), "stem")
    NETWORKS["counting"] = Architecture(Counting, "stem")
    yield
    del NETWORKS["toy-0"], NETWORKS["counting"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def config(phantom_folder: Path, cache: Path) -> ConfigDict:
    """Mutual learning of the toy, whose weights are averaged, with a ResNet: four steps, validated every two."""
    config = shrink(dml.get_config())
    config.networks.net1.update({"model": "toy", "optimizer": "adamw", "learning_rate": 3e-3, "average_decay": 0.5})
    config.data.update({"source": "chestxray14", "dir": str(phantom_folder), "cache": str(cache), "val_fraction": 0.3})
    config.update({"max_steps": 4, "eval_epochs": 0.5})
    return config


@pytest.fixture(scope="module")
def trained(config: ConfigDict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("trained") / "run"
    loop.train(config, workdir)
    return workdir


def arrays(workdir: Path, step: int) -> dict[str, Any]:
    return Checkpoints(workdir)._load(step, ("networks", "training"))


def test_it_trains_and_keeps_nothing_but_parameters(trained: Path, config: ConfigDict) -> None:
    saved = arrays(trained, 4)["networks"]
    assert set(saved["net1"]) == {"params"}
    assert set(saved["net2"]) == {"params", "batch_stats"}
    new = create_state(config, "net1", create_network(config, "net1"), (32, 32, 1), 4)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), new.params, saved["net1"]["params"])
    assert min(jax.tree.leaves(moved)) > 0


def test_stopped_and_resumed_it_ends_bit_for_bit_the_same(trained: Path, config: ConfigDict, tmp_path: Path) -> None:
    train_until(2, config, tmp_path)
    assert Checkpoints(tmp_path).latest == 2
    loop.train(config, tmp_path)
    assert jax.tree.structure(arrays(tmp_path, 4)) == jax.tree.structure(arrays(trained, 4))
    jax.tree.map(np.testing.assert_array_equal, arrays(tmp_path, 4), arrays(trained, 4))


def test_it_is_evaluated_predicts_and_is_exported_without_dropout(
    trained: Path, config: ConfigDict, phantom_folder: Path
) -> None:
    predictions = loop.evaluate(config, trained)
    names = predictions.films.names[:3]
    files = {path.name: path for path in phantom_folder.rglob("*.png")}
    films = [np.asarray(Image.open(files[name]).convert("L")) for name in names]
    classifier = Classifier.from_checkpoint(trained)
    first, second = ([each.probabilities for each in classifier.predict(films)] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, predictions.probabilities["ensemble"][:3], atol=1e-5)

    restored = restore_best(trained)
    program = export.deserialize(bytearray(to_stablehlo(restored, films[0].shape, platforms=["cpu"])))
    np.testing.assert_allclose(program.call(np.stack(films)), first, atol=1e-5)
    with pytest.raises(ConfigError, match="torchvision has no network called 'toy'"):
        to_torch(restored, "net1", channels=3)


def test_the_mean_of_its_map_is_the_logit(trained: Path) -> None:
    restored = restore_best(trained)
    model, variables = restored.models["net1"], restored.variables["net1"]
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 1))
    maps = class_activation_map(model, variables, x)
    assert maps.shape == (2, 8, 8, 14)
    np.testing.assert_allclose(maps.mean((1, 2)), model.apply(variables, x), atol=1e-5)
    assert grad_cam(model, variables, x, stride=2).shape == (2, 16, 16, 14)


# Dropout, by the steps themselves

FILMS = 8


def film_batch(devices: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    batch = {
        "image": random.integers(0, 256, (FILMS, 32, 32, 1), np.uint8),
        "label": random.integers(0, 2, (FILMS, 14), np.uint8),
        "film": np.arange(FILMS, dtype=np.int32),
    }
    return {key: x.reshape(devices, FILMS // devices, *x.shape[1:]) for key, x in batch.items()}


def states_of(config: ConfigDict, step: int = 0) -> tuple:
    networks = {name: create_network(config, name, GROUPS, AXIS) for name in config.networks}
    states = tuple(create_state(config, name, model, (32, 32, 1), 10) for name, model in networks.items())
    return tuple(state.replace(step=jnp.int32(step)) for state in states)


def one_step(
    config: ConfigDict, states: tuple, devices: int = 1, teacher: Teacher | None = None, fixed: dict | None = None
) -> tuple[tuple, dict[str, np.ndarray]]:
    placed_on = jax.devices()[:devices]
    step = create_step(Context(config, np.full(14, 0.5), GROUPS, teacher), placed_on)
    constants = replicate(Fixed(np.int32(config.seed), fixed or {}), placed_on)
    moved, measured = jax.device_get(step(replicate(states, placed_on), film_batch(devices), constants))
    return jax.tree.map(lambda x: x[0], moved), measured


def key_of(seed: int, step: int, network: int, device: int) -> jax.Array:
    key = jax.random.key(seed)
    for number in (2**32 - 1, step, network, device):
        key = jax.random.fold_in(key, number)
    return key


def twins(model: str) -> ConfigDict:
    """Two networks of the same first weights, on films that are not augmented."""
    config = shrink(dml.get_config())
    config.augment.update({"crop": 1.0, "rotation": 0.0, "brightness": 0.0, "contrast": 0.0})
    for network in config.networks.values():
        network.update({"model": model, "seed": 1})
    return config


def test_each_network_step_and_device_draws_by_a_key_of_its_own() -> None:
    config = twins("toy")
    config.regime = "supervised"
    states, batch = states_of(config, step=3), film_batch(2)
    expected = np.zeros((2, 14))
    for device in range(2):
        share = {key: x[device] for key, x in batch.items()}
        x = prepare(share, 3, config.seed, config)["image"]
        for k, state in enumerate(states):
            rngs = {"dropout": key_of(config.seed, 3, k, device)}
            logits = state.apply_fn({"params": state.params}, x, train=True, rngs=rngs)
            expected[k] += np.asarray(binary_cross_entropy(logits, share["label"]).mean(0)) / 2
    _, measured = one_step(config, states, devices=2)
    np.testing.assert_allclose(measured["cross_entropy"], expected, atol=1e-5)
    assert np.abs(measured["cross_entropy"][0] - measured["cross_entropy"][1]).max() > 1e-3
    _, later = one_step(config, states_of(config, step=4), devices=2)
    assert np.abs(later["cross_entropy"] - measured["cross_entropy"]).max() > 1e-3


@pytest.mark.parametrize("updates", ["alternating", "simultaneous"])
def test_mutual_learning_drops_the_same_units_when_a_network_predicts_again(updates: str) -> None:
    config = twins("toy")
    config.mutual.updates = updates
    config.networks.net1.learning_rate = 1.0  # a long step, to be seen
    states = states_of(config)
    moved, measured = one_step(config, states)
    share = {key: x[0] for key, x in film_batch(1).items()}
    x = prepare(share, 0, config.seed, config)["image"]

    def logits(state: Any, k: int) -> jax.Array:
        rngs = {"dropout": key_of(config.seed, 0, k, 0)}
        return states[0].apply_fn({"params": state.params}, x, train=True, rngs=rngs)

    first, second = logits(states[0], 0), logits(states[1], 1)
    teaching = logits(moved[0], 0) if updates == "alternating" else first
    expected = [bernoulli_kl(second, first), bernoulli_kl(teaching, second)]
    np.testing.assert_allclose(measured["divergence"], expected, rtol=2e-3)
    assert abs(float(bernoulli_kl(first, second)) / float(bernoulli_kl(logits(moved[0], 0), second)) - 1) > 0.01


@pytest.mark.parametrize("regime", ["supervised", "mutual", "distill", "specialists", "branches"])
def test_dropout_reaches_every_regime(regime: str) -> None:
    measured = {}
    for model in ("toy", "toy-0"):
        config = twins(model)
        teacher, fixed = None, {}
        if regime == "distill":
            model_of, state = create_network(config, "net2"), states_of(config)[1]
            teacher, fixed = Teacher({"net2": model_of.apply}, 0.5, 0.25), {"net2": {"params": state.params}}
        if regime in ("specialists", "branches"):
            config.networks.net1.shared_stages = config.networks.net2.shared_stages = int(regime == "branches")
        config.regime = regime if regime in ("mutual", "distill") else "supervised"
        states = states_of(config)
        moved, measured[model] = one_step(config, states, teacher=teacher, fixed=fixed)
        assert not moved[0].collections
    assert np.abs(measured["toy"]["cross_entropy"] - measured["toy-0"]["cross_entropy"]).max() > 1e-3


def test_a_teacher_and_frozen_trunks_drop_nothing() -> None:
    config = twins("toy")
    config.regime = "distill"
    states = states_of(config)
    variables = {"params": states[0].params}
    teacher = Teacher({"net1": states[0].apply_fn}, config.data.mean, config.data.std)
    context = Context(config, np.full(14, 0.5), None, teacher, frozen=True)
    placed_on = jax.devices()[:1]
    constants = replicate(Fixed(np.int32(0), {"net1": variables}), placed_on)
    share = {key: x[0] for key, x in film_batch(1).items()}
    x = prepare(share, 0, 0, config)["image"]
    logits = states[0].apply_fn(variables, x, train=False)
    _, measured = create_step(context, placed_on)(replicate(states, placed_on), film_batch(1), constants)
    soft = config.distill.temperature**2 * binary_cross_entropy(
        logits / config.distill.temperature, jax.nn.sigmoid(logits / config.distill.temperature)
    )
    np.testing.assert_allclose(measured["divergence"], float(soft.mean()), rtol=1e-5)
    cross_entropy = binary_cross_entropy(logits, share["label"]).mean(0)
    np.testing.assert_allclose(measured["cross_entropy"][0], cross_entropy, atol=1e-5)


def test_branches_drop_units_of_their_own() -> None:
    """Four copies of one network: the same maps in evaluation, four different ones in training."""
    whole, branched = create_model("toy", width=0.125), create_branched_model("toy", GROUPS, 1, width=0.125)
    x = jax.random.normal(jax.random.key(1), (2, 32, 32, 1))
    variables = branched.assemble([jax.jit(whole.init)(jax.random.key(0), x)] * 4, (32, 32, 1))
    maps = branched.apply(variables, x, method="features")
    np.testing.assert_allclose(maps, np.tile(maps[..., :16], 4), atol=1e-5)
    dropped = branched.apply(variables, x, True, method="features", rngs={"dropout": jax.random.key(2)})
    parts = np.split(dropped, 4, axis=-1)
    for k in range(1, 4):
        assert np.abs(parts[k] - parts[0]).max() > 0.1


# Collections of other names


def test_collections_of_any_name_are_carried_averaged_and_saved(tmp_path: Path) -> None:
    config = shrink(common.base())
    config.networks.net1.update({"model": "counting", "average_decay": 0.5})
    (state,) = states_of(config)
    assert set(state.collections) == {"counters", "memory"}
    (moved,), _ = one_step(config, (state,), devices=2)
    assert moved.collections["counters"]["trunk"]["batches"] == 1
    assert moved.average["counters"]["trunk"]["batches"] == 1
    brightest = []
    for device in range(2):
        share = {key: x[device] for key, x in film_batch(2).items()}
        x = prepare(share, 0, config.seed, config)["image"]
        stem = Conv(8, 3, 8).apply({"params": state.params["trunk"]["stem"]}, x)
        brightest.append(np.asarray(stem.max((0, 1, 2))))
    expected = np.mean(brightest, axis=0)  # over the devices
    np.testing.assert_allclose(moved.collections["memory"]["trunk"]["brightest"], expected, atol=1e-5)
    np.testing.assert_allclose(moved.average["memory"]["trunk"]["brightest"], expected / 2, atol=1e-5)

    loop.claim_workdir(tmp_path, config)
    Checkpoints(tmp_path, writing=True).save(1, {"net1": moved}, 0.5, {"groups": None})
    restored, _ = Checkpoints(tmp_path).restore(1, {"net1": state})
    jax.tree.map(np.testing.assert_array_equal, restored["net1"], moved)
    best = restore_best(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, best.variables["net1"], moved.average)


def test_specialists_of_any_trunk_and_branches_only_of_one_that_can_be_cut() -> None:
    model = create_branched_model("counting", GROUPS, width=0.125)
    x = normalize(film_batch(1)["image"][0], 0.5, 0.25)
    wholes = [jax.jit(model.whole(k).init)(jax.random.key(k), x) for k in range(4)]
    variables = model.assemble(wholes, (32, 32, 1))
    found = model.apply(variables, x)
    for k, group in enumerate(GROUPS):
        np.testing.assert_allclose(found[:, jnp.array(group)], model.whole(k).apply(wholes[k], x), atol=1e-5)
    with pytest.raises(ConfigError, match="shared_stages is 1; counting can share 0 to 0 stages"):
        create_branched_model("counting", GROUPS, 1)
