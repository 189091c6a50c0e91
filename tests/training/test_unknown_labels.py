"""Labels that are not known, and soft ones, in the steps and the loop: NumPy derivations, one device against four."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy.special import expit, logit, rel_entr, softmax
from sklearn.metrics import roc_auc_score

from chexjax.data import prepared
from chexjax.data.augment import normalize
from chexjax.devices import replicate
from chexjax.errors import CheckpointError, ConfigError, DataError
from chexjax.evaluation.predictions import write_predictions
from chexjax.findings import FINDINGS, SPECIALIST_GROUPS
from chexjax.models import create_model
from chexjax.models.network import by_names
from chexjax.training import loop
from chexjax.training.state import create_network, create_state
from chexjax.training.steps import AXIS, Context, Fixed, Teacher, create_step, prepare
from chexjax.training.targets import CLIP
from chexjax.workdir.checkpoints import Checkpoints
from tests.networks import drawn
from tests.stopped import train_until

FILMS = 8
GROUPS = by_names(SPECIALIST_GROUPS, FINDINGS)
PREVALENCE = np.linspace(0.02, 0.6, 14)


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    """Eight films: of the first two all is known, of the next two nothing, of the last four a third, some of it soft.

    The last finding is known of no film. On four devices the second has no label at all.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (FILMS, 14)).astype(np.float32)
    labels[2:4] = np.nan
    labels[4:][rng.random((4, 14)) < 0.6] = np.nan
    labels[4, :6] = rng.random(6)
    labels[:, 13] = np.nan
    return {
        "image": rng.integers(0, 256, (FILMS, 32, 32, 1), np.uint8),
        "label": labels,
        "film": np.arange(FILMS, dtype=np.int32),
    }


def plain(config: ConfigDict) -> ConfigDict:
    """Plain gradient descent on films as they are, so that a step is the gradient."""
    for network in config.networks.values():
        network.update({"clip_norm": 0.0, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"})
    config.augment.update({"crop": 1.0, "flip": 0.0, "rotation": 0.0, "brightness": 0.0, "contrast": 0.0})
    return config


def new_states(config: ConfigDict, axis_name: str | None = AXIS) -> tuple:
    return tuple(
        create_state(config, name, create_network(config, name, GROUPS, axis_name), (32, 32, 1), 10)
        for name in config.networks
    )


def run(
    config: ConfigDict, batch: dict, devices: int = 1, steps: int = 1, frozen: bool = False,
    targets: np.ndarray | None = None, networks: tuple[Teacher | None, dict] = (None, {}),
) -> tuple[tuple, dict]:  # fmt: skip
    """States and the last measurements after some steps on the first devices, on the host.

    In distillation either a table of `targets` teaches, or `networks`: a teacher and its variables.
    """
    placed_on = jax.devices()[:devices]
    shares = {k: x.reshape(devices, FILMS // devices, *x.shape[1:]) for k, x in batch.items()}
    states = replicate(new_states(config), placed_on)
    step = create_step(Context(config, PREVALENCE, GROUPS, networks[0], frozen), placed_on)
    constants = replicate(Fixed(np.int32(config.seed), networks[1], targets), placed_on)
    for _ in range(steps):
        states, measured = step(states, shares, constants)
    states, measured = jax.device_get((states, measured))
    return jax.tree.map(lambda x: x[0], states), measured


def assert_close(found: Any, expected: Any, atol: float) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol), found, expected)


def logits_of(state: Any, batch: dict, config: ConfigDict) -> np.ndarray:
    images = prepare(batch, jnp.int32(0), config.seed, config)["image"]
    variables = {"params": state.params, **state.collections}
    return np.asarray(state.apply_fn(variables, images, train=True, mutable=["batch_stats"])[0], np.float64)


def cross_entropy(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    return -y * np.log(expit(z)) - (1 - y) * np.log(expit(-z))


def one_network(config: ConfigDict, regime: str) -> ConfigDict:
    del config.networks.net2
    config.regime = regime
    return config


TARGETS = np.where(np.random.default_rng(5).random((FILMS, 14)) < 0.5, np.nan, 0.0) + np.random.default_rng(6).normal(
    0, 2, (FILMS, 14)
)


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        ("supervised", "bce"),
        ("supervised", "weighted_bce"),
        ("supervised", "asymmetric"),
        ("mutual", "focal"),
        ("specialists", "bce"),
        ("branches", "bce"),
        ("table", "bce"),
    ],
)
def test_one_device_and_four_agree_however_unevenly_labels_are_known(
    small_dml: ConfigDict, batch: dict, kind: str, loss: str
) -> None:
    """By SGD, whose steps are as long as the gradient; 26 labels on one device, none on the next."""
    config = small_dml if kind == "mutual" else one_network(small_dml, "distill" if kind == "table" else "supervised")
    config.loss.update({"name": loss, "label_smoothing": 0.1})
    if kind == "specialists":
        config.networks.net1.shared_stages = 0
    if kind == "branches":
        config.networks.net1.update({"shared_stages": 1, "model": "tiny2"})
    targets = TARGETS.astype(np.float32) if kind == "table" else None
    alone, measured_alone = run(config, batch, devices=1, steps=3, targets=targets)
    shared, measured_shared = run(config, batch, devices=4, steps=3, targets=targets)
    for a, b in zip(shared, alone, strict=True):
        assert_close((a.params, a.collections), (b.params, b.collections), atol=1e-5)
    for key, value in measured_alone.items():
        np.testing.assert_allclose(measured_shared[key], value, rtol=1e-3, atol=1e-6, err_msg=key)
    assert np.isfinite(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(alone[0].params)])).all()


def test_what_is_measured_equals_a_numpy_derivation(small_dml: ConfigDict, batch: dict) -> None:
    small_dml.mutual.update({"updates": "simultaneous", "temperature": 3.0, "weight": 0.5})
    _, measured = run(small_dml, batch, devices=4)
    z = [logits_of(state, batch, small_dml) for state in new_states(small_dml, None)]
    y = batch["label"].astype(np.float64)
    known = ~np.isnan(y)
    for k, (own, peer) in enumerate([(0, 1), (1, 0)]):
        each = cross_entropy(z[own], y)
        p, q = expit(z[peer] / 3), expit(z[own] / 3)
        divergence = 9 * (rel_entr(p, q) + rel_entr(1 - p, 1 - q)).mean()  # over all films, labelled or not
        np.testing.assert_allclose(measured["loss"][k], np.nanmean(each) + 0.5 * divergence, rtol=1e-4)
        np.testing.assert_allclose(measured["divergence"][k], divergence, rtol=1e-3)
        np.testing.assert_allclose(measured["cross_entropy"][k][:13], np.nanmean(each[:, :13], axis=0), rtol=1e-4)
        assert measured["cross_entropy"][k][13] == 0
        np.testing.assert_allclose(measured["known"][k], known.mean(axis=0), rtol=1e-6)


def test_branches_learn_the_sum_over_branches_of_the_means_over_what_is_known(
    small_baseline: ConfigDict, batch: dict
) -> None:
    config = small_baseline
    config.networks.net1.update({"shared_stages": 1, "model": "tiny2"})
    found = {k: x.copy() for k, x in batch.items()}
    found["label"][:, list(GROUPS[3])] = np.nan  # of a whole branch nothing is known
    _, measured = run(config, found, devices=4)
    each = cross_entropy(logits_of(new_states(config, None)[0], found, config), found["label"].astype(np.float64))
    expected = sum(np.nanmean(each[:, list(group)]) for group in GROUPS[:3])
    np.testing.assert_allclose(measured["loss"][0], expected, rtol=1e-4)


def test_a_finding_never_known_keeps_its_bias_and_the_others_move(small_baseline: ConfigDict, batch: dict) -> None:
    plain(small_baseline)
    (start,), ((state,), _) = new_states(small_baseline, None), run(small_baseline, batch, devices=4, steps=3)
    moved = np.ravel(state.params["head"]["bias"] != start.params["head"]["bias"])
    assert moved.tolist() == [True] * 13 + [False]
    np.testing.assert_array_equal(
        np.asarray(state.params["head"]["kernel"])[..., 13], np.asarray(start.params["head"]["kernel"])[..., 13]
    )


@pytest.mark.parametrize("devices", [1, 4])
def test_a_batch_of_which_nothing_is_known_is_no_loss_and_moves_nothing(
    small_baseline: ConfigDict, batch: dict, devices: int
) -> None:
    plain(small_baseline)
    (start,) = new_states(small_baseline, None)
    (state,), measured = run(small_baseline, batch | {"label": np.full((FILMS, 14), np.nan, np.float32)}, devices)
    assert measured["loss"][0] == measured["gradient_norm"][0] == 0
    assert not measured["cross_entropy"].any()
    jax.tree.map(np.testing.assert_array_equal, state.params, start.params)


def test_a_film_of_which_nothing_is_known_weighs_nothing(small_baseline: ConfigDict, batch: dict) -> None:
    """The trunk stands still and normalises by running statistics, so that no film is seen in another's logits."""
    plain(small_baseline)
    (with_it,), measured = run(small_baseline, batch, devices=4, frozen=True)
    other = {k: x.copy() for k, x in batch.items()}
    other["image"][2:4] = 255 - other["image"][2:4]
    (without,), measured_without = run(small_baseline, other, devices=4, frozen=True)
    jax.tree.map(np.testing.assert_array_equal, with_it.params, without.params)
    assert measured["loss"] == measured_without["loss"] > 0


# A table that teaches


@pytest.mark.parametrize("targets", ["bernoulli", "softmax"])
def test_a_table_teaches_as_derived_by_hand(small_dml: ConfigDict, batch: dict, targets: str) -> None:
    """The loss in NumPy, and one plain step down its gradient. Films and findings without a target learn from labels.

    There the labels weigh 1 instead of 1 - weight; the soft part is a mean over all films and findings in any case.
    """
    config = plain(one_network(small_dml, "distill"))
    config.distill.update({"targets": targets, "weight": 0.3, "temperature": 3.0})
    table = TARGETS.copy()
    table[[0, 5]] = np.random.default_rng(7).normal(0, 2, (2, 14))  # two films with every finding
    (found,), measured = run(config, batch, targets=table.astype(np.float32))
    (state,) = new_states(config, None)
    z, y = logits_of(state, batch, config), batch["label"].astype(np.float64)
    known, has = ~np.isnan(y), ~np.isnan(table)
    if targets == "softmax":
        has = np.broadcast_to(has.all(axis=1, keepdims=True), has.shape)
    weights = np.where(has, 0.7, 1.0)
    hard = np.nansum(weights * cross_entropy(z, y)) / known.sum()
    gradient = np.where(known, weights * (expit(z) - np.nan_to_num(y)), 0) / known.sum()
    if targets == "bernoulli":
        p, q, share = expit(table / 3), expit(z / 3), FILMS * 14
        soft = 9 * np.where(has, -p * np.log(q) - (1 - p) * np.log(1 - q), 0).sum() / share
    else:
        p, q, share = softmax(np.nan_to_num(table) / 3, axis=-1), softmax(z / 3, axis=-1), FILMS
        soft = 9 * np.where(has, -p * np.log(q), 0).sum() / share
    gradient += 0.3 * 3 * np.where(has, q - p, 0) / share
    np.testing.assert_allclose(measured["loss"][0], hard + 0.3 * soft, rtol=1e-4)
    np.testing.assert_allclose(measured["divergence"][0], soft, rtol=1e-4)

    def forward(params):
        variables = {"params": params, **state.collections}
        images = normalize(batch["image"], config.data.mean, config.data.std)
        return state.apply_fn(variables, images, train=True, mutable=["batch_stats"])[0]

    (slopes,) = jax.jit(lambda p, g: jax.vjp(forward, p)[1](g))(state.params, jnp.asarray(gradient, jnp.float32))
    assert_close(found.params, jax.tree.map(lambda w, g: w - 0.05 * g, state.params, slopes), atol=1e-6)


def test_a_table_without_any_of_the_films_teaches_what_the_labels_do(small_dml: ConfigDict, batch: dict) -> None:
    config = one_network(small_dml, "distill")
    taught, measured = run(config, batch, targets=np.full((FILMS, 14), np.nan, np.float32))
    config.regime = "supervised"
    supervised, expected = run(config, batch)
    assert_close(taught[0].params, supervised[0].params, atol=1e-7)
    np.testing.assert_allclose(measured["loss"], expected["loss"], rtol=1e-6)


@pytest.mark.parametrize("targets", ["bernoulli", "softmax"])
def test_a_table_of_a_networks_own_predictions_teaches_as_the_network_does(
    small_dml: ConfigDict, batch: dict, targets: str
) -> None:
    config = plain(one_network(small_dml, "distill"))
    config.distill.update({"targets": targets, "temperature": 2.0})
    model = create_model("tiny", width=0.25)
    variables = drawn(model, 32, 32, 1)
    logits = model.apply(variables, normalize(batch["image"], 0.5, 0.25), train=False)
    live, measured_live = run(config, batch, networks=(Teacher({"net1": model.apply}, 0.5, 0.25), {"net1": variables}))
    table, measured_table = run(config, batch, targets=np.asarray(logits))
    assert_close(table[0].params, live[0].params, atol=1e-6)
    np.testing.assert_allclose(measured_table["loss"], measured_live["loss"], rtol=1e-5)


# Whole runs


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder's tables, read with two labels of five unknown, one of ten soft, and Hernia on no film known."""
    read = prepared.read_entries

    def read_less(folder: Path) -> dict:
        entries = read(folder)
        rng = np.random.default_rng(0)
        for entry in entries.values():
            chance = rng.random(14)
            entry.labels[chance < 0.1] = np.float32(0.3)
            entry.labels[chance > 0.6] = np.nan
            entry.labels[13] = np.nan
        return entries

    monkeypatch.setattr(prepared, "read_entries", read_less)


@pytest.fixture
def config(small_dml: ConfigDict, phantom_folder: Path, cache: str) -> ConfigDict:
    """A run of four steps of one network with two validations: 33 films in batches of 8."""
    small_dml.data.update({"source": "chestxray14", "dir": str(phantom_folder), "cache": cache, "val_fraction": 0.3})
    small_dml.update({"max_steps": 4, "eval_epochs": 0.5})
    return one_network(small_dml, "supervised")


def weights(workdir: Path, step: int = 4) -> list[np.ndarray]:
    return jax.tree.leaves(Checkpoints(workdir)._load(step, ("networks", "training")))


def stop_after_two(config: ConfigDict, workdir: Path) -> None:
    """A run that ends in the middle of its second half, with a checkpoint of step 2."""
    train_until(2, config, workdir)
    assert Checkpoints(workdir).latest == 2


@pytest.mark.as_users
def test_a_run_on_labels_partly_known_trains_goes_on_and_tells_the_counts(
    config: ConfigDict, forgetful: None, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config.data.cache = str(tmp_path / "cache")
    loop.train(config, tmp_path / "run")
    predictions = loop.evaluate(config, tmp_path / "run")
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    labels, p = predictions.films.labels, predictions.probabilities["net1"]
    assert labels.dtype == np.float32
    assert 0.3 < np.isnan(labels).mean() < 0.6
    assert (labels == np.float32(0.3)).any()
    for k, finding in enumerate(FINDINGS):
        known = (labels[:, k] == 0) | (labels[:, k] == 1)
        assert found["known"][finding] == known.sum()
        assert found["positives"][finding] == (labels[:, k] == 1).sum()
        if len(set(labels[known, k])) == 2:
            expected = roc_auc_score(labels[known, k], p[known, k])
            assert found["networks"]["net1"]["auroc"][finding] == pytest.approx(expected, abs=1e-12)
        else:
            assert found["networks"]["net1"]["auroc"][finding] is None
    assert "Hernia: it is known of no film" in printed
    assert f"{found['positives']['Mass']} of {found['known']['Mass']}" in printed
    assert "labels are not known" in printed
    z = logit(p)
    each = -labels * np.log(expit(z)) - (1 - labels) * np.log(expit(-z))
    assert found["networks"]["net1"]["loss"] == pytest.approx(np.nanmean(each), rel=1e-5)
    assert found["history"][-1]["train/net1/cross_entropy"] == pytest.approx(0.7, abs=0.2)

    stop_after_two(config, tmp_path / "again")
    config.steps_per_call, config.data.residence = 1, "host"
    loop.train(config, tmp_path / "again")
    for a, b in zip(weights(tmp_path / "again"), weights(tmp_path / "run"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_window_averages_over_what_was_known_and_goes_on_from_an_old_checkpoint() -> None:
    def measured(cross_entropy: list[float], known: list[float]) -> dict[str, np.ndarray]:
        per_network = {"loss": 1.0, "divergence": 0.0, "gradient_norm": 2.0, "update_norm": 0.1, "parameter_norm": 3.0}
        return {key: np.array([[value]]) for key, value in per_network.items()} | {
            "cross_entropy": np.array([[cross_entropy]]),
            "known": np.array([[known]]),
        }

    window = loop.Window(("net1",), lambda step: [], FINDINGS)
    window.add(0, 1, measured([0.5, 0.0], [1.0, 0.0]))
    window.add(1, 1, measured([0.1, 0.9], [0.25, 0.5]))
    window.close()
    assert window.means("train")["train/net1/cross_entropy"] == pytest.approx((0.5 + 0.025 + 0.45) / 1.75)
    assert window.means("train")["train/net1/gradient_norm"] == 2.0
    assert "train/net1/known" not in window.means("train")

    old = loop.Window(("net1",), lambda step: [], FINDINGS)
    sums = {"cross_entropy": [[0.5, 0.7]], "loss": [0.6], "divergence": [0.0], "gradient_norm": [1.0]}
    old.set_state({"count": 1, "sums": sums})
    old.add(1, 1, measured([0.1, 0.3], [1.0, 1.0]))
    old.close()
    assert old.means("train")["train/net1/cross_entropy"] == pytest.approx(0.4)

    nothing = loop.Window(("net1",), lambda step: [], FINDINGS)
    nothing.add(0, 1, measured([0.0, 0.0], [0.0, 0.0]))
    nothing.close()
    assert np.isnan(nothing.means("train")["train/net1/cross_entropy"])


@pytest.fixture
def train_films(config: ConfigDict) -> tuple[str, ...]:
    return loop.open_films(config.data).parts["train"].names


def test_a_run_learns_from_a_table_and_goes_on_under_that_table_alone(
    config: ConfigDict, train_films: tuple[str, ...], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    table, others = tmp_path / "teacher.csv", ["other.png"]
    p = np.random.default_rng(0).random((30, 14))
    p[0, :2] = [0.0, 1.0]
    write_predictions(table, [*train_films[:29], *others], p, FINDINGS)
    config.update({"regime": "distill", "teacher": str(table)})
    loop.train(config, tmp_path / "through")
    assert f"teacher: {table}, 29 of {len(train_films)} training films" in capsys.readouterr().out

    stop_after_two(config, tmp_path / "stopped")
    changed = p.copy()
    changed[3, 3] = 0.123
    write_predictions(table, [*train_films[:29], *others], changed, FINDINGS)
    with pytest.raises(CheckpointError, match="does not hold the targets that this run learned from"):
        loop.train(config, tmp_path / "stopped")
    # The same targets in another order are the same.
    write_predictions(table, [*others, *train_films[:29]], p[[29, *range(29)]], FINDINGS)
    loop.train(config, tmp_path / "stopped")
    for a, b in zip(weights(tmp_path / "stopped"), weights(tmp_path / "through"), strict=True):
        np.testing.assert_array_equal(a, b)
    assert Checkpoints(tmp_path / "through").metadata(4)["teacher"]
    assert set(loop.evaluate(config, tmp_path / "through").probabilities) == {"net1"}


def test_targets_are_the_logits_of_the_table_in_the_films_order(
    config: ConfigDict, train_films: tuple[str, ...], tmp_path: Path
) -> None:
    table = tmp_path / "t.csv"
    table.write_text(
        f"Image Index,n_models,prob_Mass,Edema\n{train_films[5]},8,0,1\n{train_films[0]},8,0.25,0.5\nx.png,8,0.1,0.1\n"
    )
    config.update({"regime": "distill", "teacher": str(table)})
    found = loop.read_targets(config, loop.open_films(config.data))
    expected = np.full((len(train_films), 14), np.nan)
    mass, edema = FINDINGS.index("Mass"), FINDINGS.index("Edema")
    expected[5, [mass, edema]] = np.log(CLIP), -np.log(CLIP)
    expected[0, [mass, edema]] = np.log(0.25 / 0.75), 0.0
    np.testing.assert_allclose(found.logits, expected, rtol=1e-5, atol=1e-7)
    assert found.films == 2


@pytest.mark.parametrize(
    ("text", "targets", "error", "message"),
    [
        (None, "bernoulli", DataError, r"config\.teacher: .*t\.csv does not exist"),
        ("Image Index,Mass\nx.png,0.5\n", "bernoulli", ConfigError, r"none of the \d+ training films.*'x\.png'"),
        ("Image Index,Mass\n{film},1.5\n", "bernoulli", DataError, "from 1.5 to 1.5; targets are probabilities"),
        ("Image Index,Mass\n{film},0.5\n", "softmax", ConfigError, "takes every finding.*lacks Atelectasis"),
        ("Image Index,Mass\n{film},many\n", "bernoulli", DataError, "line 2, column Mass: 'many'"),
    ],
)
def test_a_table_that_cannot_teach(
    config: ConfigDict,
    train_films: tuple[str, ...],
    tmp_path: Path,
    text: str | None,
    targets: str,
    error,
    message: str,
) -> None:
    if text is not None:
        (tmp_path / "t.csv").write_text(text.format(film=train_films[0]))
    config.update({"regime": "distill", "teacher": str(tmp_path / "t.csv")})
    config.distill.targets = targets
    with pytest.raises(error, match=message):
        loop.train(config, tmp_path / "run")
