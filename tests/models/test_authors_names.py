"""State dicts as the papers' own code saves them: Microsoft's Swin, Facebook's ConvNeXt, DeiT and DINO."""

import re
import warnings

import numpy as np
import pytest

from chexjax.errors import CheckpointError, ConfigError
from chexjax.models.torch_weights import convert_state_dict, to_state_dict

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[torch]'")
pytest.importorskip("torchvision.models")

from tests.models.test_torch_weights import assert_same, numpy_dict  # noqa: E402  # it imports torch
from tests.torch_networks import create_torch_network, shake  # noqa: E402  # so does this

Weights = dict[str, np.ndarray]
# torchvision's names, and theirs. torchvision numbers patches, stages and merging in one row.
SWIN = [
    (r"features\.0\.0\.", "patch_embed.proj."),
    (r"features\.0\.2\.", "patch_embed.norm."),
    (r"features\.1\.", "layers.0.blocks."),
    (r"features\.2\.", "layers.0.downsample."),
    (r"features\.3\.", "layers.1.blocks."),
    (r"features\.4\.", "layers.1.downsample."),
    (r"features\.5\.", "layers.2.blocks."),
    (r"features\.6\.", "layers.2.downsample."),
    (r"features\.7\.", "layers.3.blocks."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
]
CONVNEXT = [
    (r"features\.([0246])\.(\d)\.", lambda found: f"downsample_layers.{int(found[1]) // 2}.{found[2]}."),
    (r"features\.([1357])\.(\d+)\.", lambda found: f"stages.{int(found[1]) // 2}.{found[2]}."),
    (r"block\.0\.", "dwconv."),
    (r"block\.2\.", "norm."),
    (r"block\.3\.", "pwconv1."),
    (r"block\.5\.", "pwconv2."),
    (r"layer_scale$", "gamma"),
    (r"^classifier\.0\.", "norm."),
    (r"^classifier\.2\.", "head."),
]


def renamed(weights: Weights, rules: list) -> Weights:
    found = {}
    for key, value in weights.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        found[key] = value
    assert len(found) == len(weights)
    return found


def mask(side: int) -> np.ndarray:
    """A Swin's `attn_mask` for a map of `side` places: window by window, pair by pair, by the parts they came from."""
    part = [0 if k < side - 7 else 1 if k < side - 3 else 2 for k in range(side)]
    rows = []
    for top in range(0, side, 7):
        for left in range(0, side, 7):
            own = [(part[y], part[x]) for y in range(top, top + 7) for x in range(left, left + 7)]
            rows.append([[0.0 if one == other else -100.0 for other in own] for one in own])
    return np.array(rows, np.float32)


@pytest.fixture(scope="module")
def swin() -> Weights:
    return numpy_dict(shake(create_torch_network("swin_t")))


@pytest.fixture(scope="module")
def microsofts(swin: Weights) -> Weights:
    """As swin_tiny_patch4_window7_224.pth has it, with the buffers that the code keeps."""
    theirs = renamed(swin, SWIN)
    for key in theirs:
        if key.endswith("relative_position_index"):
            theirs[key] = theirs[key].reshape(49, 49)
    masks = {f"layers.{stage}.blocks.1.attn_mask": mask(56 // 2**stage) for stage in range(3)}
    return theirs | masks | {f"layers.2.blocks.{block}.attn_mask": mask(14) for block in (3, 5)}


def quietly(model: str, weights: object) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return convert_state_dict(model, weights)


def test_microsofts_swin(swin: Weights, microsofts: Weights) -> None:
    assert "layers.0.downsample.reduction.weight" in microsofts
    assert "layers.3.downsample.reduction.weight" not in microsofts
    expected = quietly("swin_t", swin)
    assert_same(quietly("swin_t", {"model": microsofts, "epoch": 300}), expected)
    without = {key: x for key, x in microsofts.items() if not key.endswith(("attn_mask", "relative_position_index"))}
    assert_same(quietly("swin_t", without), expected)


def test_a_mask_or_an_index_that_differs_is_refused(microsofts: Weights) -> None:
    key = "layers.1.blocks.1.attn_mask"
    for wrong in (microsofts[key][::-1].copy(), microsofts[key] * 0, microsofts[key][:3], microsofts[key][0]):
        with pytest.raises(CheckpointError, match=rf"changed constants 1: {re.escape(key)}"):
            convert_state_dict("swin_t", microsofts | {key: wrong})
    other = microsofts | {key: mask(14)}  # that of another film's size, which none of the weights depends on
    assert_same(quietly("swin_t", other), quietly("swin_t", microsofts))


def test_a_swin_that_lacks_an_array_is_told_of_in_its_own_names(microsofts: Weights) -> None:
    gap = {key: x for key, x in microsofts.items() if key != "layers.0.downsample.reduction.weight"}
    with pytest.raises(
        CheckpointError, match=r"weights of swin_t\nmissing 1: layers\.0\.downsample\.reduction\.weight"
    ):
        convert_state_dict("swin_t", gap)
    with pytest.raises(CheckpointError, match=r"unexpected 1: layers\.3\.downsample\.norm\.weight"):
        convert_state_dict("swin_t", microsofts | {"layers.3.downsample.norm.weight": np.ones(768, np.float32)})


@pytest.mark.parametrize("name", ["convnext_tiny", "convnext_small"])
def test_facebooks_convnext(name: str) -> None:
    weights = numpy_dict(shake(create_torch_network(name)))
    theirs = renamed({key: x.reshape(-1) if "layer_scale" in key else x for key, x in weights.items()}, CONVNEXT)
    assert {"downsample_layers.3.1.weight", "stages.2.8.pwconv2.bias", "stages.0.0.gamma", "norm.bias"} < theirs.keys()
    assert_same(quietly(name, {"model": theirs}), quietly(name, weights))
    second = theirs | {"stages.0.0.grn.gamma": np.zeros((1, 1, 1, 384), np.float32)}
    with pytest.raises(CheckpointError, match=r"unexpected 1: stages\.0\.0\.grn\.gamma"):
        convert_state_dict(name, second)
    with pytest.raises(ConfigError, match="'Facebook' are not known; there are torchvision, timm"):
        to_state_dict(name, {}, 3, library="Facebook")


def test_deit_and_dino() -> None:
    """Both papers' code names arrays as timm does; DINO saves two backbones, each with a projector of its own."""
    weights = numpy_dict(shake(create_torch_network("vit_small_16")))
    assert {
        "cls_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "blocks.11.mlp.fc2.bias",
        "norm.weight",
    } < weights.keys()
    whole = quietly("vit_small_16", weights)
    assert_same(quietly("vit_small_16", {"model": weights}), whole)  # DeiT's
    trunk = {key: x for key, x in weights.items() if not key.startswith("head.")}
    assert_same(
        quietly("vit_small_16", trunk)["params"]["trunk"], whole["params"]["trunk"]
    )  # DINO's, for downstream use
    projector = {"mlp.0.weight": np.zeros((8, 384), np.float32), "last_layer.weight_v": np.zeros((9, 8), np.float32)}
    student = {f"module.backbone.{key}": x + 1 for key, x in trunk.items()}
    student |= {f"module.head.{key}": x for key, x in projector.items()}
    teacher = {f"backbone.{key}": x for key, x in trunk.items()} | {f"head.{key}": x for key, x in projector.items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = convert_state_dict("vit_small_16", {"student": student, "teacher": teacher}, key="teacher")
    assert_same(found["params"]["trunk"], whole["params"]["trunk"])
    assert any("left out, not of the network" in str(each.message) for each in caught)
    with pytest.warns(UserWarning, match=r"takes student\.module\.backbone; teacher\.backbone would fit, too"):
        convert_state_dict("vit_small_16", {"student": student, "teacher": teacher})
    with pytest.raises(CheckpointError, match="unexpected 1: dist_token"):
        convert_state_dict("vit_small_16", weights | {"dist_token": np.zeros((1, 1, 384), np.float32)})


@pytest.mark.parametrize("model", ["efficientnet_b0", "resnet18"])
def test_lukemelas_efficientnet_is_refused_by_name(model: str) -> None:
    names = {"_conv_stem.weight": (32, 3, 3, 3), "_blocks.0._depthwise_conv.weight": (32, 1, 3, 3), "_fc.bias": (14,)}
    weights = {f"module.{key}": np.zeros(shape, np.float32) for key, shape in names.items()}
    with pytest.raises(
        CheckpointError, match="EfficientNet-PyTorch, whose networks pad as TensorFlow does"
    ) as complaint:
        convert_state_dict(model, weights)
    assert "\n" not in str(complaint.value)
