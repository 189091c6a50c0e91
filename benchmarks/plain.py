"""Straightforward ResNets and DenseNets in flax.linen: `nn.Conv`, `nn.BatchNorm`, `nn.max_pool`, nothing else.

The peer of our own networks in `benchmarks/compiled.py`: the same layers, shapes and numbers of parameters (He et al.
2016, Table 1, with the stride on the 3x3; Huang et al. 2017, Table 1).
"""

from functools import partial
from typing import Any, Final

import flax.linen as nn
import jax
import jax.numpy as jnp

STAGES: Final = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "densenet121": (6, 12, 24, 16),
    "densenet169": (6, 12, 32, 32),
    "trial": (1, 1),  # for tests
}


def create_plain(name: str, dtype: Any = jnp.float32, axis_name: str | None = None, width: float = 1.0) -> nn.Module:
    """A plain network of 14 outputs by one of our names; arguments as for `chexjax.models.create_model`."""
    kind: Any = PlainDenseNet if name.startswith("densenet") else PlainResNet
    fields = {} if kind is PlainDenseNet else {"bottleneck": name == "resnet50"}
    return kind(STAGES[name], width=width, dtype=dtype, axis_name=axis_name, **fields)


class _Plain(nn.Module):
    """What both families share."""

    stages: tuple[int, ...]
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    def layers(self, train: bool) -> tuple[Any, Any]:
        """Makers of a convolution of (features, size, stride), and of a norm."""
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        axis_name = None if self.is_initializing() else self.axis_name
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=self.dtype, axis_name=axis_name)
        return lambda features, size, stride=1: conv(features, (size, size), stride, padding=(size - 1) // 2), norm

    def channels(self, count: int) -> int:
        return max(4, round(count * self.width))

    def stem(self, x: jax.Array, conv: Any, norm: Any) -> jax.Array:
        x = nn.relu(norm()(conv(self.channels(64), 7, 2)(x)))
        return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))

    def head(self, x: jax.Array) -> jax.Array:
        return nn.Dense(14)(x.mean((1, 2)).astype(jnp.float32))


class PlainResNet(_Plain):
    """float32 (batch, height, width, 1) -> float32 logits (batch, 14)."""

    bottleneck: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        conv, norm = self.layers(train)
        x = self.stem(x, conv, norm)
        for stage, blocks in enumerate(self.stages):
            for block in range(blocks):
                channels, stride = self.channels(64 * 2**stage), 2 if stage and not block else 1
                if self.bottleneck:
                    y = nn.relu(norm()(conv(channels, 1)(x)))
                    y = nn.relu(norm()(conv(channels, 3, stride)(y)))
                    y = norm()(conv(4 * channels, 1)(y))
                else:
                    y = nn.relu(norm()(conv(channels, 3, stride)(x)))
                    y = norm()(conv(channels, 3)(y))
                if x.shape != y.shape:
                    x = norm()(conv(y.shape[-1], 1, stride)(x))
                x = nn.relu(x + y)
        return self.head(x)


class PlainDenseNet(_Plain):
    """float32 (batch, height, width, 1) -> float32 logits (batch, 14)."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        conv, norm = self.layers(train)
        x = self.stem(x, conv, norm)
        growth = self.channels(32)
        for stage, layers in enumerate(self.stages):
            for _ in range(layers):
                y = conv(4 * growth, 1)(nn.relu(norm()(x)))
                x = jnp.concatenate([x, conv(growth, 3)(nn.relu(norm()(y)))], axis=-1)
            x = nn.relu(norm()(x))
            if stage + 1 < len(self.stages):
                x = nn.avg_pool(conv(x.shape[-1] // 2, 1)(x), (2, 2), (2, 2))
        return self.head(x)
