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
    ("flags", "message"),
    [
        (["--config=configs/dml.py"], "--workdir"),
        (
            ["--workdir=/tmp/none"],
            "--workdir=/tmp/none does not exist; to begin a run there, add",
        ),
        (["--config=configs/dml.py", "--workdir=/tmp/x", "--config.mutual.wieght=1"], "weight"),
        (
            ["--config=configs/dml.py", "--workdir=/tmp/x", "--config.epochs=many"],
            "epochs is 'many'; it takes a",
        ),
        (["--config=configs/dml.py", "--workdir=/tmp/x", "--config.max_steps=1e3"], "it takes a whole number"),
        (["--config=configs/dml.py", "--workdir=/tmp/x", "--config.data.clean=so"], "it takes True or False"),
        (["--config=configs/dml.py", "--workdir=/tmp/x", "--config.data=3"], "it takes a group of fields"),
        (["--config=configs/dml.py", "--workdir=/tmp/x", "--config.epochs=None"], "config.epochs cannot be None"),
        (
            ["--config=configs/dml.py", "--workdir=/tmp/x", "--config.learning_rate=1e-3"],
            "do you mean config.networks.net1.learning_rate or config.networks.net2.learning_rate?",
        ),
        (["--config=configs/dml.py", "--workdir=/tmp/x", "--config.model=resnet34"], "config.networks.net1.model"),
        (["--config=configs/dml.py", "--workdir=/tmp/x", "--config.lr=None"], "config.networks.net1.learning_rate"),
        (["--config=configs/dml.py", "--workdir=/tmp/x", "--config.clean=True"], "do you mean config.data.clean?"),
        (["--config=configs/dml.py", "--workdir=/tmp/x", "--config.networks.net3.seed=1"], "config.networks.net1.seed"),
        (["--config=/tmp/none/config.json", "--workdir=/tmp/x"], "/tmp/none/config.json does not exist"),
        (["--config=pyproject.toml", "--workdir=/tmp/x"], "error: "),
        (["--mode=evaluate"], "or the --workdir of a run"),
        (["--workdir=/tmp/none", "--mode=evaluate"], "--workdir=/tmp/none does not exist; to begin a run there, add"),
        (
            ["--workdir=configs", "--mode=evaluate"],
            "configs is no workdir: it holds no config.json; to begin a run, add",
        ),
        (["--workdir=pyproject.toml"], "pyproject.toml is a file, not a workdir"),
        (["--config=configs/dml.py:chexpert", "--workdir=/tmp/x"], "no variant 'chexpert'"),
        (["--config=configs/none.py", "--workdir=/tmp/x"], "configs/none.py does not exist"),
        (["--config=configs/dml.py", "--workdir=/tmp/x", "--mode=test"], "mode"),
        (["--config=configs/dml.py", "--workdir=/tmp/x", "--modes=train"], "modes"),
        (["--config=configs/dml.py", "--workdir=/tmp/x", "rest"], "rest"),
    ],
)
def test_a_mistyped_command_is_one_line(flags: list[str], message: str) -> None:
    done = run(*flags)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not done.stdout


def test_a_run_that_cannot_start_says_why(tmp_path: Path) -> None:
    done = run("--config=configs/dml.py:chestxray14", f"--config.data.dir={tmp_path / 'no'}", f"--workdir={tmp_path}/w")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {tmp_path / 'no'} is not a folder; data.dir (--dir) must name the unpacked ChestX-ray14 download\n"
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
    for given in (
        [*flags, "--mode=evaluate"],
        [flags[1], "--mode=evaluate"],
        [flags[1], f"--config={tmp_path / 'run' / 'config.json'}"],
    ):
        evaluated = run(*given)
        assert evaluated.returncode == 0, evaluated.stderr
        assert evaluated.stdout[-len(table) :].strip() == table.strip()
    evaluated = run(flags[1], "--mode=evaluate", "--split=val", "--config.views=flip")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "val: " in evaluated.stdout
    assert (tmp_path / "run" / "val" / "metrics.json").exists()
    refused = run(*flags, "--config.seed=7")
    assert refused.returncode == 1
    assert "seed: 0 then, 7 now" in refused.stderr
