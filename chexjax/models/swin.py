"""Swin-T as torchvision defines it.

Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021, sections 3.1
to 3.3 (the network, shifted windows, its sizes); stochastic depth of Huang et al. 2016, section 3, with a chance that
grows linearly over the blocks.
"""

import math
from functools import partial
from typing import Any, Final

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from chexjax.models.architecture import Architecture, Spelling, TorchNames
from chexjax.models.attention import attend
from chexjax.models.layers import Dense, Dtype, Patches, gelu, scaled
from chexjax.models.trunk import Trunk

KERNEL_INIT: Final = nn.initializers.truncated_normal(0.02)
WINDOW: Final = 7  # cells on a side
HEAD: Final = 32  # channels
APART: Final = -100.0  # added to the logit of two cells that a shift has brought together


class Block(nn.Module):
    """Attention within windows, shifted in every other block, and two dense layers, each behind a norm (Figure 3).

    In training, with the chance of `drop`, a film goes past either half.
    """

    heads: int
    shift: int
    drop: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        channels, (height, width) = x.shape[-1], x.shape[1:3]
        dense = partial(Dense, kernel_init=KERNEL_INIT, dtype=self.dtype)
        norm = partial(nn.LayerNorm, epsilon=1e-5, dtype=self.dtype)
        drop = nn.Dropout(self.drop, broadcast_dims=(1, 2, 3), deterministic=not train)
        y = norm(name="norm1")(x)
        y = jnp.pad(y, ((0, 0), (0, -height % WINDOW), (0, -width % WINDOW), (0, 0)))
        # Where one window covers an axis there is nothing to shift.
        shifts = [self.shift if side > WINDOW else 0 for side in y.shape[1:3]]
        windows = cut(jnp.roll(y, [-shift for shift in shifts], (1, 2)))
        bias = PositionBias(self.heads, name="attn")()
        if any(shifts):
            bias = bias + separation(y.shape[1:3], shifts)[:, None]
        windows = attend(dense(3 * channels, name="attn_qkv")(windows), self.heads, bias)
        windows = dense(channels, name="attn_proj")(windows)
        y = jnp.roll(joined(windows, y.shape), shifts, (1, 2))[:, :height, :width]
        x += drop(y)
        y = dense(4 * channels, name="mlp_0")(norm(name="norm2")(x))
        return x + drop(dense(channels, name="mlp_3")(gelu(y)))


class PositionBias(nn.Module):
    """What is added to the logit of two cells of a window for how they lie to each other (section 3.2, equation 4)."""

    heads: int

    @nn.compact
    def __call__(self) -> jax.Array:
        """float32 (heads, cells, cells)."""
        shape = ((2 * WINDOW - 1) ** 2, self.heads)
        table = self.param("relative_position_bias_table", KERNEL_INIT, shape, jnp.float32)
        return jnp.moveaxis(table[RELATIVE], -1, 0)


def relative_positions(side: int) -> np.ndarray:
    """For any two cells of a window, the row of the table: int64 (cells, cells)."""
    positions = np.stack(np.unravel_index(np.arange(side * side), (side, side)))
    down, right = positions[:, :, None] - positions[:, None] + side - 1
    return down * (2 * side - 1) + right


RELATIVE: Final = relative_positions(WINDOW)


def cut(x: Any) -> Any:
    """A map (batch, height, width, channels) into windows (batch, windows, cells, channels)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, WINDOW * WINDOW, channels)


def joined(windows: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Windows into the map of this shape: the inverse of `cut`."""
    batch, height, width, channels = shape
    x = windows.reshape(batch, height // WINDOW, width // WINDOW, WINDOW, WINDOW, channels)
    return x.swapaxes(2, 3).reshape(shape)


def separation(sides: tuple[int, ...], shifts: list[int]) -> np.ndarray:
    """Keeps apart what a shift has brought into one window from opposite ends of the film (section 3.2, Figure 4).

    float32 (windows, cells, cells), to be added to logits.
    """
    height, width = (
        np.digitize(np.arange(side), [side - WINDOW, side - shift]) if shift else np.zeros(side, np.int64)
        for side, shift in zip(sides, shifts, strict=True)
    )
    regions = np.asarray(cut((3 * height[:, None] + width)[None, ..., None]))[0, ..., 0]
    return np.where(regions[:, :, None] == regions[:, None], 0.0, APART).astype(np.float32)


class Swin(Trunk, kw_only=True):
    """A trunk of such blocks: films in, the last feature map (normalised) out.

    `stages` counts the blocks of each stage; `heads` those of the first, which each later stage doubles; `drop` is the
    chance that a film goes past the last block. `width` multiplies the 32 channels of a head.
    """

    heads: int
    drop: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """float (batch, height, width, 1 or 3) -> `dtype` (batch, height / 32, width / 32, channels)."""
        norm = partial(nn.LayerNorm, epsilon=1e-5, dtype=self.dtype)
        if self.has_stem:
            x = Patches(self.heads * scaled(HEAD, self.width), 4, dtype=self.dtype, name="features_0_0")(x)
            x = norm(name="features_0_2")(x)
        last = sum(self.stages) - 1
        for stage in self.built:
            heads = self.heads * 2**stage
            if stage > 0:
                x = norm(name=f"features_{2 * stage}_norm")(merged(x))
                dense = partial(nn.Dense, use_bias=False, kernel_init=KERNEL_INIT, dtype=self.dtype)
                x = dense(heads * scaled(HEAD, self.width), name=f"features_{2 * stage}_reduction")(x)
            for index in range(self.stages[stage]):
                drop = self.drop * (sum(self.stages[:stage]) + index) / max(last, 1)
                shift = WINDOW // 2 if index % 2 else 0
                x = Block(heads, shift, drop, self.dtype, name=f"features_{2 * stage + 1}_{index}")(x, train)
        return norm(name="norm")(x) if self.has_end else x


def merged(x: jax.Array) -> jax.Array:
    """A map (batch, height, width, channels) -> (batch, height / 2, width / 2, 4 * channels), rounded up."""
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return x.transpose(0, 1, 3, 4, 2, 5).reshape(batch, height // 2, width // 2, 4 * channels)


def _names(stages: tuple[int, ...], head: str, former: int) -> dict[str, str]:
    """timm's names; `former` is 1 for those of the paper's own code, where a stage ends by merging, not begins."""
    names = {"features.0.0": "patch_embed.proj", "features.0.2": "patch_embed.norm", "head": head}
    for stage, blocks in enumerate(stages):
        if stage:
            names[f"features.{2 * stage}"] = f"layers.{stage - former}.downsample"
        for block in range(blocks):
            ours, theirs = f"features.{2 * stage + 1}.{block}", f"layers.{stage}.blocks.{block}"
            names |= {ours: theirs, f"{ours}.mlp.0": f"{theirs}.mlp.fc1", f"{ours}.mlp.3": f"{theirs}.mlp.fc2"}
    return names


def _is_separation(mask: np.ndarray) -> bool:
    """Whether a saved mask is what keeps shifted windows apart on a square film of its size."""
    windows = math.isqrt(mask.shape[0]) if mask.ndim == 3 else 0
    return windows > 1 and np.array_equal(mask, separation((windows * WINDOW,) * 2, [WINDOW // 2] * 2))


def _network(stages: tuple[int, ...], heads: int, drop: float) -> Architecture:
    index = "relative_position_index"
    timm = Spelling("timm", _names(stages, "head.fc", 0), omitted=(index,))
    authors = Spelling("Microsoft", _names(stages, "head", 1), read_only=True)  # and timm before 0.9
    names = TorchNames(
        anchor="features.1.0.attn.relative_position_bias_table",
        spellings=(Spelling("torchvision"), timm, authors),
        constants={"relative_position_bias_table": (index, RELATIVE.reshape(-1))},
        derived={"attn_mask": _is_separation},
    )
    return Architecture(partial(Swin, stages=stages, heads=heads, drop=drop), "features_0_0", names)


NETWORKS: Final = {"swin_t": _network((2, 2, 6, 2), heads=3, drop=0.2)}
