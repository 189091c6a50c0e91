"""Several processes: the same training as one, by the script that people type; and scripts that say what they miss."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jax import tree

from chexjax.training.restore import restore_best

REPOSITORY = Path(__file__).parent.parent.parent
SCRIPTS = sorted((REPOSITORY / "launch").glob("*.s[hb]*"))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}  # one device a process
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # as in an activated environment
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=900, env=environment)


def test_two_processes_train_as_one(phantom_folder: Path, tmp_path: Path) -> None:
    flags = [
        "--config=configs/baseline.py",
        "--config.data.source=chestxray14",
        f"--config.data.dir={phantom_folder}",
        f"--config.data.cache={tmp_path / 'cache'}",
        "--config.data.size=32",
        "--config.data.val_fraction=0.3",
        "--config.networks.net1.width=0.0625",
        "--config.networks.net1.optimizer=sgd",  # Adam would hide gradients that are twice too large
        "--config.networks.net1.learning_rate=0.05",
        "--config.batch_size=8",
        "--config.max_steps=3",
    ]
    two = run("launch/local.sh", "2", *flags, f"--workdir={tmp_path / 'two'}")
    assert two.returncode == 0, two.stderr
    assert "on 2 x cpu" in two.stdout
    one = run(sys.executable, "-m", "chexjax.main", *flags, f"--workdir={tmp_path / 'one'}")
    assert one.returncode == 0, one.stderr
    variables = [restore_best(tmp_path / name).variables for name in ("one", "two")]
    tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *variables)


def test_a_process_that_fails_ends_the_others(tmp_path: Path) -> None:
    done = run("launch/local.sh", "2", "--config=configs/none.py", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert "configs/none.py does not exist" in done.stderr + (tmp_path / "run" / "process-1.log").read_text()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_without_arguments_says_how_to_use_it(script: Path) -> None:
    done = run("bash", str(script))
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_processes_that_cannot_find_each_other_say_so(tmp_path: Path) -> None:
    done = run(
        sys.executable, "-m", "chexjax.main", "--config=configs/dml.py", f"--workdir={tmp_path}", "--distributed"
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: --distributed: ")
    assert "JAX_PROCESS_ID" in done.stderr
