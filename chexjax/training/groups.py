"""Groups of findings for branches and specialists: the report's, or found by clustering the training films.

scikit-learn's agglomerative clustering is not random: the same films give the same groups. Groups are listed by their
first finding, findings in the usual order.
"""

import numpy as np
from ml_collections import ConfigDict

from chexjax.data.prepared import Prepared
from chexjax.errors import ConfigError
from chexjax.findings import SPECIALIST_GROUPS
from chexjax.models import Groups
from chexjax.models.configured import AnyNetwork
from chexjax.models.network import by_names
from chexjax.training.features import Extract, pooled_features
from chexjax.workdir.restore import Restored, restore_others


def find_groups(config: ConfigDict, films: Prepared) -> Groups:
    """The groups that `config.groups` asks for, as indices into the films' findings.

    "report": the four groups of the report's chapter 5, for ChestX-ray14's findings. "cooccurrence": findings that
    occur together in the training films. "embeddings": findings whose films look alike to the network of the workdir
    `groups.network`.

    Raises:
      ConfigError: the films lack findings of the report's groups, or have fewer findings than groups; no network is
        given, or it was trained on another kind of film.
      CheckpointError: the network cannot be restored.
    """
    if config.groups.by == "report":
        try:
            return by_names(SPECIALIST_GROUPS, films.findings)
        except ConfigError as error:
            raise ConfigError(
                f"config.groups.by is report, whose groups are of ChestX-ray14's findings: {error}; "
                "add --config.groups.by=cooccurrence"
            ) from None
    if config.groups.count > len(films.findings):
        raise ConfigError(f"config.groups.count is {config.groups.count}; there are {len(films.findings)} findings")
    labels = films.parts["train"].labels
    if config.groups.by == "cooccurrence":
        return cluster(cooccurrence(labels), config.groups.count)
    restored = restore_others(config.groups.network, "groups.network", config)
    return cluster(likeness(embed(restored, films, config), labels), config.groups.count)


def cooccurrence(labels: np.ndarray) -> np.ndarray:
    """How often findings go together: the correlation of their labels (the phi coefficient) where both are known.

    Labels 0 to 1, or NaN, (films, findings) -> float64 (findings, findings) in [-1, 1]; 0 if one of the two findings is
    constant on the films where both are known, or there are none.
    """
    known = ~np.isnan(labels)
    x, known = np.where(known, labels, 0.0).astype(np.float64), known.astype(np.float64)
    # Over the films where both are known, (findings, findings) each; exact, since the labels are 0 and 1.
    films, sums = known.T @ known, x.T @ known
    variances = films * ((x * x).T @ known) - sums**2
    norms = np.sqrt(np.maximum(variances, 0.0) * np.maximum(variances.T, 0.0))
    return (films * (x.T @ x) - sums * sums.T) / np.where(norms > 1e-12 * films**2, norms, np.inf)  # less is rounding


def likeness(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How alike findings look: the correlation of their mean embeddings, each channel standardised over the films.

    float (films, channels) and labels (films, findings) -> float64 (findings, findings) in [-1, 1]. A film is
    weighted by its label; unknown labels do not count.
    """
    labels = np.nan_to_num(np.asarray(labels, np.float64))
    embeddings = np.asarray(embeddings, np.float64)
    std = embeddings.std(axis=0)
    standard = (embeddings - embeddings.mean(axis=0)) / np.where(std > 0, std, 1.0)
    counts = labels.sum(axis=0)
    return _correlation((labels.T @ standard) / np.where(counts > 0, counts, 1.0)[:, None])


def _correlation(rows: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1)
    centred /= np.where(norms > 0, norms, 1.0)[:, None]
    return centred @ centred.T


def cluster(similarity: np.ndarray, count: int) -> Groups:
    """`count` groups from similarities (findings, findings), by average linkage of 1 - similarity."""
    if len(similarity) == 1:  # scikit-learn refuses a single sample
        return ((0,),)
    from sklearn.cluster import AgglomerativeClustering  # 1 s and 100 MB that other runs do without

    rule = AgglomerativeClustering(n_clusters=count, metric="precomputed", linkage="average")
    home = rule.fit_predict(1.0 - similarity)
    groups = [tuple(int(output) for output in np.flatnonzero(home == label)) for label in range(count)]
    return tuple(sorted(groups))


def embed(restored: Restored, films: Prepared, config: ConfigDict) -> np.ndarray:
    """The pooled features of every training film, from all restored networks: (films, sum of channels)."""

    def extract(model: AnyNetwork) -> Extract:
        return lambda variables, x: model.apply(variables, x, method="features")

    data = restored.config.data
    extracts = [extract(model) for model in restored.models.values()]
    trees = [restored.variables[name] for name in restored.models]
    return pooled_features(
        extracts, trees, films.source("train"), data.mean, data.std, config.batch_size, config.data.threads
    )


def check_groups(config: ConfigDict) -> None:
    """Refuses a `config.groups` that no run can use.

    Raises:
      ConfigError: names the field, what it holds and what it may hold.
    """
    if config.groups.by == "embeddings" and not config.groups.network:
        raise ConfigError("config.groups.by is embeddings without a network; add --config.groups.network=WORKDIR")
