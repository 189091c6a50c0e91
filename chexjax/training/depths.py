"""How deep in a network a parameter lies, for learning rates that fall towards the stem.

Bao et al., "BEiT", ICLR 2022, section 3.2 and appendix: the layer l of L learns at decay^(L - l) times the rate.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from chexjax.models import Network
from chexjax.models.configured import AnyNetwork

PyTree = Any


def depth_groups(model: AnyNetwork, film_shape: tuple[int, ...]) -> list[list[str]]:
    """The trunk's modules from the stem on, grouped: all whose names begin alike, up to their first number.

    So `layer1_0` and `layer1_1` are one group, and `denseblock1_...` another. A module without a number, or of vectors
    alone (a position embedding, a norm after the stem), belongs to the group before it. Of a network with branches
    these are the whole network's.
    """
    modules: dict[str, PyTree] = {}

    def order(key: jax.Array, film: jax.Array) -> PyTree:
        whole = model if isinstance(model, Network) else model.whole(0)
        variables = whole.init(key, film)
        modules.update(variables["params"]["trunk"])  # in the order of the computation, which tracing would sort
        return variables

    jax.eval_shape(order, jax.random.key(0), jnp.zeros((1, *film_shape)))
    groups: list[list[str]] = []
    names: list[str] = []
    for module, params in modules.items():
        found = re.match(r"\D*\d+", module)
        name = found.group() if found else ""
        if names and (name in ("", names[-1]) or max(leaf.ndim for leaf in jax.tree.leaves(params)) < 2):
            groups[-1].append(module)
        else:
            groups.append([module])
            names.append(name)
    return groups


def depth_factors(groups: list[list[str]], decay: float) -> dict[str, float]:
    """By which each module's learning rate is multiplied: decay for the last group, decay^n for the first of n."""
    return {module: decay ** (len(groups) - k) for k, group in enumerate(groups) for module in group}


def scale_by_depth(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies the updates of the trunk's modules by `factors`; the head's stay as they are.

    After SGD, Adam and AdamW, whose updates are proportional to their rate, that is a learning rate of its own for
    each module; the weight decay is scaled with it, as the rules here decay by the rate.
    """

    def factor(path: tuple[Any, ...]) -> float:
        keys = [entry.key for entry in path]
        below = [keys[k + 1] for k, key in enumerate(keys[:-1]) if key in ("trunk", "shared")]
        return factors[below[0]] if below else 1.0

    def scale(updates: PyTree, params: PyTree = None) -> PyTree:
        return jax.tree_util.tree_map_with_path(lambda path, update: update * factor(path), updates)

    return optax.stateless(scale)
