"""Networks as a config describes them, and the weights they begin with."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from chexjax.models import (
    NETWORKS,
    BranchedNetwork,
    Groups,
    Network,
    cpu_convolution,
    create_branched_model,
    create_model,
)

PyTree = Any
AnyNetwork = Network | BranchedNetwork


def create_network(
    config: ConfigDict, name: str, groups: Groups | None = None, axis_name: str | None = None, num_outputs: int = 14
) -> AnyNetwork:
    """The network that `config.networks[name]` describes.

    Args:
      groups: the outputs of each branch, for a network with branches.
      axis_name: over which devices batch statistics are shared, where the config wants that.
      num_outputs: how many findings there are; `groups` divide as many.
    """
    network = config.networks[name]
    options: dict[str, Any] = {
        "dtype": dtype_of(config),
        "axis_name": axis_name if config.sync_batch_norm else None,
        "width": network.width,
    }
    if network.shared_stages is None:
        return create_model(network.model, num_outputs, **options)
    if groups is None:
        raise ValueError(f"{name} has branches, but no groups are given")
    return create_branched_model(network.model, groups, network.shared_stages, **options)


def dtype_of(config: ConfigDict) -> jnp.dtype:
    """What the run computes in: `config.dtype`, but float32 on a CPU without bfloat16 products."""
    slow = jax.default_backend() == "cpu" and not cpu_convolution.multiplies_bfloat16()
    return jnp.dtype("float32" if config.dtype == "bfloat16" and slow else config.dtype)


def first_variables(config: ConfigDict, name: str, model: AnyNetwork, film_shape: tuple[int, ...]) -> PyTree:
    """New weights and statistics of `config.networks[name]`, in the structure that training keeps.

    `film_shape` is (height, width, channels) of a film as the network sees it.
    """
    variables = create_variables(model, config.seed, config.networks[name].seed, film_shape)
    if source_of(config, name):
        # The structure follows from the config alone, whatever the run starts from: a resume does not need the source.
        stem = stem_of(config.networks[name].model, variables["params"])
        stem["offset"] = jnp.zeros_like(stem["kernel"])
    return variables


def source_of(config: ConfigDict, name: str) -> str:
    """The network's own `init_from`, else the run's; "" for new weights."""
    return config.networks[name].init_from or config.init_from


def stem_of(model: str, params: PyTree) -> dict[str, Any]:
    """The first convolution's parameters, in place; of a network with branches the shared or the stacked ones."""
    trunk = params.get("trunk") or params.get("shared") or params["branch"]["trunk"]
    return trunk[NETWORKS[model].stem]


def create_variables(model: AnyNetwork, run_seed: int, network_seed: int, film_shape: tuple[int, ...]) -> PyTree:
    """New weights and statistics. The k-th branch is drawn as a whole network of the seed `network_seed + k` is."""
    # "rbg" keys: with the default ones, XLA compiles the random draws of the 60 parameters of a ResNet-18 for 24 s.
    run_key = jax.random.key(run_seed, impl="rbg")
    if isinstance(model, Network):
        return _draw(model, film_shape, jax.random.fold_in(run_key, network_seed))
    wholes = []
    for k in range(len(model.groups)):
        branch_key = jax.random.fold_in(run_key, network_seed + k)
        whole = _draw(model.whole(0), film_shape, branch_key)
        # The trunk's draws do not depend on the head's size, so one compilation serves all; the head's do.
        head = _draw_head(model.whole(k), whole["params"]["head"]["kernel"].shape[0], branch_key)
        wholes.append({**whole, "params": {**whole["params"], "head": head}})
    return model.assemble(wholes, film_shape)


@partial(jax.jit, static_argnames=("model", "film_shape"))  # equal networks share the program, as twins do
def _draw(model: Network, film_shape: tuple[int, ...], key: jax.Array) -> PyTree:
    return model.init(key, jnp.zeros((1, *film_shape)))


@partial(jax.jit, static_argnames=("model", "channels"))
def _draw_head(model: Network, channels: int, key: jax.Array) -> PyTree:
    return model.init(key, jnp.zeros((1, 1, 1, channels)), method="classify")["params"]["head"]
