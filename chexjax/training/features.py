"""What networks see in films, a row a film: their last feature maps, averaged over the film."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from chexjax.data.augment import normalize
from chexjax.data.pipeline import evaluation_batches
from chexjax.devices import at_precision, each_device, replicate
from chexjax.evaluation.evaluator import run_split

PyTree = Any
Extract = Callable[..., Any]  # variables, films as the network sees them -> its feature map


def pooled_features(
    extract: Sequence[Extract], variables: Sequence[PyTree], source: Any, mean: float, std: float, batch_size: int,
    threads: int = 2, done: Callable[[int], Any] = lambda films: None,
) -> np.ndarray:  # fmt: skip
    """The features of every film of `source`, in its order: float32 (films, channels of all networks).

    Args:
      extract: a function for each network.
      variables: a tree for each network.
      source: random access to records, as `Prepared.source` gives it.
      mean, std: of grey / 255, as the networks want it.
      done: is called with the number of films of each batch.
    """

    names = [str(k) for k in range(len(variables))]

    def pooled(variables: dict[str, PyTree], images: jax.Array) -> dict[str, jax.Array]:
        x = normalize(images, mean, std)
        maps = {name: one(variables[name], x) for name, one in zip(names, extract, strict=True)}
        return {name: jnp.asarray(features, jnp.float32).mean(axis=(1, 2)) for name, features in maps.items()}

    run, trees = each_device(at_precision("highest", pooled)), replicate(dict(zip(names, variables, strict=True)))
    found = run_split(run, trees, evaluation_batches(source, batch_size, threads), done)
    return np.concatenate([found[name] for name in names], axis=-1)
