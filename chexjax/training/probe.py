"""Logistic regression on the frozen features of a network; `chexjax.commands.probe` says how it is done."""

if __name__ == "__main__":
    from chexjax.commands.probe import main  # without the libraries below: --help needs none
    from chexjax.runtime import run

    run(main)

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from chexjax.data.prepared import Part
from chexjax.errors import CheckpointError, ConfigError, first_ten
from chexjax.evaluation import metrics
from chexjax.evaluation.summary import INTERVALS, Summary, count_labels, note_on_undefined, summarize_model
from chexjax.evaluation.tables import Table, as_text, positives_of
from chexjax.formats import format_figure
from chexjax.models import Network, create_model
from chexjax.models.network import stages_of
from chexjax.models.torch_weights import ABOUT, load_weights
from chexjax.workdir.restore import restore_best

PENALTIES: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C, inverse strengths
PARTS: Final = ("train", "val", "test")

PyTree = Any


class Probed(NamedTuple):
    """What a probe found: the C that was chosen, the mean validation AUROC for each, and test probabilities."""

    penalty: float
    validation: dict[float, float]
    probabilities: np.ndarray  # float64 (test films, findings)


class Frozen(NamedTuple):
    """A network without its head: a trunk, its variables; the mean and standard deviation wanted of grey / 255."""

    title: str
    trunk: Any
    variables: PyTree
    mean: float
    std: float


def open_trunk(weights: Path, stages: int = 0, network: str = "") -> Frozen:
    """The trunk in a folder of imported weights or a workdir, up to its `stages`-th stage; 0: all of it.

    Raises:
      CheckpointError: there are no weights, or not all that the trunk needs.
      ConfigError: the network cannot be cut there, has branches, or is not clearly named.
    """
    if (weights / ABOUT).exists():
        variables, about = load_weights(weights)
        name, width, mean, std = about.model, 1.0, about.mean, about.std
    else:
        restored = restore_best(weights)
        names = list(restored.models)
        if not network and len(names) > 1:
            raise ConfigError(f"{weights} holds {', '.join(names)}; choose one by --network=")
        if network and network not in names:
            raise ConfigError(f"{weights} has no network {network!r}; there are {', '.join(names)}")
        chosen = network or names[0]
        if not isinstance(restored.models[chosen], Network):
            raise ConfigError(f"{chosen} of {weights} has branches; a probe takes a network with one head")
        data, variables = restored.config.data, restored.variables[chosen]
        name, width = restored.config.networks[chosen].model, restored.config.networks[chosen].width
        mean, std = data.mean, data.std
    trunk = create_model(name, width=width).trunk
    most = stages_of(trunk)
    if not 0 <= stages <= most:
        raise ConfigError(f"--stages is {stages}; {name} has {most}")
    if stages and stages < most:
        trunk = trunk.clone(end=stages)
    given = {collection: tree["trunk"] for collection, tree in variables.items() if "trunk" in tree}
    needed = jax.eval_shape(trunk.init, jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
    kept, missing = _take(dict(needed), given)
    if missing:
        cut = ", or probe an earlier stage by --stages=N" if most > 1 else ""
        raise CheckpointError(f"{weights} lacks arrays of {name}, {first_ten(missing)}\nimport them{cut}")
    return Frozen(f"{name}{f' to stage {stages}' if stages else ''}", trunk, kept, mean, std)


def _take(needed: dict[str, Any], given: Any, where: str = "") -> tuple[dict[str, Any], list[str]]:
    """The arrays of `given` that `needed` names, besides an imported stem's offset; and those that `given` lacks."""
    kept: dict[str, Any] = {}
    missing: list[str] = []
    for key, value in needed.items():
        if not isinstance(given, dict) or key not in given:
            missing.append(f"{where}{key}")
        elif isinstance(value, dict):
            kept[key], more = _take(value, given[key], f"{where}{key}/")
            missing += more
        else:
            kept[key] = given[key]
    if isinstance(given, dict) and "kernel" in needed and "offset" in given:
        kept["offset"] = given["offset"]
    return kept, missing


def fit(features: Sequence[np.ndarray], labels: Sequence[np.ndarray], penalties: Sequence[float] = PENALTIES) -> Probed:
    """Logistic regressions on frozen features: trained, chosen and applied on three sets of films.

    Args:
      features: of the training, validation and test films, float (films, channels) each.
      labels: of the training and validation films, (films, findings). Unknown and soft ones are left out, finding by
        finding; one that is alike on all training films gets its share everywhere.
      penalties: scikit-learn's C to choose from, by the mean AUROC on the validation films.
    """
    scaler = StandardScaler().fit(features[0])
    train, validation, test = (scaler.transform(np.asarray(x, np.float64)) for x in features)
    figures: dict[float, float] = {}
    found: dict[float, np.ndarray] = {}
    for penalty in penalties:
        columns = [_regress(train, y, penalty, (validation, test)) for y in np.asarray(labels[0]).T]
        on_validation, found[penalty] = (np.stack(part, axis=1) for part in zip(*columns, strict=True))
        figures[penalty] = metrics.mean_over_findings(metrics.auroc(labels[1], on_validation))
    best = max(penalties, key=lambda penalty: np.nan_to_num(figures[penalty], nan=-1.0))
    return Probed(best, figures, found[best])


def _regress(
    train: np.ndarray, labels: np.ndarray, penalty: float, others: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, ...]:  # fmt: skip
    """One finding's probabilities on the other films."""
    hard = (labels == 0) | (labels == 1)
    x, y = train[hard], labels[hard]
    if not len(y) or (y == y[0]).all():
        share = float(y[0]) if len(y) else 0.5
        return tuple(np.full(len(other), share) for other in others)
    rule = LogisticRegression(C=penalty, max_iter=1000).fit(x, y)
    return tuple(rule.predict_proba(other)[:, 1] for other in others)


def table(frozen: Frozen, channels: int, probed: Probed, test: Part, findings: Sequence[str]) -> str:
    """What was chosen on the validation films, and the AUROC of each finding on the test films with its interval."""
    chosen = [f"C {c:g}: {figure:.4f}" + " (chosen)" * (c == probed.penalty) for c, figure in probed.validation.items()]
    probe: Summary = summarize_model(test.labels, probed.probabilities, test.patients, findings)
    counts = count_labels(test.labels, findings)
    rows = [["mean", "", format_figure(probe["mean_auroc"], interval=probe["mean_auroc_interval"])]]
    for finding in findings:
        figure = format_figure(probe["auroc"][finding], interval=probe["auroc_interval"][finding])
        rows.append([finding, positives_of({"films": len(test.names), **counts}, finding), figure])
    title = f"{frozen.title}, {channels:,} frozen features, logistic regression: {len(test.names):,} test films"
    found = as_text(Table(title, ["", "positive", "AUROC (95 %)"], rows, lead=1))
    notes = note_on_undefined(test.labels, findings)
    return "\n".join([f"mean validation AUROC: {', '.join(chosen)}", "", found, *notes, INTERVALS])
