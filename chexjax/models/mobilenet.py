"""MobileNetV2 as torchvision defines it.

Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, Table 2 (the network) and
Table 1 (the block).
"""

from functools import partial
from typing import Final

import flax.linen as nn
import jax
import jax.numpy as jnp

from chexjax.models.architecture import Architecture, Spelling, TorchNames
from chexjax.models.layers import BatchNorm, Conv, Depthwise, Dtype, scaled
from chexjax.models.trunk import Trunk

# torchvision's choice: He et al. 2015, equation 14, counted over the outgoing connections.
KERNEL_INIT: Final = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# Expansion, channels, blocks and stride of each row of Table 2; as stages, the rows of one resolution together.
STAGES: Final = (
    ((1, 16, 1, 1), (6, 24, 2, 2)),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)


class InvertedResidual(nn.Module):
    """1x1 to a wide map, depthwise 3x3, 1x1 to a narrow one, which is not rectified (Sandler et al. 2018, Figure 4)."""

    channels: int
    expansion: int
    stride: int = 1
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = partial(Conv, kernel_init=KERNEL_INIT, dtype=self.dtype)
        norm = partial(BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        y, layer = x, 0
        wide = x.shape[-1] * self.expansion
        if self.expansion > 1:
            y = nn.relu6(norm(name="conv_0_1")(conv(wide, 1, name="conv_0_0")(y), train))
            layer = 1
        y = Depthwise(3, self.stride, False, KERNEL_INIT, self.dtype, name=f"conv_{layer}_0")(y)
        y = nn.relu6(norm(name=f"conv_{layer}_1")(y, train))
        y = conv(self.channels, 1, name=f"conv_{layer + 1}")(y)
        y = norm(name=f"conv_{layer + 2}")(y, train)
        return x + y if x.shape == y.shape else y


class MobileNetV2(Trunk, kw_only=True):
    """A trunk of inverted residuals: films in, the last feature map out.

    Dropout takes whole channels of the last map, which is dropout of the average over the film.
    """

    stages: tuple[tuple[tuple[int, int, int, int], ...], ...] = STAGES
    dropout: float = 0.2

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """float (batch, height, width, 1 or 3) -> `dtype` (batch, height / 32, width / 32, channels)."""
        conv = partial(Conv, kernel_init=KERNEL_INIT, dtype=self.dtype)
        norm = partial(BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        if self.has_stem:
            x = conv(scaled(32, self.width), 3, 2, name="features_0_0")(x)
            x = nn.relu6(norm(name="features_0_1")(x, train))
        number = 0
        for stage, rows in enumerate(self.stages):
            for expansion, channels, blocks, stride in rows:
                for index in range(blocks):
                    number += 1
                    if stage in self.built:
                        x = InvertedResidual(
                            channels=scaled(channels, self.width),
                            expansion=expansion,
                            stride=stride if index == 0 else 1,
                            axis_name=self.axis_name,
                            dtype=self.dtype,
                            name=f"features_{number}",
                        )(x, train)
        if self.has_end:
            x = conv(scaled(1280, self.width), 1, name=f"features_{number + 1}_0")(x)
            x = nn.relu6(norm(name=f"features_{number + 1}_1")(x, train))
            x = nn.Dropout(self.dropout, broadcast_dims=(1, 2))(x, deterministic=not train)
        return x


# timm's names of a block's layers: where it widens, and where it does not.
_TIMM_WIDE: Final = {
    "0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3",
}  # fmt: skip
_TIMM_NARROW: Final = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}


def _timm_names() -> dict[str, str]:
    rows = [(expansion, blocks) for stage in STAGES for expansion, _, blocks, _ in stage]
    end = 1 + sum(blocks for _, blocks in rows)
    names = {
        "features.0.0": "conv_stem", "features.0.1": "bn1", f"features.{end}.0": "conv_head",
        f"features.{end}.1": "bn2", "head": "classifier",
    }  # fmt: skip
    number = 0
    for row, (expansion, blocks) in enumerate(rows):
        layers = _TIMM_WIDE if expansion > 1 else _TIMM_NARROW
        for block in range(blocks):
            number += 1
            names |= {f"features.{number}.conv.{ours}": f"blocks.{row}.{block}.{name}" for ours, name in layers.items()}
    return names


_TORCH: Final = TorchNames(
    anchor="features.1.conv.0.0.weight",
    spellings=(Spelling("torchvision", {"head": "classifier.1"}), Spelling("timm", _timm_names())),
)

NETWORKS: Final = {"mobilenet_v2": Architecture(MobileNetV2, "features_0_0", _TORCH)}
