"""Networks for tests of logic: few layers, and variables without compiling the program that draws them."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chexjax.models import NETWORKS, create_model
from chexjax.models.efficientnet import EfficientNet
from chexjax.models.mobilenet import MobileNetV2
from chexjax.models.swin import Swin

RANGES = {"scale": (0.5, 1.5), "var": (0.5, 2.0), "layer_scale": (0.1, 0.5)}  # of other vectors: -0.3 to 0.3


def make_shallow(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """For one test: leaves the network a block for each row of its published table (a Swin two, to shift one)."""
    trunk = create_model(name).trunk
    blocks = {EfficientNet: 4, MobileNetV2: 2}.get(type(trunk))  # the column of a row that counts them

    def cut(stage: Any) -> Any:
        if blocks is None:
            return 2 if isinstance(trunk, Swin) else 1
        return tuple((*row[:blocks], 1, *row[blocks + 1 :]) for row in stage)

    known = NETWORKS[name]
    stages = tuple(map(cut, trunk.stages))
    monkeypatch.setitem(NETWORKS, name, replace(known, trunk=partial(known.trunk, stages=stages)))


def drawn(model: Any, *film_shape: int, seed: int = 0) -> Any:
    """Kernels as He et al. 2015 draw them; vectors, running statistics among them, that no new network has.

    `film_shape` is (height, width, channels).
    """
    random, film = np.random.default_rng(seed), jax.ShapeDtypeStruct((1, *film_shape), jnp.float32)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if path[-1].key == "kernel":
            branches = leaf.shape[0] if path[1].key == "branch" else 1
            values = random.normal(0, np.sqrt(2 * branches / np.prod(leaf.shape[:-1])), leaf.shape)
        else:
            values = random.uniform(*RANGES.get(path[-1].key, (-0.3, 0.3)), leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), film)
    return jax.tree_util.tree_map_with_path(draw, dict(shapes))
