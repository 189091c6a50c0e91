"""Clouds' addresses where a command takes a folder or a file: one line, before anything is made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

BUCKET = "gs://bucket/run"
TRAIN = ("chexjax.main", "--config=configs/baseline.py")


@pytest.mark.parametrize(
    "command",
    [
        (*TRAIN, f"--workdir={BUCKET}"),
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
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode in (1, 2, 64)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert BUCKET in done.stderr
    assert "mount the bucket" in done.stderr
    assert not list(tmp_path.iterdir())
