"""The five networks: a convolutional trunk, its global average, and one dense layer of logits."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from chexjax.errors import ConfigError
from chexjax.models.densenet import DenseNet
from chexjax.models.layers import Dtype
from chexjax.models.resnet import BasicBlock, Bottleneck, ResNet

__all__ = ["TRUNKS", "Network", "create_model"]

# A new network is a trunk in a file of its own and one line here.
TRUNKS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": partial(ResNet, stages=(2, 2, 2, 2), block=BasicBlock),
    "resnet34": partial(ResNet, stages=(3, 4, 6, 3), block=BasicBlock),
    "resnet50": partial(ResNet, stages=(3, 4, 6, 3), block=Bottleneck),
    "densenet121": partial(DenseNet, blocks=(6, 12, 24, 16)),
    "densenet169": partial(DenseNet, blocks=(6, 12, 32, 32)),
}


class Network(nn.Module):
    """A classifier: `trunk` makes a feature map, its average over the film goes through one dense layer.

    The parameters are `{"trunk": ..., "head": {"kernel", "bias"}}`. Because nothing stands between the average and
    the logits, a logit is the mean of a class activation map (Zhou et al. 2016), which `explain` relies on.
    """

    trunk: nn.Module
    num_outputs: int = 14

    def setup(self) -> None:
        # torch's default for a linear layer, U(-1/sqrt(n), 1/sqrt(n)); and logits in float32 whatever came before.
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        self.head = nn.Dense(self.num_outputs, kernel_init=uniform, dtype=jnp.float32)

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """float (batch, height, width, 1 or 3), normalised -> float32 logits (batch, num_outputs)."""
        return self.classify(self.features(x, train))

    def features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The last feature map, (batch, height / 32, width / 32, channels)."""
        return self.trunk(x, train)

    def classify(self, features: jax.Array) -> jax.Array:
        """A feature map (batch, height, width, channels) -> float32 logits: the average, then the dense layer."""
        return self.head(features.astype(jnp.float32).mean(axis=(1, 2)))


def create_model(
    name: str,
    num_outputs: int = 14,
    dtype: Dtype = jnp.float32,
    axis_name: str | None = None,
    width: float = 1.0,
) -> Network:
    """A network by its name: one of `TRUNKS`.

    Args:
      name: resnet18, resnet34, resnet50, densenet121 or densenet169.
      num_outputs: how many logits; 14 for ChestX-ray14.
      dtype: of the computation; parameters, batch statistics and logits stay float32.
      axis_name: a pmap axis over which batch statistics are shared; None keeps each device's own.
      width: multiplies every channel count; 1.0 is the published network.

    Returns:
      A `flax.linen` module; `init(key, x, train=False)`, `apply(variables, x, train=False)`.

    Raises:
      ConfigError: no network has that name.
    """
    if name not in TRUNKS:
        raise ConfigError(f"no network is called {name!r}; there are {', '.join(TRUNKS)}")
    return Network(TRUNKS[name](width=width, axis_name=axis_name, dtype=dtype), num_outputs)
