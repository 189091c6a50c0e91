"""What all trunks that can be cut in two share."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from chexjax.models.layers import Dtype


class Trunk(nn.Module, kw_only=True):
    """A trunk made of stages, of which only those from `begin` up to `end` are built.

    `stages` has an entry for each stage; what it holds is the family's affair. `width` multiplies every channel count
    (1.0: as published). `axis_name` is the pmap axis over which batch statistics are shared.
    """

    stages: tuple[Any, ...]
    width: float = 1.0
    begin: int = 0
    end: int | None = None
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @property
    def built(self) -> range:
        """The stages to build."""
        return range(len(self.stages))[self.begin : self.end]

    @property
    def has_stem(self) -> bool:
        """Whether the part before the first stage is built, too."""
        return self.begin == 0

    @property
    def has_end(self) -> bool:
        """Whether the part after the last stage is built, too."""
        return self.built.stop == len(self.stages)
