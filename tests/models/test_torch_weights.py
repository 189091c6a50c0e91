"""Imported weights give torch's numbers: logits, gradients, ten steps; and what does not fit is told in full."""

import json
import os
import pickle
import re
import subprocess
import sys
import warnings
from collections import OrderedDict
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from chexjax.errors import CheckpointError, ConfigError
from chexjax.export import to_torch
from chexjax.findings import FINDINGS
from chexjax.models import create_model
from chexjax.models.layers import Conv
from chexjax.models.torch_weights import (
    ABOUT,
    IMAGENET_MEAN,
    IMAGENET_STD,
    convert_state_dict,
    import_file,
    load_weights,
    read_state_dict,
    to_state_dict,
    torch_names,
)
from chexjax.workdir.restore import restore_best

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[torch]'")

from tests.torch_networks import create_torch_network, shake  # noqa: E402  # it imports torch

FIVE = ("resnet18", "resnet34", "resnet50", "densenet121", "densenet169")
LATER = ("resnet101", "resnet152", "densenet201", "mobilenet_v2", "convnext_tiny", "convnext_small")
SOAK = bool(os.environ.get("CHEXJAX_SOAK"))
MEAN, STD = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)


def numpy_dict(network) -> dict[str, np.ndarray]:
    return {key: value.numpy().copy() for key, value in network.state_dict().items()}


def logits_of(network, x: np.ndarray) -> np.ndarray:
    """Of a torch network, for films (batch, height, width, channels)."""
    with torch.no_grad():
        return network.eval()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()


# A DenseNet compiles for ten seconds a shape, so every size of every network only where CHEXJAX_SOAK is set.
BOUNDED = {
    "resnet18": [(224, 3), (320, 1), (224, 1), (320, 3)],
    "resnet34": [(224, 1)],
    "resnet50": [(224, 3), (320, 1)],
    "densenet121": [(224, 3), (320, 1)],
    "densenet169": [(224, 1)],
}
FORMS = [(name, *form) for name in FIVE for form in BOUNDED["resnet18" if SOAK else name]]
FORMS += [(name, 224, 3) for name in ("mobilenet_v2", "convnext_tiny")]
FORMS += [("mobilenet_v2", 96, 1), ("convnext_tiny", 95, 1), ("convnext_small", 64, 3)]
FORMS += [("resnet101", 64, 3), ("resnet152", 64, 1), ("densenet201", 64, 1)]


@pytest.mark.parametrize(("name", "size", "channels"), FORMS)
def test_logits_are_torchs(name: str, size: int, channels: int) -> None:
    """With one channel, the folded stem against torch's three on the replicated film, border included."""
    network = shake(create_torch_network(name))
    grey = np.random.default_rng(size).integers(0, 256, (2, size, size, 1)).astype(np.float32) / 255
    expected = logits_of(network, (grey - MEAN) / STD)
    variables = convert_state_dict(name, numpy_dict(network), input_channels=channels)
    x = (grey - MEAN) / STD if channels == 3 else (grey - 0.5) / 0.25
    found = jax.jit(create_model(name).apply)(variables, x)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def parity(name: str, dtype: str) -> dict[str, float]:
    """How far apart ten steps are, by `tests/torch_parity.py` in a process of its own."""
    command = [sys.executable, "-m", "tests.torch_parity", name, dtype]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", FIVE if SOAK else ["resnet18", "densenet-tiny"])
def test_gradients_and_ten_steps_are_torchs(name: str) -> None:
    """In training mode and float64: the gradient of every parameter, and all that ten steps of SGD move."""
    apart = parity(name, "float64")
    assert apart["gradients"] < 1e-8
    assert apart["losses"] < 1e-10
    assert apart["weights and statistics"] < 1e-10
    assert apart["moved"] > 0.001


@pytest.mark.parametrize("name", FIVE if SOAK else ["resnet18"])
def test_ten_steps_in_single_precision(name: str) -> None:
    """The loss curves; a ReLU's input may round across zero, so gradients are judged in float64 alone.

    Where rounding takes torch itself further than 1e-3 from its own float64 (ResNet-50), some times as far as that.
    """
    apart = parity(name, "float32")
    assert apart["losses"] < max(1e-3, 4 * apart["rounding"])
    assert apart["moved"] > 0.001


# Keys


@pytest.fixture(scope="module")
def resnet() -> dict[str, np.ndarray]:
    return numpy_dict(shake(create_torch_network("resnet18")))


@pytest.fixture(scope="module")
def densenet() -> dict[str, np.ndarray]:
    return numpy_dict(shake(create_torch_network("densenet121")))


def assert_same(found, expected) -> None:
    found, expected = flatten_dict(found), flatten_dict(expected)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value)


@pytest.mark.parametrize("name", FIVE + LATER)
def test_names_and_shapes_are_those_of_torch(name: str) -> None:
    network = create_torch_network(name)
    theirs = {key: tuple(x.shape) for key, x in network.state_dict().items() if "num_batches" not in key}
    assert {slot.name: slot.shape for slot in torch_names(name).values()} == theirs


def old_style(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As torchvision's densenet121-a639ec97.pth has it; without the counts, which came with torch 0.4.1."""
    renamed = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key): x for key, x in weights.items()}
    return {key: x for key, x in renamed.items() if not key.endswith("num_batches_tracked")}


def chexnet(weights: dict[str, np.ndarray]) -> dict[str, object]:
    """As arnoweng's and zoogzog's model.pth.tar have it: DataParallel, a wrapper, a head in a Sequential."""
    old = {key.replace("classifier.", "classifier.0."): x for key, x in old_style(weights).items()}
    wrapped = OrderedDict((f"module.densenet121.{key}", x) for key, x in old.items())
    return {"epoch": 3, "best_loss": 0.2, "state_dict": wrapped, "optimizer": {"state": {}, "param_groups": []}}


@pytest.mark.parametrize("style", [old_style, chexnet, lambda w: {f"module.{k}": x for k, x in w.items()}])
def test_every_style_of_keys_gives_the_same_variables(densenet, style) -> None:
    assert_same(convert_state_dict("densenet121", style(densenet)), convert_state_dict("densenet121", densenet))


def test_a_resnet_behind_prefixes_and_a_dropout_before_its_head(resnet) -> None:
    renamed = {f"_orig_mod.module.{key.replace('fc.', 'fc.1.')}": x for key, x in resnet.items()}
    assert_same(convert_state_dict("resnet18", {"model": renamed}), convert_state_dict("resnet18", resnet))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pth.tar"])
def test_files_give_what_the_state_dict_gives(densenet, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    tensors = {key: torch.from_numpy(value) for key, value in old_style(densenet).items()}
    if suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(tensors, path)
    else:
        torch.save(chexnet(tensors), path)
    assert_same(convert_state_dict("densenet121", read_state_dict(path)), convert_state_dict("densenet121", densenet))


def test_half_precision_becomes_float32(resnet, tmp_path: Path) -> None:
    halves = {key: torch.from_numpy(x).bfloat16() if x.ndim else torch.tensor(3) for key, x in resnet.items()}
    pytest.importorskip("safetensors.torch").save_file(halves, tmp_path / "half.safetensors")
    expected = {key: x.float().numpy() for key, x in halves.items()}
    for source in (halves, read_state_dict(tmp_path / "half.safetensors")):
        assert_same(convert_state_dict("resnet18", source), convert_state_dict("resnet18", expected))


def test_everything_that_does_not_fit_is_listed(resnet) -> None:
    broken = dict(resnet)
    gone = [key for key in resnet if key.startswith("layer3.") and not key.endswith("num_batches_tracked")]
    for key in gone:
        del broken[key]
    extra = [f"extra{k}.weight" for k in range(12)]
    broken |= dict.fromkeys(extra, np.zeros(3))
    broken["bn1.weight"] = np.zeros(63)
    broken["layer1.0.bn1.running_var"] = np.full(64, np.nan)
    with pytest.raises(CheckpointError) as caught:
        convert_state_dict("resnet18", broken)
    told = str(caught.value)
    assert all(key in told for key in (*gone, *extra))  # all, not the first ten
    assert "bn1.weight (63,) for (64,)" in told
    assert "not finite 1: layer1.0.bn1.running_var" in told


def test_weights_of_another_network_are_refused(resnet, densenet) -> None:
    with pytest.raises(CheckpointError, match=r"not the weights of a resnet34\nmissing \d+: .*layer4\.2\.bn2"):
        convert_state_dict("resnet34", resnet)
    with pytest.raises(CheckpointError, match=r"missing .*\nunexpected .*features\.conv0\.weight"):
        convert_state_dict("resnet18", densenet)
    with pytest.raises(CheckpointError, match=r"features.conv0.weight \(64, 4, 7, 7\) for \(64, 1, 7, 7\)"):
        convert_state_dict("densenet121", densenet | {"features.conv0.weight": np.zeros((64, 4, 7, 7))}, 1)
    with pytest.raises(ConfigError, match="no network is called 'vgg16'"):
        convert_state_dict("vgg16", resnet)
    with pytest.raises(ConfigError, match="input_channels is 2"):
        convert_state_dict("resnet18", resnet, 2)


def test_two_keys_for_one_array_are_refused(densenet) -> None:
    twice = densenet | {"features.denseblock1.denselayer1.norm.1.weight": np.ones(64)}
    with pytest.raises(CheckpointError, match=r"both stand for features.denseblock1.denselayer1.norm1.weight"):
        convert_state_dict("densenet121", twice)


# The head


def with_head(weights, outputs: int) -> dict[str, np.ndarray]:
    return weights | {"fc.weight": np.ones((outputs, 512)), "fc.bias": np.ones(outputs)}


def test_a_head_of_another_size_is_dropped_by_name(resnet) -> None:
    with pytest.warns(UserWarning, match=r"head is dropped \(fc.weight, fc.bias\)"):
        found = convert_state_dict("resnet18", with_head(resnet, 1000))
    assert set(found["params"]) == {"trunk"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what is asked for is no surprise
        assert set(convert_state_dict("resnet18", with_head(resnet, 1000), head=False)["params"]) == {"trunk"}
        kept = convert_state_dict("resnet18", with_head(resnet, 1000), num_outputs=1000)
    assert kept["params"]["head"]["kernel"].shape == (512, 1000)


def test_a_head_of_other_findings_is_kept_with_their_names(resnet, tmp_path: Path) -> None:
    few = {key: x[:3] if key.startswith("fc.") else x for key, x in resnet.items()}
    torch.save({key: torch.from_numpy(x) for key, x in few.items()}, tmp_path / "few.pth")
    for name, path, findings in (("few", "few.pth", ("Rust", "Moss", "Hernia")), ("back", "all.pth", FINDINGS[::-1])):
        if name == "back":
            torch.save({key: torch.from_numpy(x) for key, x in resnet.items()}, tmp_path / path)
        import_file("resnet18", tmp_path / path, tmp_path / name, 32, findings=findings)
        variables, about = load_weights(tmp_path / name)
        assert about.findings == findings
        assert variables["params"]["head"]["bias"].tolist() == resnet["fc.bias"][: len(findings)].tolist()
        restored = restore_best(tmp_path / name)
        assert restored.findings == findings
        assert restored.models["net1"].num_outputs == len(findings)
        arrays, told = to_torch(restored, "net1", 3)
        assert json.loads(told["findings"]) == list(findings)
        assert len(arrays["fc.bias"]) == len(findings)
    with pytest.raises(ConfigError, match="'Rust' is there twice"):
        import_file("resnet18", tmp_path / "few.pth", tmp_path / "c", 32, findings=("Rust", "Rust", "Moss"))
    about = json.loads((tmp_path / "back" / ABOUT).read_text())
    del about["findings"]  # as a folder of before they were kept has it
    (tmp_path / "back" / ABOUT).write_text(json.dumps(about))
    assert load_weights(tmp_path / "back")[1].findings == FINDINGS


def test_a_head_that_is_absent_is_missing_unless_none_is_wanted(resnet) -> None:
    trunk = {key: x for key, x in resnet.items() if not key.startswith("fc.")}
    with pytest.raises(CheckpointError, match=r"missing 2: fc.bias, fc.weight|missing 2: fc.weight, fc.bias"):
        convert_state_dict("resnet18", trunk)
    assert "head" not in convert_state_dict("resnet18", trunk, head=False)["params"]


# The grey stem


def test_the_folded_stem_is_exact_at_the_border_too(resnet) -> None:
    """The stem's own output against torch's in float64: the border has no tolerance that the middle has not."""
    grey = np.random.default_rng(0).uniform(size=(1, 20, 22, 1))
    x = torch.from_numpy(((grey - np.float64(IMAGENET_MEAN)) / IMAGENET_STD).transpose(0, 3, 1, 2))
    weight = torch.from_numpy(resnet["conv1.weight"]).double()
    expected = torch.nn.functional.conv2d(x, weight, stride=2, padding=3).numpy().transpose(0, 2, 3, 1)
    stem = convert_state_dict("resnet18", resnet, 1, mean=0.3, std=0.2)["params"]["trunk"]["conv1"]
    assert stem["kernel"].shape == stem["offset"].shape == (7, 7, 1, 64)
    film = ((grey - 0.3) / 0.2).astype(np.float32)
    found = Conv(64, 7, 2).apply({"params": stem}, film)
    np.testing.assert_allclose(found, expected, atol=3e-6 * np.abs(expected).max())
    # What a single kernel with a constant would give: right in the middle, wrong at the border.
    constant = stem["offset"].sum((0, 1, 2))
    without = Conv(64, 7, 2).apply({"params": {"kernel": stem["kernel"]}}, film) + constant
    np.testing.assert_allclose(without[:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2], atol=3e-6 * np.abs(expected).max())
    assert np.abs(without - expected).max() > 0.05 * np.abs(expected).max()


def test_a_grey_stem_stays_or_is_brought_to_our_normalisation(resnet) -> None:
    grey = resnet | {"conv1.weight": resnet["conv1.weight"][:, :1]}
    stem = convert_state_dict("resnet18", grey, 1)["params"]["trunk"]["conv1"]
    np.testing.assert_array_equal(stem["kernel"], grey["conv1.weight"].transpose(2, 3, 1, 0))
    assert set(stem) == {"kernel"}
    moved = convert_state_dict("resnet18", grey, 1, source_mean=[0.1], source_std=[0.3])["params"]["trunk"]["conv1"]
    film = np.random.default_rng(0).uniform(size=(1, 16, 16, 1)).astype(np.float32)
    expected = Conv(64, 7, 2).apply({"params": stem}, (film - 0.1) / 0.3)
    found = Conv(64, 7, 2).apply({"params": moved}, (film - 0.5) / 0.25)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_offset_learns_too(resnet) -> None:
    stem = convert_state_dict("resnet18", resnet, 1)["params"]["trunk"]["conv1"]
    film = np.ones((2, 8, 8, 1), np.float32)
    gradient = jax.grad(lambda p: Conv(64, 7, 2).apply({"params": p}, film).sum())(stem)["offset"]
    # A place of the kernel is inside the film once for each output that it serves: the middle always, a corner less.
    assert gradient[3, 3, 0, 0] == 2 * 4 * 4
    assert gradient[0, 0, 0, 0] == 2 * 2 * 2


@pytest.mark.parametrize(("name", "stem"), [("mobilenet_v2", "features.0.0"), ("convnext_tiny", "features.0.0")])
def test_other_stems_fold_and_unfold_too(name: str, stem: str) -> None:
    network = shake(create_torch_network(name))
    weights = numpy_dict(network)
    films = (np.random.default_rng(0).uniform(size=(2, 64, 64, 1)).astype(np.float32) - MEAN) / STD
    expected = logits_of(network, films)
    back = to_state_dict(name, convert_state_dict(name, weights, 1), channels=3)
    assert np.abs(back[f"{stem}.weight"] - weights[f"{stem}.weight"]).max() > 1e-3
    network.load_state_dict({key: torch.from_numpy(x) for key, x in back.items()})
    np.testing.assert_allclose(logits_of(network, films), expected, atol=1e-4 * np.abs(expected).max())


def test_a_head_behind_a_norm_is_dropped_alone() -> None:
    weights = numpy_dict(create_torch_network("convnext_tiny", num_outputs=1000))
    with pytest.warns(UserWarning, match=r"dropped \(classifier\.2\.weight, classifier\.2\.bias\)"):
        variables = convert_state_dict("convnext_tiny", weights)
    assert set(variables["params"]) == {"trunk", "norm"}


# There and back


@pytest.mark.parametrize("name", ["densenet121", *LATER])
def test_a_state_dict_survives_the_way_there_and_back(name: str) -> None:
    weights = numpy_dict(shake(create_torch_network(name)))
    back = to_state_dict(name, convert_state_dict(name, weights), channels=3)
    assert back.keys() == weights.keys()
    for key, value in weights.items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(back[key], value)


def test_a_folded_stem_unfolds_to_one_that_acts_the_same(resnet) -> None:
    network = create_torch_network("resnet18")
    network.load_state_dict({key: torch.from_numpy(x) for key, x in resnet.items()})
    films = (np.random.default_rng(0).uniform(size=(2, 64, 64, 1)).astype(np.float32) - MEAN) / STD
    expected = logits_of(network, films)
    folded = convert_state_dict("resnet18", resnet, 1, mean=0.3, std=0.2)
    back = to_state_dict("resnet18", folded, channels=3, mean=0.3, std=0.2)
    assert np.abs(back["conv1.weight"] - resnet["conv1.weight"]).max() > 1e-3  # one of many that do
    network.load_state_dict({key: torch.from_numpy(x) for key, x in back.items()})
    np.testing.assert_allclose(logits_of(network, films), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="has an offset"):
        to_state_dict("resnet18", folded, channels=1)
    with pytest.raises(ConfigError, match="sees 3 channels"):
        to_state_dict("resnet18", convert_state_dict("resnet18", resnet), channels=1)


# Files and the command


class Harmful:
    def __reduce__(self):
        return (os.system, ("touch HARM",))


def test_nothing_but_tensors_is_unpickled(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "more": Harmful()}, "harmful.pth")
    with pytest.raises(CheckpointError, match="nothing else is unpickled"):
        read_state_dict(Path("harmful.pth"))
    Path("raw.pth").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(CheckpointError, match=r"raw\.pth does not load"):
        read_state_dict(Path("raw.pth"))
    assert not Path("HARM").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_broken_file_is_told(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("safetensors")
    path = tmp_path / f"broken{suffix}"
    with pytest.raises(CheckpointError, match="no such file"):
        read_state_dict(path)
    path.write_bytes(b"\x80\x02not a file of weights")
    with pytest.raises(CheckpointError, match=f"broken{suffix}"):
        read_state_dict(path)


def test_a_checkpoint_of_something_else_is_told(tmp_path: Path) -> None:
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="no state dict but list"):
        read_state_dict(tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="the key epoch holds no array but int"):
        convert_state_dict("resnet18", {"epoch": 3})


def test_the_command_imports_a_file(densenet, tmp_path: Path) -> None:
    torch.save(chexnet({key: torch.from_numpy(x) for key, x in densenet.items()}), tmp_path / "model.pth.tar")
    command = [sys.executable, "-m", "chexjax.models.torch_weights", "--model=densenet121"]
    command += [str(tmp_path / "model.pth.tar"), f"--out={tmp_path / 'imported'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "with its head" in done.stdout
    assert done.stderr == ""
    variables, about = load_weights(tmp_path / "imported")
    assert_same(variables, convert_state_dict("densenet121", densenet, 1))
    assert (about.model, about.mean, about.std, about.source) == ("densenet121", 0.5, 0.25, "model.pth.tar")
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1
    assert again.stderr.startswith("error: ")
    assert "Traceback" not in again.stderr


def test_an_import_tells_of_a_dropped_head(resnet, tmp_path: Path, capsys) -> None:
    torch.save({key: torch.from_numpy(x) for key, x in with_head(resnet, 1000).items()}, tmp_path / "a.pth")
    import_file("resnet18", tmp_path / "a.pth", tmp_path / "out")
    assert "the head is dropped (fc.weight, fc.bias)" in capsys.readouterr().out


def test_a_broken_folder_of_weights_is_told(resnet, tmp_path: Path) -> None:
    torch.save({key: torch.from_numpy(x) for key, x in resnet.items()}, tmp_path / "a.pth")
    import_file("resnet18", tmp_path / "a.pth", tmp_path / "out")
    with pytest.raises(CheckpointError, match="no imported weights"):
        load_weights(tmp_path)
    arrays = bytearray((tmp_path / "out" / "weights.npz").read_bytes())
    arrays[len(arrays) // 2] ^= 1
    (tmp_path / "out" / "weights.npz").write_bytes(arrays)
    with pytest.raises(CheckpointError, match="no imported weights"):
        load_weights(tmp_path / "out")
