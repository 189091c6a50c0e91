"""Groups of findings for branches and specialists: the report's, or found by clustering the training films.

Clusters are those of scikit-learn's agglomerative clustering, which draws nothing at random: the same films give the
same groups. They are listed by their first finding, and findings in the usual order.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from sklearn.cluster import AgglomerativeClustering

from chexjax.data.augment import normalize
from chexjax.data.pipeline import evaluation_batches
from chexjax.data.prepared import Prepared
from chexjax.devices import at_precision, each_device, replicate
from chexjax.errors import ConfigError
from chexjax.evaluation.evaluator import gather
from chexjax.findings import FINDINGS, SPECIALIST_GROUPS
from chexjax.models import Groups
from chexjax.models.network import by_names
from chexjax.workdir.restore import Restored, restore_others


def find_groups(config: ConfigDict, films: Prepared) -> Groups:
    """The groups that `config.groups` asks for, as places in FINDINGS.

    "report": the four of its chapter 5. "cooccurrence": findings that the training films have together.
    "embeddings": findings whose films look alike to the network trained in the workdir `groups.network`.

    Raises:
      ConfigError: no network is given, or it was trained on films of another kind.
      CheckpointError: it cannot be restored.
    """
    if config.groups.by == "report":
        return by_names(SPECIALIST_GROUPS)
    labels = films.parts["train"].labels
    if config.groups.by == "cooccurrence":
        return cluster(cooccurrence(labels), config.groups.count)
    restored = restore_others(config.groups.network, "groups.network", config)
    return cluster(likeness(embed(restored, films, config), labels), config.groups.count)


def cooccurrence(labels: np.ndarray) -> np.ndarray:
    """How often findings go together: the correlation of their labels (the phi coefficient).

    uint8 (films, findings) -> float64 (findings, findings) in [-1, 1]; 0 for a finding that no film has, or every.
    """
    return _correlation(labels.astype(np.float64).T)


def likeness(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How alike findings look: the correlation of their mean embeddings, each channel standardised over the films.

    float (films, channels) and uint8 (films, findings) -> float64 (findings, findings) in [-1, 1].
    """
    embeddings = np.asarray(embeddings, np.float64)
    spread = embeddings.std(axis=0)
    standard = (embeddings - embeddings.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    counts = np.maximum(labels.sum(axis=0, dtype=np.float64), 1.0)
    return _correlation((labels.astype(np.float64).T @ standard) / counts[:, None])


def _correlation(rows: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1)
    centred /= np.where(norms > 0, norms, 1.0)[:, None]
    return centred @ centred.T


def cluster(similarity: np.ndarray, count: int) -> Groups:
    """`count` groups out of similarities (findings, findings), by average linkage of 1 - similarity."""
    rule = AgglomerativeClustering(n_clusters=count, metric="precomputed", linkage="average")
    home = rule.fit_predict(1.0 - similarity)
    groups = [tuple(int(output) for output in np.flatnonzero(home == label)) for label in range(count)]
    return tuple(sorted(groups))


def embed(restored: Restored, films: Prepared, config: ConfigDict) -> np.ndarray:
    """The restored networks' last features of every training film, averaged over the film: (films, channels of all)."""

    def pooled(variables: dict, images: jax.Array) -> list[Any]:
        x = normalize(images, restored.config.data.mean, restored.config.data.std)
        maps = [model.apply(variables[n], x, method="features") for n, model in restored.models.items()]
        return [jnp.asarray(features, jnp.float32).mean(axis=(1, 2)) for features in maps]

    run, variables = each_device(at_precision("highest", pooled)), replicate(restored.variables)
    rows, order = [], []
    for batch in evaluation_batches(films.source("train"), config.batch_size, config.data.threads):
        features = {str(k): channels for k, channels in enumerate(run(variables, batch["image"]))}
        found = gather({"film": batch["film"], "mask": batch["mask"], **features})
        real = found["mask"].reshape(-1)
        order.append(found["film"].reshape(-1)[real])
        rows.append(np.concatenate([found[k].reshape(real.size, -1)[real] for k in features], axis=-1))
    return np.concatenate(rows)[np.argsort(np.concatenate(order))]


def check_groups(config: ConfigDict) -> None:
    """Refuses a `config.groups` that no run can use.

    Raises:
      ConfigError: names the field, what it holds and what it may hold.
    """
    if not 1 <= config.groups.count <= len(FINDINGS):
        raise ConfigError(f"config.groups.count is {config.groups.count!r}; it must lie between 1 and {len(FINDINGS)}")
    if config.groups.by == "embeddings" and not config.groups.network:
        raise ConfigError("config.groups.by is embeddings, of which network? add --config.groups.network=WORKDIR")
