"""ViTs and Swins: positions at other sizes, names of every library, what cannot be taken, maps."""

import re
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chexjax.errors import CheckpointError, ConfigError
from chexjax.explain.cam import choose_maps, class_activation_map, grad_cam
from chexjax.findings import FINDINGS, SPECIALIST_GROUPS
from chexjax.models import create_branched_model, create_model
from chexjax.models.network import by_names
from chexjax.models.swin import WINDOW, cut, joined, merged, separation
from chexjax.models.torch_weights import convert_state_dict, to_state_dict
from chexjax.models.vit import Block

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[torch]'")

from tests.models.test_torch_weights import assert_same, logits_of, numpy_dict  # noqa: E402  # it imports torch
from tests.networks import drawn, make_shallow  # noqa: E402
from tests.torch_networks import create_torch_network, shake  # noqa: E402  # so does this

FILMS = jax.random.normal(jax.random.key(0), (2, 32, 32, 1))


# Positions


@pytest.mark.parametrize(("name", "size"), [("vit_small_16", 256), ("vit_small_16", 320), ("vit_base_16", 256)])
def test_at_other_sizes_positions_are_resampled_as_timm_does(name: str, size: int) -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model(f"{name.rsplit('_', 1)[0]}_patch16_224", num_classes=14, dynamic_img_size=True)
    network = shake(network)
    with torch.no_grad():
        network.pos_embed.normal_(0.0, 0.5)  # so that they are seen
    x = np.random.default_rng(size).normal(size=(2, size, size, 3)).astype(np.float32)
    expected = logits_of(network, x)
    found = jax.jit(create_model(name).apply)(convert_state_dict(name, numpy_dict(network)), x)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_position_embeddings_of_another_grid_are_resampled_and_it_is_said() -> None:
    timm = pytest.importorskip("timm")
    large = shake(timm.create_model("vit_small_patch16_384", num_classes=14))
    small = timm.create_model("vit_small_patch16_224", num_classes=14)
    from timm.layers import resample_abs_pos_embed

    with torch.no_grad():
        expected = resample_abs_pos_embed(large.pos_embed, (14, 14)).numpy()
    with pytest.warns(UserWarning, match=r"pos_embed is resampled from \(1, 577, 384\) to \(1, 197, 384\)"):
        variables = convert_state_dict("vit_small_16", numpy_dict(large))
    np.testing.assert_allclose(variables["params"]["trunk"]["pos_embed"], expected, atol=1e-6)
    odd = numpy_dict(small) | {"pos_embed": np.zeros((1, 200, 384), np.float32)}
    with pytest.raises(CheckpointError, match=r"misshaped 1: pos_embed \(1, 200, 384\) for \(1, 197, 384\)"):
        convert_state_dict("vit_small_16", odd)


# Names


def as_transformers(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """timm's names of a DINOv2 in those of Hugging Face's Dinov2Model, as Rad-DINO has them."""
    rules = [
        (r"^cls_token", "embeddings.cls_token"),
        (r"^pos_embed", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
        (r"^norm\.", "layernorm."),
        (r"^blocks\.", "encoder.layer."),
        (r"attn\.proj", "attention.output.dense"),
        (r"ls([12])\.gamma", r"layer_scale\1.lambda1"),
    ]
    found = {}
    for key, value in weights.items():
        if key.startswith("head."):
            continue
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        if "attn.qkv" in key:
            for name, part in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                found[key.replace("attn.qkv", f"attention.attention.{name}")] = part
        else:
            found[key] = value
    return found


@pytest.fixture(scope="module")
def dino() -> dict[str, np.ndarray]:
    return numpy_dict(shake(create_torch_network("vit_small_14")))


def test_a_rad_dino_is_read_and_written_by_its_names(dino: dict[str, np.ndarray]) -> None:
    theirs = as_transformers(dino)
    assert len(theirs) == len(dino) - 2 + 2 * 2 * 12
    expected = convert_state_dict("vit_small_14", dino, head=False)
    nested = {f"dinov2.{key}": x for key, x in theirs.items()}
    with pytest.warns(UserWarning, match=r"left out, not of the network: dinov2\.embeddings\.mask_token$"):
        found = convert_state_dict("vit_small_14", nested | {"dinov2.embeddings.mask_token": np.zeros((1, 384))})
    assert_same(found, expected)
    whole = to_state_dict("vit_small_14", convert_state_dict("vit_small_14", dino), 3, library="transformers")
    assert whole.keys() == theirs.keys() | {"classifier.weight", "classifier.bias"}
    for key, value in theirs.items():
        np.testing.assert_array_equal(whole[key], value)


def test_what_makes_another_vit_is_refused(dino: dict[str, np.ndarray]) -> None:
    registers = dino | {"register_tokens": np.zeros((1, 4, 384))}
    with pytest.raises(CheckpointError, match="unexpected 1: register_tokens"):
        convert_state_dict("vit_small_14", registers)
    gap = as_transformers(dino)
    del gap["encoder.layer.3.attention.attention.key.bias"]
    with pytest.raises(CheckpointError, match=r"missing 1: encoder\.layer\.3\.attention\.attention\.query\.bias \+"):
        convert_state_dict("vit_small_14", gap)
    with pytest.raises(CheckpointError, match=r"unexpected 24: blocks\.0\.ls1\.gamma"):
        convert_state_dict("vit_small_16", dino)
    with pytest.raises(ConfigError, match=r"in 'keras' are not known; there are timm, transformers"):
        to_state_dict("vit_small_14", {}, 3, library="keras")


def test_a_vit_small_in_torchvisions_names_is_torchvisions() -> None:
    models = pytest.importorskip("torchvision.models")
    twin = models.VisionTransformer(224, 16, 12, 6, 384, 1536, num_classes=14)
    ours = numpy_dict(shake(create_torch_network("vit_small_16")))
    variables = convert_state_dict("vit_small_16", ours)
    theirs = to_state_dict("vit_small_16", variables, 3, library="torchvision")
    twin.load_state_dict({key: torch.from_numpy(x.copy()) for key, x in theirs.items()})
    assert_same(convert_state_dict("vit_small_16", numpy_dict(twin)), variables)
    former = {re.sub(r"mlp\.([03])\.", lambda m: f"mlp.linear_{1 + int(m[1]) // 3}.", k): x for k, x in theirs.items()}
    assert former.keys() != theirs.keys()
    assert_same(convert_state_dict("vit_small_16", former), variables)
    x = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype(np.float32)
    expected = logits_of(create_loaded("vit_small_16", ours), x)
    np.testing.assert_allclose(logits_of(twin, x), expected, atol=1e-4 * np.abs(expected).max())


def create_loaded(name: str, weights: dict[str, np.ndarray]) -> Any:
    network = create_torch_network(name)
    network.load_state_dict({key: torch.from_numpy(x) for key, x in weights.items()})
    return network


def test_a_swins_position_index_is_checked_and_written() -> None:
    weights = numpy_dict(create_torch_network("swin_t"))
    key = "features.3.1.attn.relative_position_index"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = to_state_dict("swin_t", convert_state_dict("swin_t", weights), 3)
    np.testing.assert_array_equal(back[key], weights[key])
    with pytest.raises(CheckpointError, match=rf"changed constants 1: {re.escape(key)}"):
        convert_state_dict("swin_t", weights | {key: weights[key][::-1].copy()})


# Windows


def test_windows_are_cut_and_joined_and_merged_by_place() -> None:
    x = np.arange(2 * 14 * 21 * 3, dtype=np.float32).reshape(2, 14, 21, 3)
    windows = cut(x)
    np.testing.assert_array_equal(windows[1, 4], x[1, 7:, 7:14].reshape(49, 3))
    np.testing.assert_array_equal(joined(windows, x.shape), x)
    four = merged(jnp.asarray(x))
    assert four.shape == (2, 7, 11, 12)
    expected = [x[0, 2, 4], x[0, 3, 4], x[0, 2, 5], x[0, 3, 5]]
    np.testing.assert_array_equal(four[0, 1, 2], np.concatenate(expected))
    np.testing.assert_array_equal(four[0, 1, 10], np.concatenate([x[0, 2, 20], x[0, 3, 20], np.zeros(6)]))


@pytest.mark.parametrize("shifts", [[3, 3], [3, 0], [0, 3]])
def test_a_shifted_window_keeps_apart_what_was_apart(shifts: list[int]) -> None:
    """By the places' own coordinates: two see each other if no axis that was shifted brought them together."""
    sides = (14, 14 if shifts[1] else 7)
    rows, columns = (np.roll(np.arange(side), -shift) for side, shift in zip(sides, shifts, strict=True))
    places = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)[None]
    own = cut(places)[0]
    apart = (np.abs(own[:, :, None] - own[:, None]) >= WINDOW).any(-1)
    np.testing.assert_array_equal(separation(sides, shifts) < 0, apart)


# In training, and maps


def test_a_vits_stochastic_depth_takes_or_leaves_whole_films_in_both_halves() -> None:
    block, x = Block(heads=2, drop=0.4, scale=0.5), jax.random.normal(jax.random.key(1), (256, 5, 8))
    variables = block.init(jax.random.key(0), x, False)
    moved = np.abs(block.apply(variables, x, True, rngs={"dropout": jax.random.key(2)}) - x).max((1, 2)) > 0
    assert abs(1 - moved.mean() - 0.4**2) < 0.08
    np.testing.assert_array_equal(block.apply(variables, x, True, rngs={"dropout": jax.random.key(2)}).shape, x.shape)


@pytest.mark.parametrize("shared_stages", [None, 0, 2])
def test_a_vit_is_explained_by_grad_cam(shared_stages: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shallow(monkeypatch, "vit_small_16")
    if shared_stages is None:
        model: Any = create_model("vit_small_16", width=0.125)
    else:
        groups = by_names(SPECIALIST_GROUPS, FINDINGS)
        model = create_branched_model("vit_small_16", groups, shared_stages, width=0.125)
    x = jax.random.normal(jax.random.key(3), (2, 64, 48, 1))
    variables = drawn(model, *x.shape[1:])
    with pytest.raises(ConfigError, match="no class activation maps"):
        class_activation_map(model, variables, x)
    maps = grad_cam(model, variables, x)
    assert maps.shape == (2, 4, 3, 14)
    assert (np.ptp(maps, axis=(1, 2)) > 0).mean() > 0.3
    name, method = choose_maps([(model, variables)], 64)
    assert (name.split(",")[0], method) == ("grad_cam", grad_cam)


def test_a_vits_grad_cam_is_the_gradient_by_what_its_last_block_sees() -> None:
    """Against the trunk cut before its last stage of one block, differentiated by the map between."""
    model = create_model("vit_small_16", width=0.125)
    model = model.clone(trunk=model.trunk.clone(stages=(1, 1)))
    x = jax.random.normal(jax.random.key(3), (1, 64, 64, 1))
    variables = drawn(model, *x.shape[1:])
    trunk = {"params": variables["params"]["trunk"]}
    token, patches = model.trunk.clone(end=1).apply(trunk, x)
    last = model.clone(trunk=model.trunk.clone(begin=1))
    gradient = jax.jacobian(lambda patches: last.apply(variables, (token, patches))[0])(patches)[:, 0]
    expected = jnp.einsum("hwc,fc->hwf", patches[0], gradient.mean((1, 2)))
    np.testing.assert_allclose(grad_cam(model, variables, x)[0], np.maximum(expected, 0), atol=1e-5)


@pytest.mark.parametrize("name", ["swin_t", "efficientnet_b0"])
def test_the_mean_of_a_map_is_the_logit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shallow(monkeypatch, name)
    model = create_model(name, width=0.125)
    x = jax.random.normal(jax.random.key(3), (2, 64, 64, 1))
    variables = drawn(model, *x.shape[1:])
    maps, logits = class_activation_map(model, variables, x), jax.jit(model.apply)(variables, x)
    assert maps.shape == (2, 2, 2, 14)
    assert np.ptp(maps, axis=(1, 2)).max() > 0.01
    np.testing.assert_allclose(maps.mean((1, 2)), logits, atol=1e-4)
