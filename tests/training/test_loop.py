"""The loop on simulated films: trains, evaluates, goes on where it was stopped, refuses what does not fit."""

import csv
import json
import math
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.metrics import roc_auc_score

from chexjax.devices import each_device, replicate
from chexjax.errors import CheckpointError, ConfigError, DataError, TrainingError
from chexjax.evaluation import evaluator
from chexjax.findings import FINDINGS
from chexjax.training import loop
from chexjax.workdir.checkpoints import Checkpoints
from tests.stopped import train_until


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Prepared films, shared by this module's runs."""
    return str(tmp_path_factory.mktemp("cache"))


def on(config: ConfigDict, folder: Path, cache: str) -> ConfigDict:
    """A run of six steps with three validations on the simulated folder, through the door of the real one."""
    config.data.update({"source": "chestxray14", "dir": str(folder), "cache": cache, "val_fraction": 0.3})
    config.max_steps = 6
    config.eval_epochs = 0.5  # an epoch is four steps: 33 films in batches of 8
    return config


@pytest.fixture
def dml(small_dml: ConfigDict, phantom_folder: Path, cache: str) -> ConfigDict:
    return on(small_dml, phantom_folder, cache)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run that is never stopped goes; `run_through` fills it once."""
    return tmp_path_factory.mktemp("finished") / "run"


@pytest.fixture
def run_through(dml: ConfigDict, finished: Path) -> Path:
    if not finished.exists():
        loop.train(dml, finished)
        loop.evaluate(dml, finished)
    return finished


def weights(workdir: Path, step: int, config: ConfigDict) -> list[np.ndarray]:
    """Every array of a checkpoint: weights, statistics and the optimiser's memory."""
    return jax.tree.leaves(Checkpoints(workdir)._load(step, ("networks", "training")))


def steps_kept(workdir: Path) -> set[int]:
    return {int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()}


def test_results_are_written_and_agree_with_each_other(run_through: Path) -> None:
    found = json.loads((run_through / "metrics.json").read_text())
    assert set(found["networks"]) == {"net1", "net2", "ensemble"}
    labels = np.array([[found["positives"][finding] for finding in FINDINGS]])
    assert labels.sum() > 0
    probabilities = {}
    for name in found["networks"]:
        with (run_through / f"predictions_{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["Image Index", *FINDINGS]
        assert len(rows) == found["films"]
        probabilities[name] = np.array([[float(row[finding]) for finding in FINDINGS] for row in rows])
        assert ((probabilities[name] > 0) & (probabilities[name] < 1)).all()
        present = [figure for figure in found["networks"][name]["auroc"].values() if figure is not None]
        assert found["networks"][name]["mean_auroc"] == pytest.approx(np.mean(present))
    np.testing.assert_allclose(
        probabilities["ensemble"], (probabilities["net1"] + probabilities["net2"]) / 2, atol=1e-7
    )
    assert (run_through / "curves.png").stat().st_size > 5_000
    assert list((run_through / "tensorboard").iterdir())
    assert [entry["step"] for entry in found["history"]] == [2, 4, 6]


def test_auroc_in_the_results_is_that_of_the_prediction_csv(run_through: Path, phantom_folder: Path) -> None:
    found = json.loads((run_through / "metrics.json").read_text())
    with (phantom_folder / "Data_Entry_2017_v2020.csv").open(newline="") as file:
        truth = {row["Image Index"]: row["Finding Labels"].split("|") for row in csv.DictReader(file)}
    with (run_through / "predictions_net2.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for finding, figure in found["networks"]["net2"]["auroc"].items():
        labels = [finding in truth[row["Image Index"]] for row in rows]
        if figure is not None:
            assert figure == pytest.approx(roc_auc_score(labels, [float(row[finding]) for row in rows]), abs=1e-6)
        else:
            assert len(set(labels)) == 1
            assert any("n/a" in note and finding in note for note in found["notes"])


def test_the_newest_two_and_the_best_checkpoints_are_kept(run_through: Path) -> None:
    found = json.loads((run_through / "metrics.json").read_text())
    means = {e["step"]: (e["val/net1/auroc"] + e["val/net2/auroc"]) / 2 for e in found["history"]}
    best = max(means, key=lambda step: (round(means[step], 12), -step))
    assert steps_kept(run_through) == {4, 6, best}
    assert found["step"] == best


@pytest.mark.parametrize("stopped_at", [3, 5])
def test_a_stopped_run_goes_on_and_ends_bit_for_bit_the_same(
    dml: ConfigDict, run_through: Path, tmp_path: Path, monkeypatch, stopped_at: int
) -> None:
    add = loop.Window.add

    def stop(self, step, *args):
        if step == stopped_at - stopped_at % 2:  # two steps a call
            raise KeyboardInterrupt
        add(self, step, *args)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Window, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            loop.train(dml, tmp_path)
    assert max(steps_kept(tmp_path)) == stopped_at - stopped_at % 2
    loop.train(dml, tmp_path)
    for found, expected in zip(weights(tmp_path, 6, dml), weights(run_through, 6, dml), strict=True):
        np.testing.assert_array_equal(found, expected)
    resumed, through = Checkpoints(tmp_path), Checkpoints(run_through)
    assert resumed.metadata(6) == through.metadata(6)
    assert through.metadata(6)["seeds"] == {"run": 0, "net1": 1, "net2": 2}


@pytest.mark.as_users
@pytest.mark.parametrize(("residence", "steps_per_call"), [("host", 4), ("device", 1)])
def test_where_films_lie_and_how_many_steps_a_call_does_change_no_bit(
    dml: ConfigDict, run_through: Path, tmp_path: Path, residence: str, steps_per_call: int
) -> None:
    """`run_through` has its films on the devices and does two steps a call."""
    dml.data.residence, dml.steps_per_call = residence, steps_per_call
    loop.train(dml, tmp_path)
    for found, expected in zip(weights(tmp_path, 6, dml), weights(run_through, 6, dml), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("regime", ["specialists", "branches", "distill", "cohort"])
def test_every_regime_goes_on_bit_for_bit_and_evaluates(
    dml: ConfigDict, run_through: Path, tmp_path: Path, regime: str
) -> None:
    """Four steps with a checkpoint after two: run through, and stopped after three and run again."""
    dml.max_steps = 4
    if regime == "cohort":
        dml.networks.net3 = dml.networks.net2.copy_and_resolve_references()
        dml.networks.net3.seed = 3
    else:
        del dml.networks.net2
        dml.regime = "distill" if regime == "distill" else "supervised"
    if regime == "distill":
        dml.teacher = str(run_through)
    if regime == "specialists":
        dml.networks.net1.update({"shared_stages": 0, "optimizer": "adamw", "average_decay": 0.9})
        dml.groups.by = "cooccurrence"
    if regime == "branches":
        dml.networks.net1.update({"shared_stages": 1, "model": "tiny2"})
        dml.groups.update({"by": "embeddings", "network": str(run_through), "count": 3})
    loop.train(dml, tmp_path / "through")

    train_until(2, dml, tmp_path / "stopped")
    assert max(steps_kept(tmp_path / "stopped")) == 2
    loop.train(dml, tmp_path / "stopped")
    for found, expected in zip(
        weights(tmp_path / "stopped", 4, dml), weights(tmp_path / "through", 4, dml), strict=True
    ):
        np.testing.assert_array_equal(found, expected)

    predictions = loop.evaluate(dml, tmp_path / "stopped")
    assert set(predictions.probabilities) == ({*dml.networks, "ensemble"} if regime == "cohort" else {"net1"})
    assert predictions.probabilities["net1"].shape == predictions.films.labels.shape
    checkpoints = Checkpoints(tmp_path / "stopped")
    groups = checkpoints.metadata(4)["groups"]
    if regime in ("specialists", "branches"):
        assert len(groups) == dml.groups.count
        assert sorted(finding for group in groups for finding in group) == sorted(FINDINGS)
    else:
        assert groups is None


def test_a_teacher_that_learned_on_is_refused(dml: ConfigDict, run_through: Path, tmp_path: Path) -> None:
    teacher = Path(shutil.copytree(run_through, tmp_path / "teacher"))
    del dml.networks.net2
    dml.update({"regime": "distill", "teacher": str(teacher), "max_steps": 2})
    loop.train(dml, tmp_path / "run")
    shutil.rmtree(teacher)
    dml.max_steps = 6
    with pytest.raises(CheckpointError, match=r"config\.teacher: .*is no workdir"):
        loop.train(dml, tmp_path / "new")
    student = Path(shutil.copytree(tmp_path / "run", tmp_path / "student"))
    dml.max_steps, dml.teacher = 2, str(student)
    with pytest.raises(CheckpointError, match="does not hold the weights that this run learned from"):
        loop.train(dml, tmp_path / "run")


def test_a_teacher_of_other_films_is_refused(dml: ConfigDict, run_through: Path, tmp_path: Path) -> None:
    del dml.networks.net2
    dml.update({"regime": "distill", "teacher": str(run_through)})
    dml.data.size = 64
    with pytest.raises(ConfigError, match=r"data\.size=32, this run has data\.size=64"):
        loop.train(dml, tmp_path)


def test_a_finished_run_trains_no_further(dml: ConfigDict, run_through: Path, monkeypatch) -> None:
    monkeypatch.setattr(loop, "create_steps", lambda *arguments: pytest.fail("trains on"))
    loop.train(dml, run_through)


def test_evaluation_on_one_device_gives_the_same_figures(dml: ConfigDict, run_through: Path, monkeypatch) -> None:
    """A checkpoint of four devices, restored on one, in batches of another size, the last one padded."""
    before = json.loads((run_through / "metrics.json").read_text())
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(evaluator, "each_device", partial(each_device, devices=devices))
    monkeypatch.setattr(loop, "replicate", partial(replicate, devices=devices))
    predictions = loop.evaluate(dml, run_through)
    for name, aurocs in predictions.aurocs.items():
        known_aurocs = np.array([math.nan if a is None else a for a in before["networks"][name]["auroc"].values()])
        np.testing.assert_allclose(aurocs, known_aurocs, atol=1e-9)


def test_another_config_is_refused_with_the_fields_named(dml: ConfigDict, run_through: Path) -> None:
    dml.mutual.weight = 0.5
    dml.networks.net2.learning_rate = 0.2
    dml.log_every = 1  # may change
    with pytest.raises(CheckpointError, match=r"2: mutual\.weight: 1\.0 then, 0\.5 now, networks\.net2\.learning_rate"):
        loop.train(dml, run_through)


@pytest.mark.parametrize("schedule", [{"schedule": "constant"}, {"schedule": "cosine", "restart_steps": 2}])
def test_where_no_step_depends_on_the_end_a_run_goes_on_to_a_later_one(
    dml: ConfigDict, tmp_path: Path, schedule: dict[str, str | int]
) -> None:
    for network in dml.networks.values():
        network.update(schedule | {"warmup_steps": 1})
    loop.train(dml, tmp_path / "six")
    dml.max_steps = 3
    loop.train(dml, tmp_path / "three")
    dml.update({"max_steps": 0, "epochs": 1.5})
    loop.train(dml, tmp_path / "three")
    for found, expected in zip(weights(tmp_path / "three", 6, dml), weights(tmp_path / "six", 6, dml), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert json.loads((tmp_path / "three" / "config.json").read_text())["epochs"] == 1.5
    loop.check_config(tmp_path / "three", dml)
    dml.epochs = 0.5
    loop.train(dml, tmp_path / "three")  # it has more already
    assert max(steps_kept(tmp_path / "three")) == 6
    dml.seed = 5
    with pytest.raises(CheckpointError, match=r"differs in 1: seed: .*\n.*or the old config"):
        loop.train(dml, tmp_path / "three")


def test_where_the_rate_ends_with_the_run_a_longer_one_is_begun_from_its_weights(
    dml: ConfigDict, run_through: Path
) -> None:
    dml.networks.net1.schedule = "constant"
    dml.networks.net2.schedule = "linear"
    dml.max_steps = 9
    with pytest.raises(CheckpointError, match=r"differs in 3: max_steps: 6 then, 9 now, networks"):
        loop.train(dml, run_through)
    dml.networks.net1.schedule = dml.networks.net2.schedule = "cosine"
    with pytest.raises(CheckpointError, match=r"net1\.schedule is cosine.*restart_steps.*--config\.init_from=/"):
        loop.train(dml, run_through)


def test_other_splits_are_evaluated_beside_the_runs_own_results(dml: ConfigDict, run_through: Path) -> None:
    before = {path: path.read_bytes() for path in run_through.glob("*.*")}
    predictions = loop.evaluate(dml, run_through, "val")
    assert {path: path.read_bytes() for path in run_through.glob("*.*")} == before
    found = json.loads((run_through / "val" / "metrics.json").read_text())
    assert (found["split"], found["films"]) == ("val", len(predictions.films.names))
    for name, network in found["networks"].items():
        for finding, labels, probabilities in zip(
            FINDINGS, predictions.films.labels.T, predictions.probabilities[name].T, strict=True
        ):
            if 0 < labels.sum() < len(labels):
                assert network["auroc"][finding] == pytest.approx(roc_auc_score(labels, probabilities))


def test_films_that_changed_are_refused(
    dml: ConfigDict, run_through: Path, tmp_path: Path, phantom_folder: Path
) -> None:
    dml.data.dir = str(shutil.copytree(phantom_folder, tmp_path / "nih"))
    with (tmp_path / "nih" / "BBox_List_2017.csv").open("a") as file:
        file.write("00000001_000.png,Mass,1,2,3,4,,,\n")
    before = {path: path.read_bytes() for path in run_through.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="the data are now"):
        loop.train(dml, run_through)
    assert {path: path.read_bytes() for path in run_through.rglob("*") if path.is_file()} == before


def test_a_run_goes_on_and_evaluates_without_the_raw_films(
    dml: ConfigDict, run_through: Path, tmp_path: Path, phantom_folder: Path, monkeypatch
) -> None:
    dml.data.dir = str(shutil.copytree(phantom_folder, tmp_path / "nih"))
    add = loop.Window.add

    def stop(self, step, *args):
        if step == 2:
            raise KeyboardInterrupt
        add(self, step, *args)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Window, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            loop.train(dml, tmp_path / "run")
    shutil.rmtree(tmp_path / "nih")
    loop.train(dml, tmp_path / "run")
    for found, expected in zip(weights(tmp_path / "run", 6, dml), weights(run_through, 6, dml), strict=True):
        np.testing.assert_array_equal(found, expected)
    loop.evaluate(dml, tmp_path / "run")
    both = [json.loads((path / "metrics.json").read_text())["networks"] for path in (tmp_path / "run", run_through)]
    for name, network in both[1].items():
        assert both[0][name]["auroc"] == pytest.approx(network["auroc"], nan_ok=True)
    dml.data.dir = str(tmp_path / "another")
    with pytest.raises(DataError, match="another is not a folder"):
        loop.evaluate(dml, tmp_path / "run")


def test_loss_that_is_not_finite_stops_the_run_and_names_step_finding_and_films(
    dml: ConfigDict, tmp_path: Path, monkeypatch
) -> None:
    create = loop.create_steps

    def poisoned(context, read, most):
        steps = create(context, read, most)

        def run(states, source, fixed, begin, count):
            if begin == 4:
                params = jax.tree.map(lambda x: x, states[1].params)
                params["head"]["bias"] = params["head"]["bias"].at[..., 7].set(np.nan)
                states = (states[0], states[1].replace(params=params))
            return steps(states, source, fixed, begin, count)

        return run

    monkeypatch.setattr(loop, "create_steps", poisoned)
    with pytest.raises(TrainingError, match=r"step 5: .*net2 on Pneumothorax") as caught:
        loop.train(dml, tmp_path)
    assert "films of the batch, 8: 0000" in str(caught.value)
    assert max(steps_kept(tmp_path)) == 4


def test_a_checkpoint_of_other_networks_is_refused_with_its_keys(
    dml: ConfigDict, run_through: Path, monkeypatch
) -> None:
    monkeypatch.setattr(loop, "claim_workdir", lambda *args: None)
    dml.networks.net2.width = 0.25
    with pytest.raises(CheckpointError, match=r"misshaped .*networks/net2/"):
        loop.train(dml, run_through)
    dml.networks.net2.update({"width": 0.125, "model": "densenet121"})
    with pytest.raises(CheckpointError, match=r"missing .*denseblock1.*unexpected .*layer1_0"):
        loop.train(dml, run_through)


def test_evaluating_before_training(dml: ConfigDict, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is no workdir: it holds no config\.json"):
        loop.evaluate(dml, tmp_path)
    loop.claim_workdir(tmp_path, dml)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        loop.evaluate(dml, tmp_path)


def test_a_run_that_never_saved_does_not_bind_its_workdir(dml: ConfigDict, tmp_path: Path) -> None:
    loop.claim_workdir(tmp_path, dml)
    dml.seed = 9
    loop.claim_workdir(tmp_path, dml)
    loop.check_config(tmp_path, dml)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("regime", "mutal", "supervised, mutual"),
        ("mutual.updates", "both", "alternating, simultaneous"),
        ("mutual.kl", "gauss", "bernoulli, softmax"),
        ("dtype", "float16", "float32, bfloat16"),
        ("batch_size", 0, "between 1 and"),
        ("batch_size", 6, "not a multiple of the 4 devices"),
        ("batch_size", 64, "there are 33 training films"),
        ("max_steps", -5, "between 0 and"),
        ("networks.net2.clip_norm", -1.0, r"networks\.net2\.clip_norm is -1"),
        ("data.val_fraction", -0.1, "between 0 and 1"),
        ("data.size", 16, "between 32"),
        ("seed", -1, "between 0"),
        ("networks.net1.momentum", 1.5, r"networks\.net1\.momentum is 1\.5; it must lie between 0 and 0\.99"),
        ("augment.brightness", -1.0, r"augment\.brightness is -1"),
        ("augment.rotation", float("nan"), r"augment\.rotation is nan"),
        ("epochs", float("inf"), "above 0"),
        ("data.axes", "depth", "rows, columns, rows,columns"),
        ("data.threshold", 0, "between 1 and 255"),
        ("data.phantom.rare_share", 0.5, r"data\.phantom\.rare_share is 0\.5"),
        ("data.source", "cifar", "phantom, chestxray14"),
        ("networks.net1.model", "resnet19", "resnet18"),
        ("networks.net1.schedule", "stairs", "cosine"),
        ("networks.net1.optimizer", "lion", "adamw"),
        ("data.dir", "", "--config.data.dir"),
        ("regime", "distill", "--config.teacher=WORKDIR"),
        ("distill.targets", "hard", "bernoulli, softmax"),
        ("distill.weight", 1.5, "between 0 and 1"),
        ("loss.name", "hinge", "bce, weighted_bce, focal, asymmetric"),
        ("groups.by", "hand", "report, cooccurrence, embeddings"),
        ("groups.by", "embeddings", "--config.groups.network=WORKDIR"),
        ("networks.net1.shared_stages", 1, "can share 0 to 0"),
    ],
)
def test_values_that_no_run_can_use(dml: ConfigDict, tmp_path: Path, field: str, value: object, message: str) -> None:
    dml.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=message):
        loop.train(dml, tmp_path)


def test_mutual_learning_takes_two(dml: ConfigDict, tmp_path: Path) -> None:
    del dml.networks.net2
    with pytest.raises(ConfigError, match="at least two"):
        loop.train(dml, tmp_path)


def test_a_workdir_that_cannot_be(dml: ConfigDict, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((CheckpointError, DataError), match="cannot be"):
        loop.train(dml, tmp_path / "file" / "run")


def test_baseline_on_simulated_films_made_by_the_run_itself(
    small_baseline: ConfigDict, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("CHEXJAX_CACHE", str(tmp_path / "cache"))
    small_baseline.data.phantom.update({"count": 60, "size": 32})
    small_baseline.data.val_fraction = 0.3
    small_baseline.max_steps = 2
    small_baseline.networks.net1.average_decay = 0.9
    loop.train(small_baseline, tmp_path / "run")
    loop.evaluate(small_baseline, tmp_path / "run")
    printed = capsys.readouterr().out
    assert "net1 (tiny)" in printed
    assert "ensemble" not in printed
    rows = [line.split()[0] for line in printed.splitlines()]
    assert [row for row in rows if row in FINDINGS] == list(FINDINGS)


def test_a_folder_given_to_simulated_films_is_not_passed_over(dml: ConfigDict, tmp_path: Path) -> None:
    dml.data.source = "phantom"
    with pytest.raises(ConfigError, match=r"data\.source is phantom.*\n.*dml\.py:chestxray14"):
        loop.train(dml, tmp_path)


def test_a_network_that_diverged_in_its_last_step_is_not_saved(dml: ConfigDict, tmp_path: Path, monkeypatch) -> None:
    dml.networks.net2.update({"learning_rate": 1e30, "clip_norm": 0.0})
    monkeypatch.setattr(loop, "check", lambda config: None)  # it refuses such a rate
    dml.max_steps = 1
    with pytest.raises(TrainingError, match=r"net2 on the val split are not finite"):
        loop.train(dml, tmp_path)
    assert not (tmp_path / "checkpoints" / "1").exists()
