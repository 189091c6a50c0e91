"""EfficientNet-B0 and B3 as torchvision defines them.

Source: Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, Table 1 (B0)
and section 3.3 (the larger ones); the block of Sandler et al. 2018, Figure 4, with the gate of Hu et al.,
"Squeeze-and-Excitation Networks", CVPR 2018, section 3; stochastic depth of Huang et al. 2016, section 3, with a chance
that grows linearly over the blocks.
"""

import math
from functools import partial
from typing import Any, Final

import flax.linen as nn
import jax
import jax.numpy as jnp

from chexjax.models.architecture import Architecture, Spelling, TorchNames
from chexjax.models.layers import BatchNorm, Conv, Depthwise, Dtype, Patches, scale_channels, scaled
from chexjax.models.trunk import Trunk

# torchvision's choice: He et al. 2015, equation 14, counted over the outgoing connections.
KERNEL_INIT: Final = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# Expansion, kernel, stride, channels and blocks of rows 2 to 8 of Table 1; as stages, those of one resolution together.
STAGES: Final = (
    ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2)),
    ((6, 5, 2, 40, 2),),
    ((6, 3, 2, 80, 3), (6, 5, 1, 112, 3)),
    ((6, 5, 2, 192, 4), (6, 3, 1, 320, 1)),
)
SQUEEZE: Final = 4  # times as many channels has a block's input as its gate sees


class Block(nn.Module):
    """1x1 to a wide map, a depthwise convolution, a gate for each channel, 1x1 to a narrow map (Table 1, "MBConv").

    In training, with the chance of `drop`, a film goes past a block that has a shortcut.
    """

    channels: int
    expansion: int
    size: int
    stride: int
    drop: float
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = partial(Conv, kernel_init=KERNEL_INIT, dtype=self.dtype)
        norm = partial(BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        dense = partial(Patches, size=1, kernel_init=KERNEL_INIT, dtype=self.dtype)
        y, layer = x, 0
        wide = x.shape[-1] * self.expansion
        if self.expansion > 1:
            y = nn.silu(norm(name="block_0_1")(conv(wide, 1, name="block_0_0")(y), train))
            layer = 1
        y = Depthwise(self.size, self.stride, False, KERNEL_INIT, self.dtype, name=f"block_{layer}_0")(y)
        y = nn.silu(norm(name=f"block_{layer}_1")(y, train))
        gate = dense(max(1, x.shape[-1] // SQUEEZE), name=f"block_{layer + 1}_fc1")(y.mean((1, 2), keepdims=True))
        y = scale_channels(y, nn.sigmoid(dense(wide, name=f"block_{layer + 1}_fc2")(nn.silu(gate))))
        y = conv(self.channels, 1, name=f"block_{layer + 2}_0")(y)
        y = norm(name=f"block_{layer + 2}_1")(y, train)
        if x.shape != y.shape:
            return y
        return x + nn.Dropout(self.drop, broadcast_dims=(1, 2, 3))(y, deterministic=not train)


class EfficientNet(Trunk, kw_only=True):
    """A trunk of such blocks: films in, the last feature map out.

    `widen` and `deepen` multiply the channels and the blocks of `stages`, as section 3.3 does. `drop` is the chance
    that a film goes past a block behind the last. Dropout takes whole channels of the last map, which is dropout of
    the average over the film.
    """

    stages: tuple[tuple[tuple[int, int, int, int, int], ...], ...] = STAGES
    widen: float = 1.0
    deepen: float = 1.0
    drop: float = 0.2
    dropout: float = 0.2

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """float (batch, height, width, 1 or 3) -> `dtype` (batch, height / 32, width / 32, channels)."""
        conv = partial(Conv, kernel_init=KERNEL_INIT, dtype=self.dtype)
        norm = partial(BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        if self.has_stem:
            x = conv(self.channels(32), 3, 2, name="features_0_0")(x)
            x = nn.silu(norm(name="features_0_1")(x, train))
        rows = [(stage, row) for stage, rows in enumerate(self.stages) for row in rows]
        blocks = [math.ceil(count * self.deepen) for _, (*_, count) in rows]
        for stage_index, (stage, (expansion, size, stride, channels, _)) in enumerate(rows):
            for index in range(blocks[stage_index] if stage in self.built else 0):
                x = Block(
                    channels=self.channels(channels),
                    expansion=expansion,
                    size=size,
                    stride=stride if index == 0 else 1,
                    drop=self.drop * (sum(blocks[:stage_index]) + index) / sum(blocks),
                    axis_name=self.axis_name,
                    dtype=self.dtype,
                    name=f"features_{stage_index + 1}_{index}",
                )(x, train)
        if self.has_end:
            last = self.channels(4 * rows[-1][1][3])
            x = conv(last, 1, name=f"features_{len(rows) + 1}_0")(x)
            x = nn.silu(norm(name=f"features_{len(rows) + 1}_1")(x, train))
            x = nn.Dropout(self.dropout, broadcast_dims=(1, 2))(x, deterministic=not train)
        return x

    def channels(self, count: int) -> int:
        """`count` times `widen`, as the nearest multiple of 8 that loses no more than a tenth; then times `width`."""
        wanted = count * self.widen
        nearest = max(8, int(wanted + 4) // 8 * 8)
        return scaled(nearest + 8 if nearest < 0.9 * wanted else nearest, self.width)


# timm's names of a block's layers: where it widens, and where it does not.
_TIMM_WIDE: Final = {
    "0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2",
    "2.fc1": "se.conv_reduce", "2.fc2": "se.conv_expand", "3.0": "conv_pwl", "3.1": "bn3",
}  # fmt: skip
_TIMM_NARROW: Final = {
    "0.0": "conv_dw", "0.1": "bn1", "1.fc1": "se.conv_reduce", "1.fc2": "se.conv_expand",
    "2.0": "conv_pw", "2.1": "bn2",
}  # fmt: skip
_CAUTION: Final = (
    "timm's tf_efficientnet networks have the same names and shapes, but pad as TensorFlow does, with another epsilon: "
    "their weights give wrong logits here, and the file does not say which it holds"
)


_FOREIGN: Final = (
    "a name of lukemelas' EfficientNet-PyTorch, whose networks pad as TensorFlow does, with another epsilon: they "
    "would give wrong logits here; take torchvision's weights, or timm's efficientnet_b0 and b3 (not its tf_ ones)"
)


def _timm_names(deepen: float) -> dict[str, str]:
    rows = [(expansion, math.ceil(count * deepen)) for stage in STAGES for expansion, *_, count in stage]
    end = f"features.{len(rows) + 1}"
    names = {
        "features.0.0": "conv_stem", "features.0.1": "bn1", f"{end}.0": "conv_head", f"{end}.1": "bn2",
        "head": "classifier",
    }  # fmt: skip
    for row, (expansion, blocks) in enumerate(rows):
        layers = _TIMM_WIDE if expansion > 1 else _TIMM_NARROW
        for block in range(blocks):
            ours, theirs = f"features.{row + 1}.{block}.block", f"blocks.{row}.{block}"
            names |= {f"{ours}.{layer}": f"{theirs}.{name}" for layer, name in layers.items()}
    return names


def _network(deepen: float = 1.0, **fields: Any) -> Architecture:
    timm = Spelling("timm", _timm_names(deepen), caution=_CAUTION)
    names = TorchNames(
        anchor="features.1.0.block.1.fc1.weight",
        spellings=(Spelling("torchvision", {"head": "classifier.1"}), timm),
        foreign={"_blocks.0._depthwise_conv.weight": _FOREIGN},
    )
    return Architecture(partial(EfficientNet, deepen=deepen, **fields), "features_0_0", names)


NETWORKS: Final = {
    "efficientnet_b0": _network(),
    "efficientnet_b3": _network(widen=1.2, deepen=1.4, dropout=0.3),
}
