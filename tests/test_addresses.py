"""Clouds' addresses where a command takes a folder or a file, a file's name for a folder: one line, nothing made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

BUCKET = "gs://bucket/run"
TRAIN = ("chexjax.main", "--config=configs/baseline.py")


def run(command: tuple[str, ...], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize(
    "command",
    [
        (*TRAIN, f"--workdir={BUCKET}"),
        ("chexjax.main", f"--workdir={BUCKET}"),
        ("chexjax.main", f"--config={BUCKET}/config.json", "--workdir=w"),
        (*TRAIN, "--workdir=w", f"--config.data.sources=nih={BUCKET},table=t"),
        (*TRAIN, "--workdir=w", f"--config.groups.network={BUCKET}"),
        (*TRAIN, "--workdir=w", f"--config.data.cache={BUCKET}"),
        (*TRAIN, "--workdir=w", "--config.data.source=chestxray14", f"--config.data.dir={BUCKET}"),
        (*TRAIN, "--workdir=w", f"--config.init_from={BUCKET}"),
        (*TRAIN, "--workdir=w", f"--config.networks.net1.init_from={BUCKET}"),
        ("chexjax.main", "--mode=evaluate", f"--workdir={BUCKET}", *TRAIN[1:]),
        ("chexjax.study", "--config=configs/study.py", f"--workdir={BUCKET}"),
        ("chexjax.predict", f"--checkpoint={BUCKET}", "a.png", "--out=o"),
        ("chexjax.predict", "--checkpoint=w", "a.png", f"--out={BUCKET}"),
        ("chexjax.predict", "--checkpoint=w", f"{BUCKET}/a.png", "--out=o"),
        ("chexjax.data.chestxray14", "--dir=nih", f"--out={BUCKET}"),
        ("chexjax.data.prepared", f"--dir={BUCKET}", "--out=o"),
        ("chexjax.data.phantom", f"--out={BUCKET}", "--count=4", "--size=32"),
        ("chexjax.scanline", "films", f"--out={BUCKET}"),
        ("chexjax.export", "--checkpoint=w", f"--out={BUCKET}"),
        ("chexjax.models.torch_weights", "--model=resnet18", "w.pth", f"--out={BUCKET}"),
        ("chexjax.evaluation.score", "--predictions=a.csv", "--labels=b.csv", f"--out={BUCKET}"),
        ("chexjax.workdir.checkpoints", "--verify", BUCKET),
    ],
    ids=lambda command: " ".join(command),
)
def test_an_address_is_refused_and_nothing_made(command: tuple[str, ...], tmp_path: Path) -> None:
    done = run(command, tmp_path)
    assert done.returncode in (1, 2, 64)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert BUCKET in done.stderr
    assert "mount the bucket" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        (*TRAIN, "--workdir=x.csv"),
        ("chexjax.study", "--config=configs/study.py", "--workdir=x.csv"),
        ("chexjax.predict", "--checkpoint=w", "a.png", "--out=x.csv"),
        ("chexjax.data.chestxray14", "--dir=nih", "--out=x.csv"),
        ("chexjax.data.phantom", "--out=x.csv", "--count=4", "--size=32"),
        ("chexjax.models.torch_weights", "--model=resnet18", "w.pth", "--out=x.csv"),
        ("chexjax.evaluation.score", "--predictions=a.csv", "--labels=b.csv", "--out=x.csv"),
        ("chexjax.evaluation.evaluate", "--checkpoint=w", "--source=table", "--dir=d", "--out=x.csv"),
    ],
    ids=lambda command: " ".join(command),
)
def test_a_file_name_for_a_folder_is_refused_and_nothing_made(command: tuple[str, ...], tmp_path: Path) -> None:
    done = run(command, tmp_path)
    assert done.returncode in (1, 64)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "=x.csv is a file's name; it takes a folder" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_home_is_expanded_after_an_equals_sign_where_the_shell_does_not(tmp_path: Path) -> None:
    command = ("chexjax.data.phantom", "--out=~/films", "--count=4", "--size=32")
    assert run(command, tmp_path, HOME=str(tmp_path)).returncode == 0
    assert (tmp_path / "films" / "images").is_dir()
    assert not (tmp_path / "~").exists()
