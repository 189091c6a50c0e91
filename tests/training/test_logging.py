"""What a run writes for TensorBoard: rates and norms against the update rule itself, and a profile."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from tensorboardX.proto.event_pb2 import Event

from chexjax.configs import common
from chexjax.training import logging, loop
from chexjax.training.logging import Pace
from chexjax.training.state import create_optimizer, heads_first, learning_rates
from chexjax.workdir.checkpoints import Checkpoints
from tests.stopped import train_until


def records(file: Path) -> list[bytes]:
    """TFRecord's framing: length (8 bytes), its checksum (4), the record, its checksum (4)."""
    data, offset, found = file.read_bytes(), 0, []
    while offset < len(data):
        length = int.from_bytes(data[offset : offset + 8], "little")
        found.append(data[offset + 12 : offset + 12 + length])
        offset += 16 + length
    return found


def scalars(workdir: Path) -> dict[str, dict[int, float]]:
    """By tag and step."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for file in (workdir / "tensorboard").glob("events.out*"):
        for event in map(Event.FromString, records(file)):
            for value in event.summary.value:
                found[value.tag][event.step] = value.simple_value
    return found


@pytest.fixture
def config(small_baseline: ConfigDict, phantom_folder: Path, tmp_path: Path) -> ConfigDict:
    """Five steps of plain gradient descent, one a call, each of them a point."""
    small_baseline.data.update({"source": "chestxray14", "dir": str(phantom_folder), "val_fraction": 0.3})
    small_baseline.data.cache = str(tmp_path / "cache")
    small_baseline.update({"max_steps": 5, "eval_epochs": 10.0, "log_every": 1, "steps_per_call": 1})
    network = {
        "momentum": 0.0,
        "weight_decay": 0.0,
        "clip_norm": 0.0,
        "schedule": "linear",
        "warmup_steps": 2,
        "restart_steps": 0,
    }
    small_baseline.networks.net1.update(network)
    return small_baseline


def test_a_run_logs_rates_norms_and_films_a_second_and_a_profile(config: ConfigDict, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    loop.train(config, workdir, profile=2)
    found = scalars(workdir)
    rates = found["train/net1/learning_rate"]
    # Two steps up to the peak, then down to zero over the three that are left. The loop reads a step when the next one
    # is under way, so the fourth is read together with the last.
    assert rates == pytest.approx({1: 0.025, 2: 0.05, 3: 0.05, 5: 0.05 / 3}, rel=1e-5)
    assert found["train/net1/head_learning_rate"] == rates
    # Gradient descent moves by the rate times the gradient, whatever else.
    gradients, updates = found["train/net1/gradient_norm"], found["train/net1/update_norm"]
    assert updates == pytest.approx({step: rate * gradients[step] for step, rate in rates.items()}, rel=1e-4)
    (last,) = Checkpoints(workdir)._load(5, ("networks",))["networks"].values()
    assert found["train/net1/parameter_norm"][5] == pytest.approx(float(optax.tree.norm(last["params"])), rel=1e-5)
    assert all(0 < pace < 1e6 for pace in found["train/films_per_second"].values())
    (trace,) = (workdir / "tensorboard" / "plugins" / "profile").glob("*/*.xplane.pb")
    # The names of what was measured stand in the file as they are; "train" marks the steps.
    assert b"train" in trace.read_bytes()
    assert trace.stat().st_size > 1000


def test_a_profile_of_a_run_that_fails_is_written(config: ConfigDict, tmp_path: Path) -> None:
    """And does not stay open: another run in the process could then make none."""
    for name in ("first", "second"):
        train_until(3, config, tmp_path / name, profile=100)
        assert list((tmp_path / name).glob("tensorboard/plugins/profile/*/*.xplane.pb"))


@pytest.mark.parametrize("frozen", [0, 4])
def test_learning_rates_are_those_of_the_updates(frozen: int) -> None:
    """Against SGD's own steps, of a gradient of 1: the trunk's rule begins when it is freed, the head's at once."""
    network = common.network("resnet18", seed=1)
    network.update({"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "warmup_steps": 2})
    network.update({"learning_rate": 0.1, "head_learning_rate": 0.4})
    params = {"head": np.ones((1, 1), np.float32), "trunk": np.ones((1, 1), np.float32)}
    rule = create_optimizer(network, 10)
    if frozen:
        rule = heads_first(rule, create_optimizer(network, 10 - frozen), frozen)
    memory = rule.init(params)
    for step in range(10):
        updates, memory = rule.update(params, memory, params)
        moved = {key: -float(value.item()) for key, value in updates.items()}
        rates = learning_rates(network, step, 10, frozen)
        expected = {"trunk": rates["learning_rate"], "head": rates["head_learning_rate"]}
        assert moved == pytest.approx(expected, abs=1e-7), step


def test_pace_counts_what_was_trained_between_points(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 2.0, 50.0, 54.0, 54.0, 60.0, 60.0])
    monkeypatch.setattr(logging.time, "monotonic", lambda: next(clock))
    pace = Pace(10, batch_size=8)
    assert pace.point(15) == {"train/films_per_second": 20.0}
    pace.restart(20)  # after a validation of 48 seconds
    assert pace.point(21) == {"train/films_per_second": 2.0}
    assert pace.point(21) == {}


def test_a_resumed_run_keeps_the_point_of_the_step_that_it_resumes_from(tmp_path: Path) -> None:
    for start, points in ((0, (2, 4, 6)), (4, (6, 8))):
        curves = logging.Scalars(tmp_path, start)
        for step in points:
            curves.write(step, {"auroc": 0.5 + start})
        curves.close()
    starts = [
        event.step
        for file in sorted((tmp_path / "tensorboard").glob("events.out*"))
        for event in map(Event.FromString, records(file))
        if event.session_log.status == 1  # START: TensorBoard hides what came before it at this step and later
    ]
    assert starts == [5]
