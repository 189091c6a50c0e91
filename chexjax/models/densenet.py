"""DenseNet-121, 169 and 201 as torchvision defines them.

Source: Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, Table 1 (the "BC" form: bottlenecks of
four times the growth rate, and transitions that halve the channels).
"""

from functools import partial
from typing import Final

import flax.linen as nn
import jax
import jax.numpy as jnp

from chexjax.models.architecture import Architecture, Spelling, TorchNames
from chexjax.models.convolution import max_pool
from chexjax.models.layers import BatchNorm, Conv, Dtype, batch_moments, scaled
from chexjax.models.trunk import Trunk

# torchvision's choice: He et al. 2015, equation 10, counted over the incoming connections.
KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
BOTTLENECK = 4


class DenseLayer(nn.Module):
    """Norm, 1x1, norm, 3x3: `growth` new channels out of all earlier ones, `x` (Huang et al. 2017, section 3)."""

    growth: int
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, moments: jax.Array | None) -> jax.Array:
        conv = partial(Conv, kernel_init=KERNEL_INIT, dtype=self.dtype)
        norm = partial(BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        y = nn.relu(norm(name="norm1")(x, train, moments))
        y = conv(BOTTLENECK * self.growth, 1, name="conv1")(y)
        y = nn.relu(norm(name="norm2")(y, train))
        return conv(self.growth, 3, name="conv2")(y)


class DenseNet(Trunk, kw_only=True):
    """A dense trunk: films in, the last feature map (normalised and rectified) out.

    `stages` counts the layers of each dense block; `width` multiplies the growth rate of 32 and the stem's 64 channels.
    The transition behind a block belongs to its stage.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """float (batch, height, width, 1 or 3) -> `dtype` (batch, height / 32, width / 32, channels)."""
        conv = partial(Conv, kernel_init=KERNEL_INIT, dtype=self.dtype)
        norm = partial(BatchNorm, axis_name=self.axis_name, dtype=self.dtype)
        axis_name = None if self.is_initializing() else self.axis_name
        if self.has_stem:
            x = conv(scaled(64, self.width), 7, 2, name="conv0")(x)
            x = max_pool(nn.relu(norm(name="norm0")(x, train)))
        for stage in self.built:
            block = stage + 1
            moments = batch_moments(x, axis_name) if train else None
            for layer in range(1, self.stages[stage] + 1):
                y = DenseLayer(
                    growth=scaled(32, self.width),
                    axis_name=self.axis_name,
                    dtype=self.dtype,
                    name=f"denseblock{block}_denselayer{layer}",
                )(x, train, moments)
                x = jnp.concatenate([x, y], axis=-1)
                # What earlier layers have seen of a channel holds for this one: only the new channels are summed.
                if moments is not None:
                    moments = jnp.concatenate([moments, batch_moments(y, axis_name)], axis=-1)
            if block == len(self.stages):
                return nn.relu(norm(name="norm5")(x, train, moments))
            x = nn.relu(norm(name=f"transition{block}_norm")(x, train, moments))
            x = conv(x.shape[-1] // 2, 1, name=f"transition{block}_conv")(x)
            x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        return x


def _torch_names(stages: tuple[int, ...]) -> TorchNames:
    """torchvision's and timm's names; a trunk saved alone lacks `features.`. Files of 2017 write `norm.1`."""
    blocks = range(1, len(stages) + 1)
    top = ["conv0", "norm0", "norm5", *(f"{kind}{k}" for kind in ("denseblock", "transition") for k in blocks)]
    layers = [f"denseblock{k}.denselayer{layer}" for k in blocks for layer in range(1, stages[k - 1] + 1)]
    former = {
        f"{layer}.{kind}.{k}": f"{layer}.{kind}{k}" for layer in layers for kind in ("norm", "conv") for k in (1, 2)
    }
    whole = {"head": "classifier", **{name: f"features.{name}" for name in top}}
    return TorchNames(
        anchor="transition1.conv.weight",
        spellings=(
            Spelling("torchvision", whole, {f"features.{name}": ours for name, ours in former.items()}),
            Spelling("timm", whole),
            Spelling("trunk", {"head": "classifier"}, former),
        ),
    )


NETWORKS: Final = {
    name: Architecture(partial(DenseNet, stages=stages), "conv0", _torch_names(stages))
    for name, stages in {
        "densenet121": (6, 12, 24, 16),
        "densenet169": (6, 12, 32, 32),
        "densenet201": (6, 12, 48, 32),
    }.items()
}
