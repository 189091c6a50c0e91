"""The command as it is typed: one clear line and a status for each mistake."""

import subprocess
import sys
from pathlib import Path

import pytest

from chexjax.findings import FINDINGS

REPOSITORY = Path(__file__).parent.parent


def run(*flags: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chexjax.main", *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--config=configs/dml.py"], "--workdir"),
        (["--workdir=/tmp/x"], "--config=configs/dml.py"),
        (["--config=configs/dml.py", "--workdir=/tmp/x", "--config.mutual.wieght=1"], "weight"),
        (["--config=configs/dml.py", "--workdir=/tmp/x", "--config.epochs=many"], "many"),
        (["--config=configs/dml.py:chexpert", "--workdir=/tmp/x"], "no variant 'chexpert'"),
        (["--config=configs/none.py", "--workdir=/tmp/x"], "configs/none.py does not exist"),
        (["--config=configs/dml.py", "--workdir=/tmp/x", "--mode=test"], "mode"),
        (["--config=configs/dml.py", "--workdir=/tmp/x", "--modes=train"], "modes"),
        (["--config=configs/dml.py", "--workdir=/tmp/x", "rest"], "rest"),
    ],
)
def test_a_mistyped_command_is_one_line(flags: list[str], told: str) -> None:
    done = run(*flags)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not done.stdout


def test_a_run_that_cannot_start_says_why(tmp_path: Path) -> None:
    done = run("--config=configs/dml.py:chestxray14", f"--config.data.dir={tmp_path / 'no'}", f"--workdir={tmp_path}/w")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {tmp_path / 'no'} is no folder; data.dir (--dir) must name the unpacked ChestX-ray14 download\n"
    )


def test_the_command_trains_resumes_and_evaluates(phantom_folder: Path, tmp_path: Path) -> None:
    flags = [
        "--config=configs/baseline.py",
        f"--workdir={tmp_path / 'run'}",
        "--config.data.source=chestxray14",
        f"--config.data.dir={phantom_folder}",
        f"--config.data.cache={tmp_path / 'cache'}",
        "--config.data.size=32",
        "--config.data.val_fraction=0.3",
        "--config.networks.net1.width=0.0625",
        "--config.batch_size=8",
        "--config.max_steps=2",
    ]
    trained = run(*flags)
    assert trained.returncode == 0, trained.stderr
    table = trained.stdout[trained.stdout.rindex("test: ") :]
    assert all(finding in table for finding in ("mean AUROC", *FINDINGS))
    evaluated = run(*flags, "--mode=evaluate")
    assert evaluated.returncode == 0, evaluated.stderr
    assert evaluated.stdout.strip() == table.strip()
    refused = run(*flags, "--config.seed=7")
    assert refused.returncode == 1
    assert "seed: 0 then, 7 now" in refused.stderr
