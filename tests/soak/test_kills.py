"""Kill -9 at random instants, of preparing, of saving and of training: in the end nothing shows it.

Five kills in the ordinary suite; fifty with CHEXJAX_SOAK=1.
"""

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from chexjax.workdir.checkpoints import Checkpoints, step_folders
from chexjax.workdir.config import CHECKPOINTS
from tests.soak import runs

KILLS = 50 if os.environ.get("CHEXJAX_SOAK") else 5
WHAT = ("preparing", "saving", "training", "saving", "training")


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.BaseContext:
    """Starts processes out of one that has the libraries loaded: loading them is most of what a start costs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.soak.runs"])
    return context


def listing(folder: Path) -> list[str]:
    """What lies in a folder, but for names that are random or tell of each start."""
    shown = (path.relative_to(folder) for path in folder.rglob("*"))
    return sorted(str(path) for path in shown if not {"arrays", "tensorboard"} & set(path.parts))


def until(happens, process: multiprocessing.process.BaseProcess) -> None:
    """Waits until something happens, or the process has ended by itself."""
    while process.is_alive() and not happens():
        time.sleep(0.001)


def instant(what: str, workdir: Path, cache: Path, process: multiprocessing.process.BaseProcess, rng) -> None:
    """Waits for a random instant of preparing, of a save, or of training after a first save."""
    if what == "preparing":
        until(lambda: [*cache.glob("phantom/.*"), *cache.glob("prepared/*/*/preparing-*")], process)
        time.sleep(rng.uniform(0, 0.5))
        return
    before = saved(workdir)
    until(lambda: saved(workdir) > before, process)
    if what == "saving":
        until(lambda: list((workdir / CHECKPOINTS).glob("*.partial")), process)
        time.sleep(rng.uniform(0, 0.1))
    else:
        time.sleep(rng.uniform(0, 0.5))


def saved(workdir: Path) -> int:
    return max((int(path.name) for path in step_folders(workdir / CHECKPOINTS)), default=0)


@pytest.mark.slow
def test_kills(small_baseline: ConfigDict, processes, tmp_path: Path) -> None:
    small_baseline.data.phantom.update({"count": 48, "size": 32})
    small_baseline.data.update({"val_fraction": 0.3, "threads": 1})
    small_baseline.networks.net1.optimizer = "adamw"
    small_baseline.eval_epochs = 0.5
    small_baseline.epochs = 12 if KILLS > 5 else 6
    rng = np.random.default_rng(int(os.environ.get("CHEXJAX_SOAK_SEED", 0)))

    def start(workdir: Path, cache: Path) -> multiprocessing.process.BaseProcess:
        config = {**small_baseline.to_dict(), "data": {**small_baseline.data.to_dict(), "cache": str(cache)}}
        process = processes.Process(target=runs.train, args=(config, str(workdir)))
        process.start()
        return process

    whole = start(tmp_path / "whole", tmp_path / "cache")
    whole.join()
    assert whole.exitcode == 0
    expected, files = Checkpoints(tmp_path / "whole"), listing(tmp_path / "whole")
    last, cached = expected.latest, listing(tmp_path / "cache")

    kills = rounds = 0
    while kills < KILLS:
        rounds += 1
        workdir, cache = tmp_path / f"run-{rounds}", tmp_path / f"cache-{rounds}"
        while True:
            what = WHAT[kills % len(WHAT)] if kills < KILLS else ""
            if what == "preparing":
                shutil.rmtree(cache, ignore_errors=True)  # films are drawn and prepared anew
            process = start(workdir, cache)
            if what:
                instant(what, workdir, cache, process, rng)
                process.kill()
            process.join()
            if process.exitcode == 0:
                break
            assert process.exitcode == -9
            kills += 1
        ended = Checkpoints(workdir)
        assert ended.latest == last
        arrays = (end._load(last, ("networks", "training")) for end in (ended, expected))
        jax.tree.map(np.testing.assert_array_equal, *arrays)
        assert ended.metadata(last) == expected.metadata(last)
        assert listing(workdir) == files
        assert listing(cache) == cached
        print(f"{kills} kills in {rounds} runs")


def test_processes_that_draw_films_end_with_the_one_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chexjax.data.phantom", f"--out={tmp_path / 'nih'}", "--count=20000", "--size=32"]
    parent = subprocess.Popen([*command, "--workers=2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    if not children.exists():
        pytest.skip("this system does not list a process's children")
    while len(list(tmp_path.glob(".nih-*/images/*.png"))) < 10:
        assert parent.poll() is None
        time.sleep(0.01)
    workers = [Path(f"/proc/{pid}") for pid in children.read_text().split()]
    parent.kill()
    parent.wait()
    assert len(workers) >= 2
    patience = time.monotonic() + 120
    while any(running(worker) for worker in workers):
        assert time.monotonic() < patience, "left behind"
        time.sleep(0.05)


def running(process: Path) -> bool:
    """Whether a process of `/proc` is there, and no zombie."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
