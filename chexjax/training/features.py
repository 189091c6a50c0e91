"""What networks see in films, a row a film: their last feature maps, averaged over the film."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from chexjax.data.augment import normalize
from chexjax.data.pipeline import evaluation_batches
from chexjax.devices import at_precision, each_device, replicate
from chexjax.evaluation.evaluator import gather

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

    def pooled(variables: Sequence[PyTree], images: jax.Array) -> list[jax.Array]:
        x = normalize(images, mean, std)
        maps = [one(tree, x) for one, tree in zip(extract, variables, strict=True)]
        return [jnp.asarray(features, jnp.float32).mean(axis=(1, 2)) for features in maps]

    run, trees = each_device(at_precision("highest", pooled)), replicate(list(variables))
    rows, order = [], []
    for batch in evaluation_batches(source, batch_size, threads):
        features = {str(k): channels for k, channels in enumerate(run(trees, batch["image"]))}
        found = gather({"film": batch["film"], "mask": batch["mask"], **features})
        real = found["mask"].reshape(-1)
        order.append(found["film"].reshape(-1)[real])
        rows.append(np.concatenate([found[k].reshape(real.size, -1)[real] for k in features], axis=-1))
        done(int(real.sum()))
    return np.concatenate(rows)[np.argsort(np.concatenate(order))]
