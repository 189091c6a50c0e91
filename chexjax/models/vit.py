"""Vision transformers: ViT-S/16 as timm defines it, ViT-B/16 as torchvision does, ViT-S/14 and B/14 as DINOv2 does.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, section 3.1 and Table 1 (B); Touvron et al.,
"Training data-efficient image transformers", ICML 2021, Table 1 (S) and Table 9 (stochastic depth); layer scale of
Touvron et al., "Going deeper with Image Transformers", ICCV 2021, section 2.1; Oquab et al., "DINOv2", 2023.
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
from chexjax.models.layers import Dense, Dtype, Patches, add_bias, gelu, scale_channels, scaled
from chexjax.models.trunk import Trunk

KERNEL_INIT: Final = nn.initializers.truncated_normal(0.02)
EPSILON: Final = 1e-6
HEAD: Final = 64  # channels


class Block(nn.Module):
    """Attention among all tokens and two dense layers, each behind a norm (Dosovitskiy et al. 2021, equations 2, 3).

    `scale` is what each half is multiplied by in a new network; None: nothing is. In training, with the chance of
    `drop`, a film goes past either half.
    """

    heads: int
    drop: float
    scale: float | None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        channels = x.shape[-1]
        dense = partial(Dense, kernel_init=KERNEL_INIT, dtype=self.dtype)
        norm = partial(nn.LayerNorm, epsilon=EPSILON, dtype=self.dtype)
        drop = nn.Dropout(self.drop, broadcast_dims=(1, 2), deterministic=not train)

        def half(y: jax.Array, name: str) -> jax.Array:
            return drop(y if self.scale is None else LayerScale(self.scale, self.dtype, name=name)(y))

        y = attend(dense(3 * channels, name="attn_qkv")(norm(name="norm1")(x)), self.heads)
        x += half(dense(channels, name="attn_proj")(y), "ls1")
        y = gelu(dense(4 * channels, name="mlp_fc1")(norm(name="norm2")(x)))
        return x + half(dense(channels, name="mlp_fc2")(y), "ls2")


class LayerScale(nn.Module):
    """A factor for each channel, `scale` at first."""

    scale: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gamma = self.param("gamma", nn.initializers.constant(self.scale), x.shape[-1:], jnp.float32)
        return scale_channels(x, gamma)


class PatchMap(nn.Module):
    """The patches' tokens as a map, as they enter the last block: the last that the class token looks at.

    It changes nothing. It stands here for `explain`, which takes gradients where a module hands over a map.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


class ViT(Trunk, kw_only=True):
    """A trunk of such blocks: films in, the class token (normalised) out, as a map of one cell.

    Between two stages stands a pair: the class token (batch, 1, channels), and the patches' map (batch, height / patch,
    width / patch, channels). `stages` counts the blocks of each, which are all alike. `grid` is the side of the map
    that the position embeddings are learned for; for another one they are resampled, bicubic and antialiased, as timm
    does. `width` multiplies the 64 channels of a head.
    """

    stages: tuple[int, ...] = (3, 3, 3, 3)
    heads: int
    patch: int = 16
    grid: int = 14
    scale: float | None = None
    drop: float = 0.1

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        """float (batch, height, width, 1 or 3) -> `dtype` (batch, 1, 1, channels)."""
        if self.has_stem:
            channels = self.heads * scaled(HEAD, self.width)
            patches = Patches(channels, self.patch, KERNEL_INIT, self.dtype, name="embed")(x)
            shape = (1, 1 + self.grid**2, channels)
            token = self.param("cls_token", nn.initializers.normal(1e-6), (1, 1, channels), jnp.float32)
            positions = self.param("pos_embed", KERNEL_INIT, shape, jnp.float32)
            token = jnp.broadcast_to(token + positions[:, :1], (x.shape[0], 1, channels)).astype(self.dtype)
            patches = add_bias(patches, resampled(positions[:, 1:], patches.shape[1:3]))
        else:
            token, patches = x
        last = sum(self.stages) - 1
        for stage in self.built:
            tokens = joined(token, patches)
            first = sum(self.stages[:stage])
            for index in range(first, first + self.stages[stage]):
                if index == last:
                    token, patches = parted(tokens, patches.shape)
                    tokens = joined(token, PatchMap(name="map")(patches))
                drop = self.drop * index / max(last, 1)
                tokens = Block(self.heads, drop, self.scale, self.dtype, name=f"blocks_{index}")(tokens, train)
            token, patches = parted(tokens, patches.shape)
        if not self.has_end:
            return token, patches
        return nn.LayerNorm(EPSILON, dtype=self.dtype, name="norm")(token)[:, None]


def joined(token: jax.Array, patches: jax.Array) -> jax.Array:
    """The class token (batch, 1, channels) and the patches' map as (batch, tokens, channels)."""
    return jnp.concatenate([token, patches.reshape(patches.shape[0], -1, patches.shape[-1])], axis=1)


def parted(tokens: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """The inverse of `joined`, for a map of this shape."""
    return tokens[:, :1], tokens[:, 1:].reshape(shape)


def resampled(positions: jax.Array, sides: tuple[int, ...]) -> jax.Array:
    """Embeddings of a square grid, (1, cells, channels), as those of another: (1, *sides, channels)."""
    side, channels = math.isqrt(positions.shape[1]), positions.shape[2]
    grid = positions.reshape(1, side, side, channels)
    return grid if sides == (side, side) else jax.image.resize(grid, (1, *sides, channels), "bicubic")


def resize_positions(positions: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Position embeddings, (1, 1 + cells, channels), of a square grid as those of another.

    Raises:
      ValueError: they are of no square grid, or have other channels.
    """
    sides = [math.isqrt(max(extent[1] - 1, 0)) for extent in (positions.shape, shape)]
    if positions.ndim != 3 or positions.shape != (1, 1 + sides[0] ** 2, shape[2]):
        raise ValueError(f"{positions.shape} is not (1, 1 + cells of a square grid, {shape[2]})")
    resized = resampled(jnp.asarray(positions[:, 1:]), (sides[1], sides[1])).reshape(1, -1, shape[2])
    return np.concatenate([positions[:, :1], np.asarray(resized)], axis=1)


# How torch's libraries name the arrays


def _spelling(library: str, top: dict[str, str], block: str, layers: dict[str, Any], former: Any = ()) -> Spelling:
    """`block` is their name of block k, `layers` what they call its modules and arrays."""
    blocks = [(f"blocks.{k}", block.format(k)) for k in range(BLOCKS)]
    modules: dict[str, Any] = dict(top)
    for ours, theirs in blocks:
        for layer, names in layers.items():
            parts = tuple(f"{theirs}.{name}" for name in ([names] if isinstance(names, str) else names))
            modules[f"{ours}.{layer}"] = parts[0] if len(parts) == 1 else parts
    old = {f"{theirs}.{name}": f"{ours}.{layer}" for ours, theirs in blocks for name, layer in former}
    return Spelling(library, modules, old)


BLOCKS: Final = 12
_TIMM: Final = Spelling("timm", {"embed": "patch_embed.proj"})  # and DINOv2's own
_TORCHVISION: Final = _spelling(
    "torchvision",
    {
        "cls_token": "class_token", "pos_embed": "encoder.pos_embedding", "embed": "conv_proj", "norm": "encoder.ln",
        "head": "heads.head",
    },
    "encoder.layers.encoder_layer_{}",
    {
        "norm1": "ln_1", "attn.qkv.weight": "self_attention.in_proj_weight", "attn.proj": "self_attention.out_proj",
        "attn.qkv.bias": "self_attention.in_proj_bias", "norm2": "ln_2", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.3",
    },
    former=[("mlp.linear_1", "mlp.fc1"), ("mlp.linear_2", "mlp.fc2")],
)  # fmt: skip
_TRANSFORMERS: Final = _spelling(  # Hugging Face's Dinov2, of which Rad-DINO is one
    "transformers",
    {
        "cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
        "embed": "embeddings.patch_embeddings.projection", "norm": "layernorm", "head": "classifier",
        "register_tokens": "embeddings.register_tokens", "mask_token": "embeddings.mask_token",
    },
    "encoder.layer.{}",
    {
        "norm1": "norm1", "attn.qkv": [f"attention.attention.{name}" for name in ("query", "key", "value")],
        "attn.proj": "attention.output.dense", "ls1.gamma": "layer_scale1.lambda1", "norm2": "norm2",
        "mlp": "mlp", "ls2.gamma": "layer_scale2.lambda1",
    },
)  # fmt: skip


def _torch_names(*spellings: Spelling) -> TorchNames:
    return TorchNames(
        anchor="blocks.0.norm1.weight",
        spellings=spellings,
        refused=("register_tokens", "reg_token", "dist_token"),
        resized={"pos_embed": resize_positions},
    )


def _network(torch: TorchNames, **fields: Any) -> Architecture:
    return Architecture(partial(ViT, **fields), "embed", torch, has_map=False)


_DINO: Final = {"patch": 14, "grid": 37, "scale": 1e-5}

NETWORKS: Final = {
    "vit_small_16": _network(_torch_names(_TIMM, _TORCHVISION), heads=6),
    "vit_base_16": _network(_torch_names(_TORCHVISION, _TIMM), heads=12),
    "vit_small_14": _network(_torch_names(_TIMM, _TRANSFORMERS), heads=6, **_DINO),
    "vit_base_14": _network(_torch_names(_TIMM, _TRANSFORMERS), heads=12, **_DINO),
}
