"""ResNet-18, 34, 50, 101 and 152 as torchvision defines them.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, Table 1 and section 3.3; with the
stride of a bottleneck on its 3x3 convolution, not on the first 1x1 ("v1.5", torchvision and NVIDIA).
"""

from functools import partial
from typing import Final

import flax.linen as nn
import jax
import jax.numpy as jnp

from chexjax.models.architecture import Architecture, Spelling, TorchNames
from chexjax.models.convolution import max_pool, relu
from chexjax.models.layers import BatchNorm, Conv, Dtype, conv_norm, scaled
from chexjax.models.trunk import Trunk

# torchvision's choice: He et al. 2015, equation 14, counted over the outgoing connections.
KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, Figure 5, left)."""

    channels: int
    stride: int = 1
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    expansion = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = partial(Conv, kernel_init=KERNEL_INIT, dtype=self.dtype)
        norm = partial(BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        y = conv(self.channels, 3, self.stride, name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y, train))
        y = conv(self.channels, 3, name="conv2")(y)
        y = norm(name="bn2")(y, train)
        if x.shape != y.shape:
            x = conv_norm(conv(self.channels, 1, self.stride, name="downsample_0"), norm(name="downsample_1"), x, train)
        return relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut (He et al. 2016, Figure 5, right), four times as wide at its end."""

    channels: int
    stride: int = 1
    axis_name: str | None = None
    dtype: Dtype = jnp.float32
    expansion = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = partial(Conv, kernel_init=KERNEL_INIT, dtype=self.dtype)
        norm = partial(BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        y = conv(self.channels, 1, name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y, train))
        y = conv(self.channels, 3, self.stride, name="conv2")(y)
        y = nn.relu(norm(name="bn2")(y, train))
        y = conv_norm(conv(self.channels * self.expansion, 1, name="conv3"), norm(name="bn3"), y, train)
        if x.shape != y.shape:
            shortcut = conv(self.channels * self.expansion, 1, self.stride, name="downsample_0")
            x = conv_norm(shortcut, norm(name="downsample_1"), x, train)
        return relu(x + y)


class ResNet(Trunk, kw_only=True):
    """A residual trunk: films in, the last feature map out. `stages` counts the blocks of each stage."""

    block: type[BasicBlock] | type[Bottleneck]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """float (batch, height, width, 1 or 3) -> `dtype` (batch, height / 32, width / 32, channels)."""
        if self.has_stem:
            x = Conv(scaled(64, self.width), 7, 2, KERNEL_INIT, self.dtype, name="conv1")(x)
            x = nn.relu(BatchNorm(axis_name=self.axis_name, dtype=self.dtype, name="bn1")(x, train))
            x = max_pool(x)
        for stage in self.built:
            for index in range(self.stages[stage]):
                x = self.block(
                    channels=scaled(64 * 2**stage, self.width),
                    stride=2 if stage > 0 and index == 0 else 1,
                    axis_name=self.axis_name,
                    dtype=self.dtype,
                    name=f"layer{stage + 1}_{index}",
                )(x, train)
        return x


# A trunk may be saved as a Sequential of the network's children, which are then numbered.
_CHILDREN: Final = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
_TORCH: Final = TorchNames(
    anchor="layer1.0.conv1.weight",
    spellings=(
        Spelling("torchvision", {"head": "fc"}),
        Spelling("timm", {"head": "fc"}),
        Spelling("children", {"head": "fc", **_CHILDREN}),
    ),
)

NETWORKS: Final = {
    "resnet18": Architecture(partial(ResNet, stages=(2, 2, 2, 2), block=BasicBlock), "conv1", _TORCH),
    "resnet34": Architecture(partial(ResNet, stages=(3, 4, 6, 3), block=BasicBlock), "conv1", _TORCH),
    "resnet50": Architecture(partial(ResNet, stages=(3, 4, 6, 3), block=Bottleneck), "conv1", _TORCH),
    "resnet101": Architecture(partial(ResNet, stages=(3, 4, 23, 3), block=Bottleneck), "conv1", _TORCH),
    "resnet152": Architecture(partial(ResNet, stages=(3, 8, 36, 3), block=Bottleneck), "conv1", _TORCH),
}
