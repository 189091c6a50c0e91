"""Applies networks to a split: variables and batches in, the logits of every film out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from chexjax.data.augment import normalize
from chexjax.data.labels import highest
from chexjax.data.prepared import Part
from chexjax.devices import at_precision, each_device, meet
from chexjax.evaluation import metrics
from chexjax.evaluation.views import mean_logits
from chexjax.models.network import ENSEMBLE
from chexjax.models.probability import probability_of

PyTree = Any
Apply = Callable[..., Any]
# Replicated variables per network, and images by device -> logits per network, by device.
Predictor = Callable[[dict[str, PyTree], jax.Array], dict[str, jax.Array]]


@dataclass(frozen=True)
class Predictions:
    """The networks' predictions for the films of a split.

    `probabilities` holds float64 (films, findings) per network and, if there are several, for "ensemble", the mean of
    their probabilities. `losses` is each network's binary cross-entropy over the known labels; NaN if none is known.
    """

    films: Part
    probabilities: dict[str, np.ndarray]
    losses: dict[str, float]

    @property
    def aurocs(self) -> dict[str, np.ndarray]:
        """Per network and for the ensemble, float64 (findings,); NaN for a finding without positives or negatives."""
        return {name: np.asarray(metrics.auroc(self.films.labels, p)) for name, p in self.probabilities.items()}


def create_predictor(networks: Mapping[str, Apply], mean: float, std: float, views: str = "one") -> Predictor:
    """A function over all local devices that applies every network to a batch, in evaluation mode.

    With several `views` (a key of `views.VIEWS`), the logits are those of the mean probability.
    """

    def predict(variables: dict[str, PyTree], images: jax.Array) -> dict[str, jax.Array]:
        x = normalize(images, mean, std)
        return {
            name: mean_logits(partial(apply, variables[name], train=False), x, views)
            for name, apply in networks.items()
        }

    return each_device(at_precision("highest", predict))


def predict_split(
    predictor: Predictor,
    variables: dict[str, PyTree],
    batches: Iterable[dict[str, Any]],
    films: Part,
    done: Callable[[int], Any] = lambda films: None,
    columns: Sequence[Sequence[int]] | None = None,
) -> Predictions:
    """Runs `batches` (see `pipeline.evaluation_batches`) through the networks; `variables` are replicated.

    `done` is called after each batch with its number of films. For `columns` see `summarize`.
    """
    return summarize(films, run_split(predictor, variables, batches, done), columns)


def run_split(
    predictor: Predictor,
    variables: dict[str, PyTree],
    batches: Iterable[dict[str, Any]],
    done: Callable[[int], Any] = lambda films: None,
) -> dict[str, np.ndarray]:
    """What `predictor` returns for every film, per network (films, outputs), in the order of the films."""
    outputs: dict[str, list[np.ndarray]] = {name: [] for name in variables}
    order: list[np.ndarray] = []
    for batch in batches:
        output = predictor(variables, batch["image"])
        if not order:
            meet("the predictor is compiled")  # which takes longer in some processes than in others
        gathered = gather({"film": batch["film"], "mask": batch["mask"], **output})
        real = gathered.pop("mask").reshape(-1)
        order.append(gathered.pop("film").reshape(-1)[real])
        done(int(real.sum()))
        for name, values in gathered.items():
            outputs[name].append(values.reshape(-1, values.shape[-1])[real])
    rows = np.argsort(np.concatenate(order))
    return {name: np.concatenate(parts)[rows] for name, parts in outputs.items()}


def gather(batch: dict[str, Any]) -> dict[str, np.ndarray]:
    """The batch on the host; with several processes, the shares of all."""
    if jax.process_count() == 1:
        return {key: np.asarray(value) for key, value in batch.items()}
    return multihost_utils.process_allgather({key: np.asarray(value) for key, value in batch.items()})


def summarize(
    films: Part, logits: dict[str, np.ndarray], columns: Sequence[Sequence[int]] | None = None
) -> Predictions:
    """Probabilities, the ensemble and the losses out of logits (films, outputs).

    Where the findings of `films` are not the outputs, `columns` has for each finding the outputs whose highest counts.
    """
    probabilities = {name: probability_of(values) for name, values in logits.items()}
    if len(probabilities) > 1:
        probabilities[ENSEMBLE] = np.mean(list(probabilities.values()), axis=0)
    if columns is not None:
        logits = {name: highest(values, columns) for name, values in logits.items()}
        probabilities = {name: highest(values, columns) for name, values in probabilities.items()}
    losses = {name: metrics.mean_cross_entropy(films.labels, values) for name, values in logits.items()}
    return Predictions(films, probabilities, losses)
