"""Imported weights give torch's numbers: logits, gradients, ten steps; and what does not fit is told in full."""

import argparse
import collections
import datetime
import decimal
import io
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
    names_in,
    read_state_dict,
    to_state_dict,
    torch_names,
)
from chexjax.models.weight_files import find_tensors
from chexjax.workdir.restore import restore_best

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[torch]'")

from tests.torch_networks import create_torch_network, shake  # noqa: E402  # it imports torch

FIVE = ("resnet18", "resnet34", "resnet50", "densenet121", "densenet169")
LATER = ("resnet101", "resnet152", "densenet201", "mobilenet_v2", "convnext_tiny", "convnext_small")
LATER += ("efficientnet_b0", "efficientnet_b3", "vit_small_16", "vit_base_16", "swin_t", "vit_small_14", "vit_base_14")
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
FORMS += [("efficientnet_b0", 224, 3), ("efficientnet_b3", 95, 1), ("efficientnet_b3", 300, 3)]
FORMS += [("vit_small_16", 224, 3), ("vit_base_16", 224, 3)]
# A Swin pads its maps to whole windows, and shifts those that hold several: 7 x 7, 8 x 8, 10 x 10 and 3 x 3 places.
FORMS += [("swin_t", 224, 3), ("swin_t", 256, 1), ("swin_t", 320, 3), ("swin_t", 95, 1), ("vit_small_14", 518, 1)]


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


TINY = ["densenet-tiny", "efficientnet-tiny", "vit-tiny", "swin-tiny"]


@pytest.mark.parametrize("name", [*FIVE, *TINY] if SOAK else ["resnet18", *TINY])
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
    constants = ("num_batches_tracked", "relative_position_index")
    theirs = {key: tuple(x.shape) for key, x in network.state_dict().items() if not key.endswith(constants)}
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
    extra = [f"layer1.{k}.extra" for k in range(12)]
    broken |= dict.fromkeys(extra, np.zeros(3))
    broken["bn1.weight"] = np.zeros(63)
    with pytest.raises(CheckpointError) as caught:
        convert_state_dict("resnet18", broken)
    message = str(caught.value)
    assert all(key in message for key in (*gone, *extra))  # all, not the first ten
    assert "bn1.weight (63,) for (64,)" in message
    with pytest.raises(CheckpointError, match=r"not finite 1: layer1\.0\.bn1\.running_var"):
        convert_state_dict("resnet18", resnet | {"layer1.0.bn1.running_var": np.full(64, np.nan)})


def test_weights_of_another_network_are_refused(resnet, densenet) -> None:
    with pytest.raises(CheckpointError, match=r"not the weights of resnet34\nmissing \d+: .*layer4\.2\.bn2"):
        convert_state_dict("resnet34", resnet)
    with pytest.raises(CheckpointError, match=r"not the weights of resnet18: .* they have the names of densenet121"):
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


def test_of_a_head_with_more_outputs_ours_are_kept_in_our_order(resnet, tmp_path: Path) -> None:
    """Each output's weights are its own number, so the numbers say which were taken."""
    names = ["Lung Opacity", "", *(name.replace("_", " ").lower() for name in FINDINGS[::-1]), ""]
    weights = resnet | {"fc.weight": np.repeat(np.arange(17.0)[:, None], 512, 1), "fc.bias": np.arange(17.0)}
    found = convert_state_dict("resnet18", weights, findings=names)["params"]["head"]
    np.testing.assert_array_equal(found["bias"], np.arange(15.0, 1.0, -1))
    np.testing.assert_array_equal(found["kernel"][3], found["bias"])
    (tmp_path / "names.txt").write_text("\n".join(names[:-1]) + "\n\n")
    assert list(names_in(str(tmp_path / "names.txt"))) == names
    torch.save({key: torch.from_numpy(np.asarray(x)) for key, x in weights.items()}, tmp_path / "a.pth")
    about = import_file("resnet18", tmp_path / "a.pth", tmp_path / "out", 32, findings=names)
    assert about.findings == FINDINGS
    with pytest.raises(ConfigError, match="16 findings are named, for the 17 outputs"):
        convert_state_dict("resnet18", weights, findings=names[:-1])
    with pytest.raises(ConfigError, match="'Hernia' is there twice"):
        convert_state_dict("resnet18", weights, findings=["hernia", *names[1:]])
    few = convert_state_dict("resnet18", weights, findings=["Rust", *[""] * 15, "Moss"])["params"]["head"]
    assert few["bias"].tolist() == [0, 16]


@pytest.mark.parametrize(
    "text",
    ["Mass\nLung Opacity\n", "Mass, Lung Opacity", '"Mass"\r\n"Lung Opacity"', '["Mass",\n "Lung Opacity"]',
     "['Mass', 'Lung Opacity']", "- Mass\n- Lung Opacity\n"],
)  # fmt: skip
def test_a_list_of_findings_as_it_is_written(tmp_path: Path, text: str) -> None:
    (tmp_path / "names").write_bytes(text.encode())
    assert names_in(str(tmp_path / "names")) == ("Mass", "Lung Opacity")
    if "," in text:
        assert names_in(text) == ("Mass", "Lung Opacity")


@pytest.mark.parametrize("text", ['["Mass", "Edema"', '{"0": "Mass", "1": "Edema"}', "[1, 2]", '[["Mass"], "Edema"]'])
def test_what_is_no_list_of_names_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--findings is no list of names: "):
        names_in(text)


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
        arrays, record = to_torch(restored, "net1", 3)
        assert json.loads(record["findings"]) == list(findings)
        assert len(arrays["fc.bias"]) == len(findings)
    with pytest.raises(ConfigError, match="'Rust' is there twice"):
        import_file("resnet18", tmp_path / "few.pth", tmp_path / "c", 32, findings=("Rust", "Rust", "Moss"))
    about = json.loads((tmp_path / "back" / ABOUT).read_text())
    del about["findings"]  # as a folder of before they were kept has it
    (tmp_path / "back" / ABOUT).write_text(json.dumps(about))
    assert load_weights(tmp_path / "back")[1].findings == FINDINGS


def test_a_backbone_without_a_head_is_taken_as_it_is(resnet) -> None:
    trunk = {key: x for key, x in resnet.items() if not key.startswith("fc.")}
    assert_same(convert_state_dict("resnet18", trunk), convert_state_dict("resnet18", resnet, head=False))


def test_a_gap_is_taken_only_where_it_is_named(resnet) -> None:
    part = {key: x for key, x in resnet.items() if not key.startswith(("layer4.", "fc."))}
    with pytest.raises(CheckpointError, match=r"missing 25: layer4.*\n.*--fresh='layer4\.\*'"):
        convert_state_dict("resnet18", part)
    for weights in (part, resnet):  # what is to be drawn anew is not taken, also where it is there
        found = convert_state_dict("resnet18", weights, head=False, fresh=["layer4.*"])
        assert not [path for path in flatten_dict(found) if path[2].startswith("layer4")]
        assert len(flatten_dict(found)) == len(torch_names("resnet18")) - 25 - 2
    with pytest.raises(CheckpointError, match=r"missing \d+: layer3\.1\.bn1"):
        convert_state_dict("resnet18", {k: x for k, x in part.items() if "layer3.1.bn1" not in k}, fresh=["layer4.*"])
    with pytest.raises(ConfigError, match="no array of resnet18 is called 'layr4"):
        convert_state_dict("resnet18", part, fresh=["layr4.*"])


# Nestings


@pytest.mark.parametrize(
    "nest",
    [
        lambda w: {"net": w, "acc": 84.0},
        lambda w: {"a": {"b": [{"weights": {f"m.{key}": x for key, x in w.items()}}]}},
        lambda w: [w, {"state": {0: {"exp_avg": np.zeros(3)}}}],
        lambda w: {f"module.{key}": x for key, x in w.items()} | {"n_averaged": np.ones(())},
        lambda w: {f"model.{key}": x for key, x in w.items()} | {"loss.pos_weight": np.ones(14)},
        lambda w: {"backbone": {k: x for k, x in w.items() if k[:3] != "fc."}}
        | {f"head.0.{leaf}": w[f"fc.{leaf}"] for leaf in ("weight", "bias")},
        lambda w: {"conv1": {"weight": w["conv1.weight"]}} | {k: x for k, x in w.items() if k != "conv1.weight"},
        lambda w: {"teacher": {"layer1.0.conv1.weight": np.zeros((64, 64, 1, 1))}, "student": w},
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:left out")
def test_the_network_is_found_under_any_nesting(resnet, nest) -> None:
    assert_same(convert_state_dict("resnet18", nest(resnet)), convert_state_dict("resnet18", resnet))


def test_a_trunk_as_a_sequence_of_its_children(resnet, densenet) -> None:
    numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    trunk = {k: x for k, x in resnet.items() if not k.startswith("fc.")}
    children = {f"features.{numbers[k.split('.')[0]]}.{k.split('.', 1)[1]}": x for k, x in trunk.items()}
    assert_same(convert_state_dict("resnet18", children), convert_state_dict("resnet18", trunk))
    bare = {k.removeprefix("features."): x for k, x in densenet.items() if k.startswith("features.")}
    assert_same(convert_state_dict("densenet121", bare), convert_state_dict("densenet121", densenet, head=False))


def test_what_is_left_out_is_listed(resnet) -> None:
    extra = {"op_threshs": np.ones(18), "optimizer": {"state": {k: {"exp_avg": np.ones(2)} for k in range(9)}}}
    with pytest.warns(UserWarning, match=r"left out, not of the network: op_threshs, optimizer \(9 tensors\)"):
        assert_same(convert_state_dict("resnet18", resnet | extra), convert_state_dict("resnet18", resnet))


def test_a_network_beside_the_taken_one_is_listed_under_its_own_name(resnet) -> None:
    """Both lie in one `state_dict`, of which the taken one is a part, too."""
    both = {"state_dict": {f"{name}.{key}": x for name in ("net", "net_ema") for key, x in resnet.items()}}
    size = sum(not key.endswith("num_batches_tracked") for key in resnet)
    with pytest.warns(UserWarning, match=rf"left out, not of the network: state_dict\.net \({size} tensors\)$"):
        convert_state_dict("resnet18", both, key="state_dict.net_ema")


def test_a_part_of_the_network_is_no_other_network(densenet) -> None:
    """A trunk's `features` alone would do as a DenseNet without a head."""
    trunk = {key: x for key, x in densenet.items() if key.startswith("features.")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert_state_dict("densenet121", trunk)
        convert_state_dict("densenet121", {f"module.{key}": x for key, x in trunk.items()}, head=False)


def test_a_deeper_network_is_not_cut_to_a_shallower_one() -> None:
    """All that a ResNet-18 wants is in a ResNet-34, in its shapes."""
    with pytest.raises(CheckpointError, match=r"not the weights of resnet18\nunexpected \d+: layer1\.2\.conv1"):
        convert_state_dict("resnet18", numpy_dict(create_torch_network("resnet34")))


@pytest.mark.parametrize(
    ("given", "asked"), [("resnet34", "resnet18"), ("resnet18", "resnet50"), ("resnet50", "resnet101")]
)
def test_the_network_that_the_weights_are_of_is_named(given: str, asked: str) -> None:
    with pytest.raises(CheckpointError, match=rf"\ntheir names are those of {given}: --model={given}$"):
        convert_state_dict(asked, {f"module.{key}": x for key, x in numpy_dict(create_torch_network(given)).items()})


@pytest.mark.parametrize("averaged", ["model_ema", "ema.module", "state_dict_ema", "swa"])
@pytest.mark.filterwarnings("ignore:left out")
def test_of_raw_and_averaged_weights_it_says_which(resnet, averaged: str) -> None:
    doubled = {key: 2 * x for key, x in resnet.items()}
    both = {"model": resnet, **{f"{averaged}.{key}": x for key, x in doubled.items()}}
    with pytest.warns(UserWarning, match=rf"takes {averaged} \(averaged weights\); model would fit, too"):
        assert_same(convert_state_dict("resnet18", both), convert_state_dict("resnet18", doubled))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "takes")
        assert_same(convert_state_dict("resnet18", both, key="model"), convert_state_dict("resnet18", resnet))
    with pytest.raises(ConfigError, match=f"names no network; there are model, {averaged}"):
        convert_state_dict("resnet18", both, key="best")


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


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("mobilenet_v2", "features.0.0"),
        ("convnext_tiny", "features.0.0"),
        ("efficientnet_b0", "features.0.0"),
        ("swin_t", "features.0.0"),
    ],
)
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
    with pytest.raises(CheckpointError, match=r"raw\.pth"):
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
    with pytest.raises(CheckpointError, match=r"list\.pth: these are not .* it holds 1: 0; is this a state dict"):
        import_file("resnet18", tmp_path / "list.pth", tmp_path / "out")
    with pytest.raises(CheckpointError, match="it holds no tensors at all"):
        convert_state_dict("resnet18", {"epoch": 3})


def test_numpy_and_options_beside_the_weights_are_data(resnet, tmp_path: Path) -> None:
    tensors = {key: torch.from_numpy(x) for key, x in resnet.items()}
    beside = {
        "best": np.float64(0.8), "aucs": np.arange(6.0).reshape(2, 3, order="F"), "big": np.array([1.5], ">f4"),
        "names": np.array(["a"]), "objects": np.array([{}], object), "none": np.array([]), "step": np.int64(3),
        "args": argparse.Namespace(out=Path("x")), "random": np.random.default_rng(0).bytes(3),
        "log": collections.defaultdict(list, {"loss": [1.0]}), "time": datetime.datetime(2020, 1, 1),
        "seen": {1, 2}, "frozen": frozenset("a"), "count": collections.Counter("aab"), "rate": decimal.Decimal("0.1"),
    }  # fmt: skip
    for legacy in (False, True):
        torch.save({"state_dict": tensors, **beside}, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
        found = read_state_dict(tmp_path / "a.pth")
        assert (found["best"], found["step"]) == (0.8, 3)
        arrays = find_tensors(found)
        np.testing.assert_array_equal(arrays["aucs"], beside["aucs"])
        np.testing.assert_array_equal(arrays["big"], [1.5])
        with pytest.warns(UserWarning, match="left out, not of the network: aucs, big, names, none"):
            assert_same(convert_state_dict("resnet18", found), convert_state_dict("resnet18", resnet))
    torch.save(resnet, tmp_path / "arrays.pth")  # a state dict of NumPy's arrays
    assert_same(
        convert_state_dict("resnet18", read_state_dict(tmp_path / "arrays.pth")), convert_state_dict("resnet18", resnet)
    )


def test_a_file_is_named_by_its_first_bytes(tmp_path: Path) -> None:
    archive = io.BytesIO()
    np.savez(archive, a=np.zeros(3))
    torch.save({"a": torch.zeros(3)}, tmp_path / "whole.pth")
    kinds = {
        b"\n <!DOCTYPE HTML><html>quota": "a web page", b"\xef\xbb\xbf<html>": "a web page",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n": "Git LFS pointer",
        b"\x89HDF\r\n\x1a\n" + bytes(99): "an HDF5 file", b"\x1f\x8b\x08" + bytes(9): "compressed by gzip",
        archive.getvalue(): "an archive of NumPy arrays", (tmp_path / "whole.pth").read_bytes()[:300]: "cut off",
        b"": "an empty file", b'{"error": "Not found"}': "text, not weights; it begins .* \"Not found\"",
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>': "an XML document",
        bytes(range(1, 99)): "of no kind", pickle.dumps({"a": 1}): "a Python pickle that torch did not write",
    }  # fmt: skip
    for suffix in (".pth", ".safetensors", ".bin"):
        for data, kind in kinds.items():
            (tmp_path / f"a{suffix}").write_bytes(data)
            with pytest.raises(CheckpointError, match=rf"a{suffix} is .*{kind}"):
                read_state_dict(tmp_path / f"a{suffix}")
    with pytest.raises(CheckpointError, match="a folder, not a file"):
        read_state_dict(tmp_path)
    tensors = pytest.importorskip("safetensors.numpy")
    tensors.save_file({"a": np.ones(3, np.float32)}, tmp_path / "renamed.pth")
    np.testing.assert_array_equal(read_state_dict(tmp_path / "renamed.pth")["a"], np.ones(3))
    (tmp_path / "whole.pth").rename(tmp_path / "whole.safetensors")
    np.testing.assert_array_equal(read_state_dict(tmp_path / "whole.safetensors")["a"], np.zeros(3))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_protocol_that_is_not_read_is_named(tmp_path: Path, legacy: bool) -> None:
    torch.save(
        {"a": torch.ones(2)}, tmp_path / "a.pth", pickle_protocol=4, _use_new_zipfile_serialization=not legacy
    )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"a\.pth has a pickle protocol .*\n.*without pickle_protocol$"):
        read_state_dict(tmp_path / "a.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_whole_modules_and_programs_are_named_and_no_unsafe_way_is_advised(tmp_path: Path, legacy: bool) -> None:
    module = torch.nn.Linear(2, 2)
    torch.save(module, tmp_path / "whole.pth", _use_new_zipfile_serialization=not legacy)
    torch.save({"model": module}, tmp_path / "inside.pth", _use_new_zipfile_serialization=not legacy)
    torch.jit.save(torch.jit.trace(module, torch.zeros(1, 2)), tmp_path / "program.pt")
    named = {
        "whole.pth": r"a whole pickled torch\.nn\.modules\.linear\.Linear",
        "inside.pth": r"an object of torch\.nn\.modules\.linear\.Linear beside tensors",
        "program.pt": "a TorchScript program",
    }
    for name, words in named.items():
        with pytest.raises(CheckpointError, match=words) as caught:
            read_state_dict(tmp_path / name)
        assert "weights_only" not in str(caught.value)
        assert "state" in str(caught.value)


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
