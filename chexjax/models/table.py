"""The table of networks, and a network by its name, whole or cut into branches."""

from importlib import import_module
from typing import Final

import jax.numpy as jnp

from chexjax.errors import ConfigError
from chexjax.models.architecture import Architecture
from chexjax.models.layers import Dtype
from chexjax.models.network import BranchedNetwork, Groups, Network, stages_of

# A new network is a module here with a table `NETWORKS` of its records, and one line.
FAMILIES: Final = (
    "resnet",
    "densenet",
    "mobilenet",
    "efficientnet",
    "convnext",
    "vit",
    "swin",
)

NETWORKS: Final[dict[str, Architecture]] = {
    name: architecture
    for family in FAMILIES
    for name, architecture in import_module(f"chexjax.models.{family}").NETWORKS.items()
}


def architecture_of(name: str) -> Architecture:
    """The record of a network.

    Raises:
      ConfigError: no network has that name.
    """
    if name not in NETWORKS:
        raise ConfigError(f"no network is called {name!r}; there are {', '.join(NETWORKS)}")
    return NETWORKS[name]


def create_model(
    name: str,
    num_outputs: int = 14,
    dtype: Dtype = jnp.float32,
    axis_name: str | None = None,
    width: float = 1.0,
) -> Network:
    """A network by its name.

    Args:
      name: a key of `NETWORKS`: resnet18, densenet121, ...
      num_outputs: how many logits; 14 for ChestX-ray14.
      dtype: of the computation; parameters, batch statistics and logits stay float32.
      axis_name: a pmap axis over which batch statistics are shared; None keeps each device's own.
      width: multiplies every channel count; 1.0 is the published network.

    Returns:
      A `flax.linen` module; `init(key, x, train=False)`, `apply(variables, x, train=False)`.

    Raises:
      ConfigError: no network has that name.
    """
    architecture = architecture_of(name)
    trunk = architecture.trunk(width=width, axis_name=axis_name, dtype=dtype)
    return Network(trunk, num_outputs, architecture.norm_epsilon, architecture.has_map)


def create_branched_model(
    name: str,
    groups: Groups,
    shared_stages: int = 0,
    dtype: Dtype = jnp.float32,
    axis_name: str | None = None,
    width: float = 1.0,
) -> BranchedNetwork:
    """A network with a branch for each group of outputs.

    Args:
      groups: the outputs of each branch; together every output once.
      shared_stages: how many of the trunk's stages all branches share, from the stem on. With 0 they share
        nothing, and are specialists: whole networks side by side.
      name, dtype, axis_name, width: as for `create_model`.

    Raises:
      ConfigError: no network has that name, `shared_stages` leaves nothing to branch, or the groups are no partition.
    """
    whole = create_model(name, max(map(len, groups), default=0), dtype, axis_name, width)
    stages = stages_of(whole.trunk)
    if not 0 <= shared_stages < stages:
        raise ConfigError(f"shared_stages is {shared_stages}; {name} can share 0 to {stages - 1} stages")
    outputs = sorted(output for group in groups for output in group)
    if not outputs or outputs != list(range(len(outputs))) or not all(groups):
        raise ConfigError(f"groups must hold every output once, and none may be empty; got {groups}")
    if not shared_stages:
        return BranchedNetwork(whole, groups)
    branch = whole.clone(trunk=whole.trunk.clone(begin=shared_stages))
    return BranchedNetwork(branch, groups, whole.trunk.clone(end=shared_stages))
