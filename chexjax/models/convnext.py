"""ConvNeXt-T and ConvNeXt-S as torchvision defines them.

Source: Liu et al., "A ConvNet for the 2020s", CVPR 2022, section 2.7 and Figure 4 (the block), Table 9 (the networks);
layer scale of Touvron et al., "Going deeper with Image Transformers", ICCV 2021, section 2.1; stochastic depth of Huang
et al., "Deep Networks with Stochastic Depth", ECCV 2016, section 3, with a chance that grows linearly over the blocks.
"""

from functools import partial
from typing import Final

import flax.linen as nn
import jax
import jax.numpy as jnp

from chexjax.models.architecture import Architecture, Spelling, TorchNames
from chexjax.models.layers import Dense, Depthwise, Dtype, Patches, gelu, scale_channels, scaled
from chexjax.models.trunk import Trunk

KERNEL_INIT: Final = nn.initializers.truncated_normal(0.02)
EPSILON: Final = 1e-6
SCALE: Final = 1e-6  # of a new block's branch


class Block(nn.Module):
    """A depthwise 7x7 convolution, a layer norm, and two dense layers over the channels, added to the block's input.

    In training, a film skips the block with probability `drop` (stochastic depth).
    """

    drop: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        channels = x.shape[-1]
        dense = partial(Dense, kernel_init=KERNEL_INIT, dtype=self.dtype)
        y = Depthwise(7, 1, True, KERNEL_INIT, self.dtype, name="block_0")(x)
        y = nn.LayerNorm(EPSILON, dtype=self.dtype, name="block_2")(y)
        y = gelu(dense(4 * channels, name="block_3")(y))
        y = dense(channels, name="block_5")(y)
        scale = self.param("layer_scale", nn.initializers.constant(SCALE), (channels,), jnp.float32)
        y = nn.Dropout(self.drop, broadcast_dims=(1, 2, 3))(scale_channels(y, scale), deterministic=not train)
        return x + y


class ConvNeXt(Trunk, kw_only=True):
    """A trunk of such blocks: films in, the last feature map out.

    `stages` counts the blocks of each stage; `drop` is the chance that a film goes past the last block.
    """

    drop: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """float (batch, height, width, 1 or 3) -> `dtype` (batch, height / 32, width / 32, channels)."""
        patches = partial(Patches, kernel_init=KERNEL_INIT, dtype=self.dtype)
        norm = partial(nn.LayerNorm, EPSILON, dtype=self.dtype)
        if self.has_stem:
            x = patches(scaled(96, self.width), 4, name="features_0_0")(x)
            x = norm(name="features_0_1")(x)
        last = sum(self.stages) - 1
        for stage in self.built:
            if stage > 0:
                x = norm(name=f"features_{2 * stage}_0")(x)
                x = patches(scaled(96 * 2**stage, self.width), 2, name=f"features_{2 * stage}_1")(x)
            for index in range(self.stages[stage]):
                drop = self.drop * (sum(self.stages[:stage]) + index) / last
                x = Block(drop, self.dtype, name=f"features_{2 * stage + 1}_{index}")(x, train)
        return x


_TIMM_BLOCK: Final = {
    "block.0": "conv_dw", "block.2": "norm", "block.3": "mlp.fc1", "block.5": "mlp.fc2", "layer_scale": "gamma",
}  # fmt: skip
_AUTHORS_BLOCK: Final = {
    "block.0": "dwconv", "block.2": "norm", "block.3": "pwconv1", "block.5": "pwconv2", "layer_scale": "gamma",
}  # fmt: skip


def _timm_names(stages: tuple[int, ...]) -> dict[str, str]:
    top = {"features.0.0": "stem.0", "features.0.1": "stem.1", "norm": "head.norm", "head": "head.fc"}
    return top | _names(stages, "stages.{}.downsample", "stages.{}.blocks.{}", _TIMM_BLOCK)


def _authors_names(stages: tuple[int, ...]) -> dict[str, str]:
    """Of the paper's own code (facebookresearch/ConvNeXt)."""
    top = {"features.0": "downsample_layers.0"}
    return top | _names(stages, "downsample_layers.{}", "stages.{}.{}", _AUTHORS_BLOCK)


def _names(stages: tuple[int, ...], downsample: str, block: str, layers: dict[str, str]) -> dict[str, str]:
    names = {f"features.{2 * stage}": downsample.format(stage) for stage in range(1, len(stages))}
    for stage, blocks in enumerate(stages):
        for number in range(blocks):
            ours, theirs = f"features.{2 * stage + 1}.{number}", block.format(stage, number)
            names |= {f"{ours}.{layer}": f"{theirs}.{name}" for layer, name in layers.items()}
    return names


def _network(stages: tuple[int, ...], drop: float) -> Architecture:
    torchvision = Spelling(
        "torchvision", {"head": "classifier.2", "norm": "classifier.0"}, columns=("layer_scale",)
    )  # fmt: skip
    authors = Spelling("Facebook", _authors_names(stages), read_only=True)
    spellings = (torchvision, Spelling("timm", _timm_names(stages)), authors)
    names = TorchNames("features.1.0.block.0.weight", spellings)
    return Architecture(partial(ConvNeXt, stages=stages, drop=drop), "features_0_0", names, norm_epsilon=EPSILON)


NETWORKS: Final = {
    "convnext_tiny": _network((3, 3, 9, 3), drop=0.1),
    "convnext_small": _network((3, 3, 27, 3), drop=0.4),
}
