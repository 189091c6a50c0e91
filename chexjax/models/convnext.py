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
from chexjax.models.layers import Depthwise, Dtype, Patches, scaled
from chexjax.models.trunk import Trunk

KERNEL_INIT: Final = nn.initializers.truncated_normal(0.02)
EPSILON: Final = 1e-6
SCALE: Final = 1e-6  # of a new block's branch


class Block(nn.Module):
    """A depthwise 7x7 convolution, a layer norm, and two dense layers over the channels, added to the block's input.

    In training, with the chance of `drop`, a film goes past the block.
    """

    drop: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        channels = x.shape[-1]
        dense = partial(nn.Dense, kernel_init=KERNEL_INIT, dtype=self.dtype)
        y = Depthwise(7, 1, True, KERNEL_INIT, self.dtype, name="block_0")(x)
        y = nn.LayerNorm(EPSILON, dtype=self.dtype, name="block_2")(y)
        y = nn.gelu(dense(4 * channels, name="block_3")(y), approximate=False)
        y = dense(channels, name="block_5")(y)
        scale = self.param("layer_scale", nn.initializers.constant(SCALE), (channels,), jnp.float32)
        y = nn.Dropout(self.drop, broadcast_dims=(1, 2, 3))(y * scale.astype(self.dtype), deterministic=not train)
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


_TORCH: Final = TorchNames(
    anchor="features.1.0.block.0.weight",
    spellings=(Spelling("torchvision", {"head": "classifier.2", "norm": "classifier.0"}),),
)

NETWORKS: Final = {
    "convnext_tiny": Architecture(
        partial(ConvNeXt, stages=(3, 3, 9, 3), drop=0.1), "features_0_0", _TORCH, norm_epsilon=EPSILON
    ),
    "convnext_small": Architecture(
        partial(ConvNeXt, stages=(3, 3, 27, 3), drop=0.4), "features_0_0", _TORCH, norm_epsilon=EPSILON
    ),
}
