"""How deep in its network each parameter stands: what a layer-wise decay of the learning rate goes by."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from chexjax.models import architecture_of
from chexjax.models.architecture import Architecture

PyTree = Any


def layer_depths(model: str, params: PyTree) -> PyTree:
    """The depth of each parameter: 0 for the stem, 1 for the first block, ..., and one more than the last block's for
    the head and for what stands between the last block and it.

    A block is a module of the trunk that has modules of its own. What stands alone between two blocks, such as a
    downsampling layer, has the depth of the later one. Source: Bao et al., "BEiT", 2021, appendix; Liu et al. 2022,
    appendix A, with a group a block.

    Args:
      model: a key of `NETWORKS`.
      params: of that network, whole or with branches, of any width.

    Returns:
      ints in the structure of `params`; the largest is the head's.

    Raises:
      ConfigError: no network has that name.
    """
    depths, head = _depths(architecture_of(model))

    def depth_of(path: tuple[Any, ...], _: Any) -> int:
        names = [key.key for key in path]
        roofs = [names.index(part) for part in ("trunk", "shared") if part in names[:2]]
        # A parameter of the trunk itself, as a class token, is of the stem.
        return depths.get(names[roofs[0] + 1], 0) if roofs else head

    return jax.tree_util.tree_map_with_path(depth_of, params)


@functools.cache
def _depths(architecture: Architecture) -> tuple[dict[str, int], int]:
    """The depth of each of the trunk's modules, and the head's."""
    trunk = architecture.trunk(width=1.0, axis_name=None, dtype=jnp.float32)
    called: dict[str, None] = {}
    blocks: set[str] = set()

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        path = context.module.path
        if path:
            called.setdefault(path[0])
        if len(path) > 1:
            blocks.add(path[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(trunk.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32))
    depths, count = {}, 0
    for name in called:
        count += name in blocks
        depths[name] = count if name in blocks or not count else count + 1
    return depths, count + 1
