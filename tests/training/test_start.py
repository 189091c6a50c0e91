"""A run that starts from other weights gives their numbers, and takes nothing that does not fit."""

import copy
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from chexjax.configs import common
from chexjax.data.augment import normalize
from chexjax.errors import CheckpointError
from chexjax.findings import FINDINGS, SPECIALIST_GROUPS
from chexjax.models.configured import create_variables
from chexjax.models.network import by_names
from chexjax.models.torch_weights import About, save_weights, torch_names
from chexjax.training import loop
from chexjax.training.start import start_from
from chexjax.training.state import create_network, create_optimizer, create_state, for_branches
from chexjax.training.targets import is_table
from chexjax.workdir.checkpoints import Checkpoints
from chexjax.workdir.restore import restore_best
from tests.untrained import save_untrained

SHAPE = (32, 32, 1)
GREY = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)


def started(config: ConfigDict, name: str, groups=None):
    model = create_network(config, name, groups)
    return model, start_from(config, name, model, create_state(config, name, model, SHAPE, 10), SHAPE, FINDINGS)


def logits_of(workdir: Path, name: str) -> np.ndarray:
    restored = restore_best(workdir)
    x = normalize(GREY, restored.config.data.mean, restored.config.data.std)
    return np.asarray(restored.models[name].apply(restored.variables[name], x))


@pytest.fixture
def earlier(small_baseline: ConfigDict, tmp_path: Path) -> Path:
    """A workdir of another normalisation than the default."""
    config = copy.deepcopy(small_baseline)
    config.seed = 9
    config.data.update({"mean": 0.3, "std": 0.4})
    return save_untrained(config, tmp_path / "earlier")


def test_each_network_of_a_pair_starts_from_its_own(
    small_dml: ConfigDict, earlier: Path, tmp_path: Path, capsys
) -> None:
    pair = save_untrained(copy.deepcopy(small_dml), tmp_path / "pair")
    small_dml.seed = 5
    small_dml.init_from = str(pair)
    small_dml.networks.net1.init_from = str(earlier)
    for name, source in (("net1", earlier), ("net2", pair)):
        model, state = started(small_dml, name)
        found = model.apply(state.variables, normalize(GREY, small_dml.data.mean, small_dml.data.std))
        np.testing.assert_allclose(found, logits_of(source, name), rtol=1e-4, atol=1e-5)
    assert f"net2: starts from {pair}, head included" in capsys.readouterr().out


def test_without_a_source_the_weights_are_new(small_baseline: ConfigDict) -> None:
    model = create_network(small_baseline, "net1")
    state = create_state(small_baseline, "net1", model, SHAPE, 10)
    assert start_from(small_baseline, "net1", model, state, SHAPE, FINDINGS) is state
    assert "offset" not in state.params["trunk"]["conv1"]


def test_a_head_that_was_left_out_is_new(small_baseline: ConfigDict, earlier: Path, tmp_path: Path, capsys) -> None:
    variables = dict(restore_best(earlier).variables["net1"])
    trunk = {**variables, "params": {"trunk": variables["params"]["trunk"]}}
    save_weights(tmp_path / "imported", trunk, About("tiny", 0.3, 0.4, "file.pth"))
    small_baseline.init_from = str(tmp_path / "imported")
    _, state = started(small_baseline, "net1")
    assert "new head" in capsys.readouterr().out
    small_baseline.init_from = ""
    fresh = create_state(small_baseline, "net1", create_network(small_baseline, "net1"), SHAPE, 10)
    jax.tree.map(np.testing.assert_array_equal, state.params["head"], fresh.params["head"])
    block = "layer1_0"
    jax.tree.map(np.testing.assert_array_equal, state.params["trunk"][block], variables["params"]["trunk"][block])


@pytest.mark.parametrize("groups", [None, ((0, 3, 5), tuple(k for k in range(14) if k not in (0, 3, 5)))])
def test_arrays_left_out_on_import_are_drawn_anew(small_baseline: ConfigDict, tmp_path: Path, capsys, groups) -> None:
    """layer4 is as a new network has it, the rest as imported; in each branch, too."""
    network = small_baseline.networks.net1
    network.update({"model": "resnet18"})
    whole = create_variables(create_network(small_baseline, "net1"), 77, 0, SHAPE)
    names = tuple(slot.name for slot in torch_names("resnet18").values() if slot.name.startswith("layer4."))
    part = {
        collection: {"trunk": {k: v for k, v in whole[collection]["trunk"].items() if not k.startswith("layer4")}}
        for collection in whole
    }
    save_weights(tmp_path / "part", jax.tree.map(np.asarray, part), About("resnet18", 0.5, 0.25, "a", fresh=names))
    with network.ignore_type():
        network.shared_stages = groups and 1
    model = create_network(small_baseline, "net1", groups)
    fresh = create_state(small_baseline, "net1", model, SHAPE, 10)
    small_baseline.init_from = str(tmp_path / "part")
    _, state = started(small_baseline, "net1", groups)
    assert "new head, drawn anew: 25: trunk/layer4_" in capsys.readouterr().out
    now, was = (flatten_dict({"p": s.params, "s": s.collections["batch_stats"]}, sep="/") for s in (state, fresh))
    imported = flatten_dict({"p": whole["params"], "s": whole["batch_stats"]}, sep="/")
    for path in now:
        if "layer4" in path or "/head/" in path:
            np.testing.assert_array_equal(now[path], was[path])
        elif not path.endswith("offset"):
            ours = imported[path.replace("/branch/", "/").replace("/shared/", "/trunk/")]
            np.testing.assert_array_equal(now[path], np.broadcast_to(ours, now[path].shape))
    with pytest.raises(CheckpointError, match=r"holds resnet18 without (a head|25)"):
        restore_best(tmp_path / "part")


def test_a_file_of_weights_is_told_to_be_imported_first(small_baseline: ConfigDict, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.pth").write_bytes(b"\x80")
    for path in (tmp_path / "folder" / "a.pth", tmp_path / "folder"):
        with pytest.raises(CheckpointError, match=r"import weights first.*torch_weights --model=MODEL .*a\.pth --out"):
            restore_best(path)
        small_baseline.init_from = str(path)
        with pytest.raises(CheckpointError, match=r"init_from of net1: .*\nimport weights first"):
            started(small_baseline, "net1")
    assert not is_table(str(tmp_path / "folder" / "a.pth"))  # as config.teacher


def test_what_lies_in_a_workdir_is_told_apart_from_weights(earlier: Path, tmp_path: Path) -> None:
    (step,) = (earlier / "checkpoints").glob("[0-9]*")
    save_weights(tmp_path / "imported", restore_best(earlier).variables["net1"], About("tiny", 0.4, 0.3, "file.pth"))
    for path in (earlier / "config.json", earlier / "checkpoints", step, step / "config.json"):
        with pytest.raises(CheckpointError, match=rf"lies in a workdir; name that: {re.escape(str(earlier))}$"):
            restore_best(path)
    with pytest.raises(CheckpointError, match=rf"name that: {re.escape(str(tmp_path / 'imported'))}$"):
        restore_best(tmp_path / "imported" / "weights.npz")


def test_a_head_of_other_findings_is_new_and_one_in_another_order_is_put_in_order(
    small_baseline: ConfigDict, earlier: Path, tmp_path: Path, capsys
) -> None:
    variables = restore_best(earlier).variables["net1"]
    small_baseline.init_from = str(tmp_path / "others")
    save_weights(tmp_path / "others", variables, About("tiny", 0.4, 0.3, "file.pth", findings=("x", *FINDINGS[1:])))
    _, state = started(small_baseline, "net1")
    assert "new head; its own predicts 14: x, Cardiomegaly, " in capsys.readouterr().out
    block = "layer1_0"
    jax.tree.map(np.testing.assert_array_equal, state.params["trunk"][block], variables["params"]["trunk"][block])
    fresh = create_state(small_baseline, "net1", create_network(small_baseline, "net1"), SHAPE, 10)
    jax.tree.map(np.testing.assert_array_equal, state.params["head"], fresh.params["head"])
    small_baseline.init_from = str(tmp_path / "back")
    save_weights(tmp_path / "back", variables, About("tiny", 0.4, 0.3, "file.pth", findings=FINDINGS[::-1]))
    _, state = started(small_baseline, "net1")
    for key, leaf in variables["params"]["head"].items():
        np.testing.assert_array_equal(state.params["head"][key], np.asarray(leaf)[..., ::-1])


def test_what_does_not_fit_is_listed(small_baseline: ConfigDict, earlier: Path, tmp_path: Path) -> None:
    small_baseline.init_from = str(earlier)
    small_baseline.networks.net1.width = 0.25
    with pytest.raises(CheckpointError, match=r"from which net1 is to start.*misshaped \d+: .*params/trunk"):
        started(small_baseline, "net1")
    small_baseline.init_from = str(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"init_from of net1: .*nowhere is no workdir"):
        started(small_baseline, "net1")


def test_a_pair_does_not_tell_which_is_meant(small_dml: ConfigDict, small_baseline: ConfigDict, tmp_path: Path) -> None:
    pair = save_untrained(small_dml, tmp_path / "pair")
    small_baseline.networks = ConfigDict({"other": small_baseline.networks.net1})
    small_baseline.init_from = str(pair)
    with pytest.raises(CheckpointError, match="holds net1, net2, and none is called other"):
        started(small_baseline, "other")


def test_specialists_start_from_one_whole_network(small_baseline: ConfigDict, earlier: Path) -> None:
    small_baseline.init_from = str(earlier)
    small_baseline.networks.net1.shared_stages = 0
    indices = list(range(len(FINDINGS)))
    model, state = started(small_baseline, "net1", (tuple(indices[5:]), tuple(indices[:5])))
    found = model.apply(state.variables, normalize(GREY, small_baseline.data.mean, small_baseline.data.std))
    np.testing.assert_allclose(found, logits_of(earlier, "net1"), rtol=1e-4, atol=1e-5)


def test_resume_comes_before_init_from_and_is_exact(
    small_baseline: ConfigDict, earlier: Path, phantom_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    """A stopped run goes on without its source, and ends with the weights of one that was not stopped."""
    config, source = small_baseline, {"source": "chestxray14", "dir": str(phantom_folder)}
    config.data.update({**source, "cache": str(tmp_path / "cache"), "val_fraction": 0.3})
    config.update({"init_from": str(earlier), "max_steps": 4, "eval_epochs": 0.5})
    loop.train(config, tmp_path / "through")
    add = loop.Window.add

    def stop(self, step, *args):
        if step == 2:  # the first step of a call
            raise KeyboardInterrupt
        add(self, step, *args)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Window, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            loop.train(config, tmp_path / "stopped")
    shutil.rmtree(earlier)
    loop.train(config, tmp_path / "stopped")
    ends = []
    for workdir in ("through", "stopped"):
        checkpoints = Checkpoints(tmp_path / workdir)
        ends.append(checkpoints._load(4, ("networks", "training")))
    jax.tree.map(np.testing.assert_array_equal, *ends)
    restore_best(tmp_path / "stopped")  # nor does evaluation need the source


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_head_has_a_learning_rate_of_its_own(optimizer: str) -> None:
    params = {part: {"kernel": np.full((2, 2), 2.0, np.float32)} for part in ("trunk", "head")}

    def moved(rate: float, head_rate: float) -> dict:
        network = common.network("resnet18", seed=1)
        network.update({"optimizer": optimizer, "learning_rate": rate, "head_learning_rate": head_rate})
        rule = create_optimizer(network, steps=10)
        memory, now = rule.init(params), params
        for _ in range(3):
            updates, memory = rule.update(now, memory, now)
            now = optax.apply_updates(now, updates)
        return now

    both = moved(0.01, 0.1)
    np.testing.assert_allclose(both["trunk"]["kernel"], moved(0.01, 0.0)["trunk"]["kernel"], rtol=1e-6)
    np.testing.assert_allclose(both["head"]["kernel"], moved(0.1, 0.0)["head"]["kernel"], rtol=1e-5)


def test_another_kind_of_network_is_refused(small_baseline: ConfigDict, earlier: Path) -> None:
    small_baseline.init_from = str(earlier)
    small_baseline.networks.net1.model = "densenet121"
    with pytest.raises(CheckpointError, match=f"init_from of net1: {earlier} holds no densenet121: it lacks 'conv0'"):
        started(small_baseline, "net1")


def test_branches_for_other_groups_are_refused(small_baseline: ConfigDict, tmp_path: Path) -> None:
    """Heads of equal shape would otherwise predict findings that they never learned."""
    small_baseline.networks.net1.shared_stages = 0
    groups = by_names(SPECIALIST_GROUPS, FINDINGS)
    source = save_untrained(copy.deepcopy(small_baseline), tmp_path / "source")
    small_baseline.init_from = str(source)
    started(small_baseline, "net1", groups)
    swap = {groups[0][0]: groups[1][0], groups[1][0]: groups[0][0]}
    others = tuple(tuple(swap.get(output, output) for output in group) for group in groups)
    with pytest.raises(CheckpointError, match="are for other groups of findings than this run's"):
        started(small_baseline, "net1", others)


def test_the_heads_of_branches_have_it_too() -> None:
    network = common.network("resnet18", seed=1)
    network.update({"optimizer": "sgd", "learning_rate": 0.01, "head_learning_rate": 0.1, "momentum": 0.0})
    network.update({"weight_decay": 0.0, "schedule": "constant"})
    rule = for_branches(create_optimizer(network, steps=10))
    ones = np.ones((4, 2, 2), np.float32)
    params = {"shared": {"conv": ones[0]}, "branch": {"trunk": {"conv": ones}, "head": {"kernel": ones}}}
    updates, _ = rule.update(params, rule.init(params), params)
    np.testing.assert_allclose(updates["shared"]["conv"], -0.01, rtol=1e-6)
    np.testing.assert_allclose(updates["branch"]["trunk"]["conv"], -0.01, rtol=1e-6)
    np.testing.assert_allclose(updates["branch"]["head"]["kernel"], -0.1, rtol=1e-6)


@pytest.mark.parametrize("shared_stages", [None, 1])
def test_a_frozen_trunk_stands_still_and_then_moves_as_if_it_began(
    small_baseline: ConfigDict, phantom_folder: Path, tmp_path: Path, shared_stages: int | None
) -> None:
    """Two frozen steps of four, a checkpoint after each, resumed after the third; the head never stands still."""
    config = small_baseline
    config.networks.net1.update({"model": "tiny2", "optimizer": "adamw", "learning_rate": 0.01, "clip_norm": 0.0})
    with config.networks.net1.ignore_type():
        config.networks.net1.shared_stages = shared_stages
    config.data.update({"source": "chestxray14", "dir": str(phantom_folder), "cache": str(tmp_path / "cache")})
    config.data.val_fraction = 0.3
    config.update({"freeze_trunk_epochs": 0.5, "eval_epochs": 0.25, "max_steps": 4})
    loop.train(config, tmp_path / "through")
    kept: dict[int, dict] = {}
    save = Checkpoints.save

    def remember(self, step, states, *rest):
        stopping = step == 3 and step not in kept
        kept[step] = jax.device_get({"params": states["net1"].params, **states["net1"].collections})
        save(self, step, states, *rest)
        if stopping:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Checkpoints, "save", remember)
        with pytest.raises(KeyboardInterrupt):
            loop.train(config, tmp_path / "stopped")
        loop.train(config, tmp_path / "stopped")
    ends = []
    for workdir in ("through", "stopped"):
        checkpoints = Checkpoints(tmp_path / workdir)
        ends.append(checkpoints._load(4, ("networks", "training")))
    jax.tree.map(np.testing.assert_array_equal, *ends)

    groups = None if shared_stages is None else by_names(SPECIALIST_GROUPS, FINDINGS)
    model = create_network(config, "net1", groups)
    start = create_variables(model, config.seed, config.networks.net1.seed, SHAPE)
    was = {key: flatten_dict(dict(start[key]), sep="/") for key in ("params", "batch_stats")}
    now = {step: {key: flatten_dict(tree, sep="/") for key, tree in kept[step].items()} for step in kept}
    for key, value in was["params"].items():
        moved = [not np.array_equal(now[step]["params"][key], value) for step in (1, 2)]
        assert moved == [("head" in key)] * 2, key
        if "head" not in key and "kernel" in key:  # Adam's first step is the gradient's sign, at the rate's full length
            assert np.median(np.abs(now[3]["params"][key] - value)) == pytest.approx(0.01, rel=0.02), key
    for key, value in was["batch_stats"].items():
        np.testing.assert_array_equal(now[2]["batch_stats"][key], value)
        assert not np.array_equal(now[3]["batch_stats"][key], value)
