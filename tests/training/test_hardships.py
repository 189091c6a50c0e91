"""Full disks, read-only disks, two runs at once, clocks, numbers that are not finite: told, and nothing is lost."""

import errno
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from chexjax.data.films import open_films
from chexjax.data.pipeline import training_batches
from chexjax.errors import CheckpointError, TrainingError
from chexjax.training import loop, steps
from chexjax.workdir import checkpoints as checkpoints_module
from chexjax.workdir.checkpoints import Checkpoints
from chexjax.workdir.lock import hold
from chexjax.workdir.restore import restore_best
from tests.stopped import train_until


@pytest.fixture
def config(small_baseline: ConfigDict, phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ConfigDict:
    """Six steps, one a call, validated and saved every two."""
    cache = str(tmp_path_factory.getbasetemp() / "cache-of-hardships")
    small_baseline.data.update({"source": "chestxray14", "dir": str(phantom_folder), "cache": cache})
    small_baseline.data.val_fraction = 0.3
    small_baseline.update({"max_steps": 6, "eval_epochs": 0.5, "steps_per_call": 1, "log_every": 1})
    return small_baseline


@pytest.fixture
def through(config: ConfigDict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run without hardships, made once."""
    workdir = tmp_path_factory.getbasetemp() / "through"
    if not workdir.exists():
        loop.train(config, workdir)
    return workdir


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two mebibytes, for those who may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def assert_same_end(workdir: Path, through: Path) -> None:
    ends = [Checkpoints(path)._load(6, ("networks", "training")) for path in (workdir, through)]
    jax.tree.map(np.testing.assert_array_equal, *ends)
    assert Checkpoints(workdir).metadata(6) == Checkpoints(through).metadata(6)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(config: ConfigDict, small_disk: Path) -> None:
    workdir = small_disk / "run"
    config.max_steps = 2
    loop.train(config, workdir)
    config.max_steps = 6
    (workdir / "config.json").write_text(config.to_json())  # as if it had been interrupted after two steps
    before = contents(workdir / "checkpoints")
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 32 * 1024))
    with pytest.raises(CheckpointError, match=r"step 4 cannot be saved to .*checkpoints: .*\n.*untouched"):
        loop.train(config, workdir)
    assert contents(workdir / "checkpoints") == before
    assert restore_best(workdir).step == 2
    filler.unlink()
    loop.train(config, workdir)
    assert Checkpoints(workdir).latest == 6


def test_a_read_only_workdir_can_be_read_and_says_that_it_cannot_be_written(
    config: ConfigDict, small_disk: Path
) -> None:
    workdir = small_disk / "run"
    config.max_steps = 2
    loop.train(config, workdir)
    config.max_steps = 6
    (workdir / "config.json").write_text(config.to_json())
    before = contents(workdir)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(CheckpointError, match="run cannot be used as a workdir: Read-only file system"):
        loop.train(config, workdir)
    assert restore_best(workdir).step == 2
    assert contents(workdir) == before


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_whatever_the_disk_says_the_next_run_goes_on(
    config: ConfigDict, through: Path, tmp_path: Path, monkeypatch, code: int
) -> None:
    write = checkpoints_module.write_manifest

    def fails(folder: Path) -> None:
        if folder.name == "4.partial":
            raise OSError(code, errno.errorcode[code])
        write(folder)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints_module, "write_manifest", fails)
        with pytest.raises(CheckpointError, match=f"step 4 cannot be saved to .*{errno.errorcode[code]}"):
            loop.train(config, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]
    loop.train(config, tmp_path)
    assert_same_end(tmp_path, through)


def test_a_second_run_on_a_workdir_changes_nothing_in_it(config: ConfigDict, tmp_path: Path) -> None:
    with hold(tmp_path):
        loop.claim_workdir(tmp_path, config)
        before = contents(tmp_path)
        config.seed = 5
        with pytest.raises(CheckpointError, match=r"is in use by process \d+ on .*\n.*another --workdir"):
            loop.train(config, tmp_path)
        assert contents(tmp_path) == before


def test_a_run_whose_workdir_was_taken_over_saves_nothing_more(config: ConfigDict, tmp_path: Path, monkeypatch) -> None:
    add = loop.Window.add

    def lose(self, step, *rest):
        add(self, step, *rest)
        if step == 2:
            (tmp_path / "lock.json").unlink()
            (tmp_path / "lock.json").write_text("{}")

    monkeypatch.setattr(loop.Window, "add", lose)
    with pytest.raises(CheckpointError, match="another run has taken the workdir over"):
        loop.train(config, tmp_path)
    assert Checkpoints(tmp_path).latest == 2


def test_a_clock_that_goes_backwards_changes_nothing(
    config: ConfigDict, through: Path, tmp_path: Path, monkeypatch
) -> None:
    ticks = iter(range(2_000_000_000, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(ticks)))
    train_until(5, config, tmp_path)
    loop.train(config, tmp_path)
    assert_same_end(tmp_path, through)


def films_of(step: int, config: ConfigDict) -> list[str]:
    """The names of the films that step `step` (from 0) learns from, by the stream that workers of other hosts read."""
    films = open_films(config.data)
    batches = training_batches(films.source("train"), config.batch_size, config.seed)
    batches.set_state({"next_index": step})
    return [films.parts["train"].names[k] for k in np.asarray(next(batches)["film"]).reshape(-1)]


def assert_told(message: str, step: int, config: ConfigDict) -> None:
    assert message.startswith(f"step {step + 1}: ")
    named = message.splitlines()[1].partition(": ")[2].partition(";")[0].split(", ")
    assert sorted(named) == sorted(films_of(step, config))


@pytest.mark.parametrize("seed", range(4))
def test_nan_in_a_random_layer_at_a_random_step(config: ConfigDict, tmp_path: Path, monkeypatch, seed: int) -> None:
    rng = np.random.default_rng(seed)
    at, create = int(rng.integers(1, 6)), loop.create_steps
    hit = []

    def poisoned(*args):
        run = create(*args)

        def steps(states, source, fixed, begin, count):
            if begin == at:
                leaves = flatten_dict(states[0].params)
                keys = sorted(leaves)
                hit.append(keys[rng.integers(len(keys))])
                leaf = leaves[hit[0]]
                element = tuple(int(rng.integers(n)) for n in leaf.shape[1:])
                leaves[hit[0]] = leaf.at[(slice(None), *element)].set(jnp.nan)
                states = (states[0].replace(params=unflatten_dict(leaves)),)
            return run(states, source, fixed, begin, count)

        return steps

    monkeypatch.setattr(loop, "create_steps", poisoned)
    with pytest.raises(TrainingError, match="not finite") as caught:
        loop.train(config, tmp_path)
    assert len(hit) == 1
    assert_told(str(caught.value), at, config)
    assert Checkpoints(tmp_path).latest == (at - at % 2 or None)


def test_a_film_that_makes_the_loss_not_finite_is_among_those_named(
    config: ConfigDict, through: Path, tmp_path: Path, monkeypatch
) -> None:
    augment, name = steps.augment, films_of(4, config)[3]
    number = open_films(config.data).parts["train"].names.index(name)

    def spoiled(images, films, *rest):
        bad = (films == number).reshape(-1, 1, 1, 1)
        return jnp.where(bad, jnp.inf, augment(images, films, *rest))

    first = next(step for step in range(6) if name in films_of(step, config))
    with monkeypatch.context() as patched:
        patched.setattr(steps, "augment", spoiled)
        with pytest.raises(TrainingError, match=name) as caught:
            loop.train(config, tmp_path)
    assert_told(str(caught.value), first, config)
    loop.train(config, tmp_path)  # the film mended, the same command goes on
    assert_same_end(tmp_path, through)


def test_a_gradient_that_overflows_under_a_finite_loss(config: ConfigDict, tmp_path: Path, monkeypatch) -> None:
    linearize = steps.linearize

    def steep(state, images, context, key):
        run = linearize(state, images, context, key)
        scale = jnp.where(state.step == 3, jnp.inf, 1.0)
        return run._replace(pull_back=lambda up: jax.tree.map(lambda x: x * scale, run.pull_back(up)))

    monkeypatch.setattr(steps, "linearize", steep)
    with pytest.raises(TrainingError, match="not finite: 1: net1's gradient norm") as caught:
        loop.train(config, tmp_path)
    assert_told(str(caught.value), 3, config)
    assert Checkpoints(tmp_path).latest == 2


@pytest.mark.parametrize("at", [2, 3])
def test_nan_in_the_optimizers_memory_is_never_saved(config: ConfigDict, tmp_path: Path, monkeypatch, at: int) -> None:
    """The step itself has a finite loss and gradient: the next one is told of, or validation where that comes first."""
    create = loop.create_steps

    def poisoned(*args):
        run = create(*args)

        def steps(states, source, fixed, begin, count):
            if begin == at:
                memory = jax.tree.map(lambda x: x * jnp.nan if x.ndim > 1 else x, states[0].opt_state)
                states = (states[0].replace(opt_state=memory),)
            return run(states, source, fixed, begin, count)

        return steps

    monkeypatch.setattr(loop, "create_steps", poisoned)
    with pytest.raises(TrainingError, match="not finite"):
        loop.train(config, tmp_path)
    assert Checkpoints(tmp_path).latest == 2
