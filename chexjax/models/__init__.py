"""The five networks by name, whole or cut into branches."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from chexjax.errors import ConfigError
from chexjax.models.densenet import DenseNet
from chexjax.models.layers import Dtype
from chexjax.models.network import BranchedNetwork, Groups, Network
from chexjax.models.resnet import BasicBlock, Bottleneck, ResNet

__all__ = ["TRUNKS", "BranchedNetwork", "Groups", "Network", "create_branched_model", "create_model"]

# A new network is a trunk in a file of its own and one line here.
TRUNKS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": partial(ResNet, stages=(2, 2, 2, 2), block=BasicBlock),
    "resnet34": partial(ResNet, stages=(3, 4, 6, 3), block=BasicBlock),
    "resnet50": partial(ResNet, stages=(3, 4, 6, 3), block=Bottleneck),
    "densenet121": partial(DenseNet, stages=(6, 12, 24, 16)),
    "densenet169": partial(DenseNet, stages=(6, 12, 32, 32)),
}


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
      shared_stages: how many of the trunk's four stages all branches share, from the stem on. With 0 they share
        nothing, and are specialists: whole networks side by side.
      name, dtype, axis_name, width: as for `create_model`.

    Raises:
      ConfigError: no network has that name, `shared_stages` leaves nothing to branch, or the groups are no partition.
    """
    whole = create_model(name, max(map(len, groups), default=0), dtype, axis_name, width)
    stages = len(whole.trunk.stages)
    if not 0 <= shared_stages < stages:
        raise ConfigError(f"shared_stages is {shared_stages}; {name} can share 0 to {stages - 1} stages")
    outputs = sorted(output for group in groups for output in group)
    if not outputs or outputs != list(range(len(outputs))) or not all(groups):
        raise ConfigError(f"groups must hold every output once, and none may be empty; got {groups}")
    shared = whole.trunk.clone(end=shared_stages) if shared_stages else None
    branch = whole.clone(trunk=whole.trunk.clone(begin=shared_stages))
    return BranchedNetwork(branch, groups, shared)
