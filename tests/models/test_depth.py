"""Depths against what the papers' figures say of a ResNet and a ConvNeXt, whole and in branches."""

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from chexjax.models import create_branched_model, create_model
from chexjax.models.depth import layer_depths

FILM = jnp.zeros((1, 64, 64, 1))


def depths_of(model: str, shared_stages: int | None = None) -> dict[str, int]:
    if shared_stages is None:
        network = create_model(model, width=0.1)
    else:
        network = create_branched_model(model, ((0,), (1, 2)), shared_stages, width=0.1)
    params = jax.eval_shape(network.init, jax.random.key(0), FILM)["params"]
    return flatten_dict(layer_depths(model, params), sep="/")


def test_a_resnet_counts_its_blocks() -> None:
    depths = depths_of("resnet18")
    assert depths["trunk/conv1/kernel"] == depths["trunk/bn1/scale"] == 0
    blocks = [depths[f"trunk/layer{stage}_{k}/conv1/kernel"] for stage in (1, 2, 3, 4) for k in (0, 1)]
    assert blocks == [1, 2, 3, 4, 5, 6, 7, 8]
    assert depths["trunk/layer2_0/downsample_0/kernel"] == 3
    assert depths["head/kernel"] == depths["head/bias"] == 9


def test_between_two_blocks_a_layer_has_the_depth_of_the_later() -> None:
    depths = depths_of("convnext_tiny")
    assert depths["trunk/features_1_2/block_0/kernel"] == 3
    assert depths["trunk/features_2_0/scale"] == depths["trunk/features_2_1/kernel"] == 4
    assert depths["trunk/features_3_0/layer_scale"] == 4
    assert depths["trunk/features_7_2/block_0/kernel"] == 18
    assert depths["norm/scale"] == depths["head/kernel"] == 19


def test_a_cut_network_has_the_depths_of_the_whole() -> None:
    whole = depths_of("convnext_tiny")
    cut = depths_of("convnext_tiny", 2)
    assert len(cut) == len(whole)
    for path, depth in cut.items():
        assert depth == whole[path.removeprefix("branch/").replace("shared/", "trunk/")]
