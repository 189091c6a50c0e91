"""Several processes: the same training as one, by the script that people type; and scripts that say what they miss."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from jax import tree

from chexjax.configs import common
from chexjax.training.loop import digest_of
from chexjax.workdir.checkpoints import Checkpoints, step_folders
from chexjax.workdir.config import CHECKPOINTS, claim_workdir
from chexjax.workdir.restore import restore_best
from tests.untrained import save_untrained

REPOSITORY = Path(__file__).parent.parent.parent
SCRIPTS = sorted((REPOSITORY / "launch").glob("*.s[hb]*"))


def environment(**more: str) -> dict[str, str]:
    """One device a process, and the PATH of an activated environment."""
    flags = " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag)
    return {**os.environ, "XLA_FLAGS": flags, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **more}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=900, env=environment())


@pytest.fixture(scope="module")
def flags(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A run of 24 steps, validated and saved every four."""
    return [
        "--config=configs/baseline.py",
        "--config.data.source=chestxray14",
        f"--config.data.dir={phantom_folder}",
        f"--config.data.cache={tmp_path_factory.mktemp('cache')}",
        "--config.data.size=32",
        "--config.data.val_fraction=0.3",
        "--config.networks.net1.width=0.0625",
        "--config.networks.net1.optimizer=sgd",  # Adam would hide gradients that are twice too large
        "--config.networks.net1.learning_rate=0.05",
        "--config.batch_size=8",
        "--config.epochs=6",
    ]


@pytest.fixture(scope="module")
def two(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of two processes that were never stopped."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    done = run("launch/local.sh", "2", *flags, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir


def test_a_process_ahead_of_the_first_needs_no_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first process writes `config.json`, perhaps later than another one looks."""
    config = common.base()
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    claim_workdir(tmp_path, config)
    assert not list(tmp_path.iterdir())
    assert digest_of(None, config, tmp_path) == ""


def test_two_processes_train_as_one(flags: list[str], tmp_path: Path) -> None:
    """Over three small steps, that move weights by hundredths: further, and the order of float32 sums would show."""
    flags = [*flags, "--config.max_steps=3", "--config.networks.net1.learning_rate=0.01"]
    two = run("launch/local.sh", "2", *flags, f"--workdir={tmp_path / 'two'}")
    assert two.returncode == 0, two.stderr
    assert "on 2 x cpu" in two.stdout
    one = run(sys.executable, "-m", "chexjax.main", *flags, f"--workdir={tmp_path / 'one'}")
    assert one.returncode == 0, one.stderr
    variables = [restore_best(tmp_path / name).variables for name in ("one", "two")]
    tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *variables)


@pytest.mark.slow
@pytest.mark.skipif("CHEXJAX_SOAK" not in os.environ, reason="four minutes: set CHEXJAX_SOAK")
def test_a_run_that_is_terminated_and_whose_processes_are_killed_ends_as_if_it_never_had_been(
    flags: list[str], two: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"

    def await_step_after(step: int) -> None:
        until = time.monotonic() + 900
        while max(steps(workdir), default=0) <= step:
            assert time.monotonic() < until, "no checkpoint"
            time.sleep(0.05)

    command = ["launch/local.sh", "2", *flags, f"--workdir={workdir}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": REPOSITORY}
    scheduled = subprocess.Popen(command, env=environment(), **pipes)
    await_step_after(0)
    scheduled.send_signal(signal.SIGTERM)
    message, _ = scheduled.communicate(timeout=600)
    assert scheduled.returncode == 75, message
    stopped = max(steps(workdir))
    assert f"stopped by SIGTERM after step {stopped} of 24" in message
    assert f"stopped by SIGTERM after step {stopped} of 24" in (workdir / "process-1.log").read_text()

    meeting = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    command = [sys.executable, "-m", "chexjax.main", "--distributed", *flags, f"--workdir={workdir}"]
    first, second = (
        subprocess.Popen(command, env=environment(**meeting, JAX_PROCESS_ID=str(k)), **pipes) for k in range(2)
    )
    await_step_after(stopped)
    second.kill()
    message, _ = first.communicate(timeout=600)  # it must not wait for ever
    second.communicate()
    assert first.returncode == 1
    assert "error: process 0 of 2 has lost the others" in message or "cannot be saved" in message, message
    assert max(steps(workdir)) < 24

    done = run("launch/local.sh", "2", *flags, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    ends = [Checkpoints(end)._load(24, ("networks", "training")) for end in (workdir, two)]
    tree.map(np.testing.assert_array_equal, *ends)
    assert Checkpoints(workdir).metadata(24) == Checkpoints(two).metadata(24)
    for name in ("metrics.json", "predictions_net1.csv"):
        assert (workdir / name).read_text() == (two / name).read_text()
    assert not (workdir / "lock.json").exists()
    assert "mean AUROC" in done.stdout  # the first process alone writes and prints the report
    assert "mean AUROC" not in (workdir / "process-1.log").read_text()


def steps(workdir: Path) -> list[int]:
    return [int(path.name) for path in step_folders(workdir / CHECKPOINTS)]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_process_that_fails_ends_the_others(tmp_path: Path) -> None:
    done = run("launch/local.sh", "2", "--config=configs/none.py", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert "configs/none.py does not exist" in done.stderr + (tmp_path / "run" / "process-1.log").read_text()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_without_arguments_says_how_to_use_it(script: Path) -> None:
    done = run("bash", str(script))
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


@pytest.mark.parametrize(("minutes", "alive"), [(0, True), (90, True), (150, False), (None, False)])
def test_the_probe_tells_a_run_that_writes_from_one_that_hangs(
    minutes: int | None, alive: bool, tmp_path: Path
) -> None:
    """The shell command of the JobSet, as kubelet would run it, with another place for /data."""
    text = (REPOSITORY / "launch" / "kubernetes" / "jobset.yaml").read_text()
    (job,) = yaml.safe_load(text)["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    command = [word.replace("/data", str(tmp_path)) for word in container["livenessProbe"]["exec"]["command"]]
    if minutes is not None:
        events = tmp_path / "runs" / "dml" / "tensorboard" / "events"
        events.parent.mkdir(parents=True)
        events.touch()
        os.utime(events, (time.time() - 60 * minutes,) * 2)
    assert (subprocess.run(command, capture_output=True).returncode == 0) is alive


def test_the_pods_of_the_jobset_agree_on_their_number() -> None:
    text = (REPOSITORY / "launch" / "kubernetes" / "jobset.yaml").read_text()
    (job,) = yaml.safe_load(text)["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert str(spec["parallelism"]) == str(spec["completions"]) == variables["JAX_NUM_PROCESSES"]
    assert (
        variables["JAX_COORDINATOR_ADDRESS"]
        == f"chexjax-{job['name']}-0-0.chexjax:{container['ports'][0]['containerPort']}"
    )
    assert f"--workdir={watched(container)}" in container["command"]


def watched(container: dict) -> str:
    """The workdir that the probe looks at."""
    return container["livenessProbe"]["exec"]["command"][-1].split()[3]


def test_processes_that_cannot_find_each_other_say_so(tmp_path: Path) -> None:
    done = run(
        sys.executable, "-m", "chexjax.main", "--config=configs/dml.py", f"--workdir={tmp_path}", "--distributed"
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: --distributed: ")
    assert "JAX_PROCESS_ID" in done.stderr


def test_an_array_of_two_tasks_scores_what_one_process_does(phantom_folder: Path, tmp_path: Path) -> None:
    """The script as SLURM would run it; tasks are numbered from 5, as `--array=5-6` does."""
    config = common.base()
    config.networks.net1.update({"width": 0.0625})
    config.data.size = 32
    workdir = save_untrained(config, tmp_path / "run")
    films = sorted((phantom_folder / "images").glob("*.png"))[:7]
    flags = [f"--checkpoint={workdir}", *map(str, films), "--overlays=0", "--batch_size=2"]

    def submitted(task: str, first: str, last: str, **more: str) -> subprocess.CompletedProcess[str]:
        slurm = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_MIN": first, "SLURM_ARRAY_TASK_MAX": last, **more}
        command = ["bash", "launch/predict_array.sbatch", *flags, f"--out={tmp_path / 'out'}"]
        return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment(**slurm))

    for task in ("6", "5"):
        done = submitted(task, "5", "6")
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / "out" / "predictions.csv").exists()
    alone = submitted("2", "2", "2")  # `--array=2`, as of one task: it would remove what the others did
    assert alone.returncode == 64
    assert "holds shards of 2, not of 1, that are not joined yet" in alone.stderr
    assert submitted("2", "2", "2", CHEXJAX_SHARDS="2").returncode == 0
    assert run(sys.executable, "-m", "chexjax.predict.join", str(tmp_path / "out")).returncode == 0
    assert run(sys.executable, "-m", "chexjax.predict", *flags, f"--out={tmp_path / 'one'}").returncode == 0
    names, probabilities = {}, {}
    for folder in ("out", "one"):
        with (tmp_path / folder / "predictions.csv").open(newline="") as file:
            rows = list(csv.reader(file))[1:]
        names[folder] = [row[0] for row in rows]
        probabilities[folder] = np.array([row[1:-2] for row in rows], float)
    assert names["out"] == names["one"] == [path.name for path in films]
    np.testing.assert_allclose(probabilities["out"], probabilities["one"], rtol=1e-5)
