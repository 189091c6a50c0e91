"""Rot: whatever befalls the files of a workdir, what is restored is what was saved at an intact step, or nothing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from chexjax.data.films import open_films
from chexjax.errors import CheckpointError, TrainingError
from chexjax.files import MANIFEST
from chexjax.training.state import TrainState, create_network, create_state
from chexjax.workdir import checkpoints as checkpoints_module
from chexjax.workdir.checkpoints import Checkpoints, to_keep
from chexjax.workdir.config import claim_workdir
from chexjax.workdir.restore import restore_best

AUROCS = {2: 0.7, 4: 0.6, 6: 0.65}  # all three are kept: the best and the newest two


def states_at(config: ConfigDict, step: int) -> dict[str, TrainState]:
    """Small networks whose every weight says at which step they are."""
    shape = (config.data.size, config.data.size, 1)
    states = {name: create_state(config, name, create_network(config, name), shape, 10) for name in config.networks}
    return {n: s.replace(params=jax.tree.map(lambda x: x + step, s.params), step=step) for n, s in states.items()}


def metadata_at(step: int) -> dict[str, Any]:
    return {"groups": None, "data": "0123456789ab", "history": [{"step": step, "loss": 0.1 * step}]}


@pytest.fixture(scope="module")
def truth() -> dict[int, list[np.ndarray]]:
    """The arrays of each step; `saved` fills it."""
    return {}


@pytest.fixture
def saved(small_dml: ConfigDict, tmp_path_factory: pytest.TempPathFactory, truth: dict) -> Path:
    """A workdir with three checkpoints, made once; tests spoil copies."""
    workdir = tmp_path_factory.getbasetemp() / "saved"
    if not workdir.exists():
        claim_workdir(workdir, small_dml)
        checkpoints = Checkpoints(workdir, writing=True)
        for step, auroc in AUROCS.items():
            truth[step] = jax.tree.leaves(states_at(small_dml, step))
            checkpoints.save(step, states_at(small_dml, step), auroc, metadata_at(step))
    return workdir


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "run"))


def spoil(path: Path, rng: np.random.Generator) -> None:
    """Flips a bit, cuts the file short, or removes it."""
    content = bytearray(path.read_bytes())
    match rng.choice(["flip", "cut", "remove"], p=[0.6, 0.2, 0.2]):
        case "flip" if content:
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
            path.write_bytes(content)
        case "cut" if content:
            path.write_bytes(content[: rng.integers(len(content))])
        case _:
            path.unlink()


def test_two_hundred_corruptions(saved: Path, small_dml: ConfigDict, truth: dict, tmp_path: Path, capsys) -> None:
    """One to six files of any step, 200 times: always the exact numbers of the newest step left whole."""
    rng, blank = np.random.default_rng(0), states_at(small_dml, 0)
    shapes = {name: state.variables for name, state in blank.items()}
    networks = {n: {name: s.variables for name, s in states_at(small_dml, n).items()} for n in AUROCS}
    config = json.loads((saved / "config.json").read_text())
    steps_used, refused = [], 0
    for trial in range(200):
        workdir = Path(shutil.copytree(saved, tmp_path / "run", dirs_exist_ok=True))
        files = sorted(path for path in (workdir / "checkpoints").rglob("*") if path.is_file())
        spoiled = [files[k] for k in rng.choice(len(files), 1 + trial % 6, replace=False)]
        for path in spoiled:
            spoil(path, rng)
        hit = {int(path.relative_to(workdir / "checkpoints").parts[0]) for path in spoiled}
        capsys.readouterr()
        checkpoints = Checkpoints(workdir)
        message = capsys.readouterr().err
        intact = [step for step in AUROCS if f"checkpoints/{step} is broken" not in message]
        # A flip that only changes a blank of a manifest is no harm; all else must be found.
        assert set(AUROCS) - set(intact) <= hit
        for step in intact:
            assert all(path.name == MANIFEST for path in spoiled if f"/{step}/" in path.as_posix())
        if not intact:
            with pytest.raises(CheckpointError, match="none of them intact"):
                _ = checkpoints.latest
            refused += 1
        else:
            assert checkpoints.latest == max(intact)
            states, metadata = checkpoints.restore(checkpoints.latest, blank)
            jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(states), truth[max(intact)])
            assert metadata["history"] == metadata_at(max(intact))["history"]
            assert checkpoints.best == max(intact, key=AUROCS.__getitem__)
            restored = checkpoints.restore_networks(checkpoints.best, shapes)
            jax.tree.map(np.testing.assert_array_equal, restored, networks[checkpoints.best])
            assert checkpoints.config(checkpoints.best).to_dict() == config
            steps_used.append(checkpoints.latest)
        shutil.rmtree(workdir)
    assert set(steps_used) == {2, 4, 6}
    assert refused > 0


def test_each_broken_file_is_named_and_the_next_best_is_used(copy: Path, capsys) -> None:
    assert restore_best(copy).step == 2
    (copy / "checkpoints" / "2" / "metadata.json").unlink()
    (copy / "checkpoints" / "9").mkdir()
    assert restore_best(copy).step == 6
    message = capsys.readouterr().err
    assert "checkpoints/2 is broken and skipped, 1: metadata.json is missing" in message
    assert "checkpoints/9 is broken and skipped, 1: manifest.json is missing" in message


def test_a_rotten_config_changes_nothing_that_is_restored(copy: Path, small_dml: ConfigDict) -> None:
    path = copy / "config.json"
    path.write_text(path.read_text().replace('"mean": 0.5', '"mean": 0.7'))
    assert restore_best(copy).config.data.mean == 0.5
    with pytest.raises(CheckpointError, match=r"data\.mean: 0\.7 then, 0\.5 now"):
        claim_workdir(copy, small_dml)


def test_what_orbax_gives_back_is_held_against_what_it_was_given(
    copy: Path, small_dml: ConfigDict, monkeypatch
) -> None:
    load = checkpoints_module.ocp.load_checkpointables

    def one_bit_off(*args: Any) -> Any:
        loaded = load(*args)
        loaded["networks"]["net1"]["params"]["head"]["bias"].view(np.uint8)[5] ^= 1
        return loaded

    monkeypatch.setattr(checkpoints_module.ocp, "load_checkpointables", one_bit_off)
    with pytest.raises(CheckpointError, match="is not what was saved, 1: networks/net1/params/head/bias"):
        Checkpoints(copy).restore(6, states_at(small_dml, 0))


def test_what_is_kept() -> None:
    assert to_keep({2: 0.5}) == {2}
    assert to_keep({2: 0.7, 4: 0.7, 6: 0.5, 8: 0.6}) == {2, 6, 8}  # of equal ones the first
    assert to_keep({2: 0.5, 3: None, 5: None}) == {2, 3, 5}  # an interrupted step is never the best
    assert to_keep({3: None}) == {3}


def test_an_interrupted_save_is_not_taken_for_the_best(small_dml: ConfigDict, tmp_path: Path) -> None:
    claim_workdir(tmp_path, small_dml)
    checkpoints = Checkpoints(tmp_path, writing=True)
    checkpoints.save(1, states_at(small_dml, 1), None, metadata_at(1))
    with pytest.raises(CheckpointError, match="no checkpoint that was validated"):
        restore_best(tmp_path)
    checkpoints.save(2, states_at(small_dml, 2), 0.4, metadata_at(2))
    checkpoints.save(3, states_at(small_dml, 3), None, metadata_at(3))
    assert (Checkpoints(tmp_path).latest, restore_best(tmp_path).step) == (3, 2)


def test_a_broken_step_is_replaced_when_the_run_comes_by_again(copy: Path, small_dml: ConfigDict, capsys) -> None:
    (copy / "checkpoints" / "6" / "metadata.json").unlink()
    Checkpoints(copy, writing=True).save(6, states_at(small_dml, 6), 0.65, metadata_at(6))
    capsys.readouterr()
    assert Checkpoints(copy).latest == 6
    assert "broken" not in capsys.readouterr().err


def test_what_killed_saves_and_removals_left_is_removed_by_the_next_run_alone(copy: Path) -> None:
    for name in ("8.partial", "2.removed"):
        shutil.copytree(copy / "checkpoints" / "6", copy / "checkpoints" / name)
    assert Checkpoints(copy).latest == 6
    assert (copy / "checkpoints" / "8.partial").exists()  # another process may be writing it
    Checkpoints(copy, writing=True)
    assert {path.name for path in (copy / "checkpoints").iterdir()} == {"2", "4", "6"}


def test_weights_that_are_not_finite_are_not_saved(copy: Path, small_dml: ConfigDict) -> None:
    states = states_at(small_dml, 8)
    states["net2"].params["head"]["bias"] = states["net2"].params["head"]["bias"].at[3].set(np.inf)
    with pytest.raises(TrainingError, match=r"step 8 is not saved: .* 1: networks/net2/params/head/bias"):
        Checkpoints(copy, writing=True).save(8, states, 0.9, metadata_at(8))
    assert {path.name for path in (copy / "checkpoints").iterdir()} == {"2", "4", "6"}


def verify(workdir: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chexjax.training.checkpoints", "--verify", str(workdir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_verify_command(copy: Path, small_dml: ConfigDict, phantom_folder: Path, tmp_path: Path) -> None:
    small_dml.data.update({"source": "chestxray14", "dir": str(phantom_folder), "cache": str(tmp_path / "cache")})
    films = open_films(small_dml.data)
    (copy / "config.json").write_text(small_dml.to_json())
    Checkpoints(copy, writing=True).save(8, states_at(small_dml, 8), 0.9, {**metadata_at(8), "data": films.digest})
    good = verify(copy)
    assert good.returncode == 0, good.stderr
    assert [line.rpartition(": ")[2] for line in good.stdout.splitlines()] == ["intact"] * 3  # 6, 8 and the films
    assert str(films.path) in good.stdout

    records = next(films.path.glob("*train.array_record*"))
    content = bytearray(records.read_bytes())
    content[len(content) // 2] ^= 1
    records.write_bytes(content)
    (copy / "checkpoints" / "6" / "config.json").write_text("{}")
    bad = verify(copy)
    assert bad.returncode == 1
    assert f"{copy / 'checkpoints' / '6'}: BROKEN\n  config.json has 2 bytes of " in bad.stdout
    assert f"{films.path}: BROKEN\n  {records.name} is not what was written" in bad.stdout
    assert bad.stderr.startswith("error: not as they were written, 2: ")
    assert verify(tmp_path / "none").returncode == 1
