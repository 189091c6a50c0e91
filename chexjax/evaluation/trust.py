"""Fits calibration, abstain bands and the gate when a run is evaluated, and measures each on other films.

Calibration, bands and the gate's limits come from the validation films. What training films look like comes from at
most `TRAINING` of them; `POSED` of these are also turned, mirrored and inverted.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from chexjax.data.augment import normalize
from chexjax.data.pipeline import evaluation_batches
from chexjax.data.prepared import Prepared
from chexjax.devices import at_precision, each_device
from chexjax.errors import CheckpointError
from chexjax.evaluation import metrics
from chexjax.evaluation.evaluator import Predictions, PyTree, run_split
from chexjax.evaluation.summary import Summary, number
from chexjax.runtime import progress_bar
from chexjax.trust.calibration import Calibration
from chexjax.trust.domain import Domain
from chexjax.trust.features import POSES, see
from chexjax.trust.kept import Trust, read_trust
from chexjax.trust.selective import Bands, summarize_decisions
from chexjax.workdir.restore import Restored

TRAINING: Final = 2000  # films at most
POSED: Final = 500
HELD_OUT: Final = 2000
MEASURED: Final = 500  # of the films that are evaluated, in every pose


class Some:
    """A random-access source of some films of another."""

    def __init__(self, source: Any, rows: np.ndarray):
        self._source, self._rows = source, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Any:
        return self._source[int(self._rows[row])]


def fit_calibration(validation: Predictions) -> tuple[dict[str, Calibration], dict[str, Bands]]:
    """A calibration and abstain bands for each network and the ensemble."""
    films = validation.films
    return (
        {n: Calibration.fit(films.labels, p, films.patients) for n, p in validation.probabilities.items()},
        {n: Bands.fit(films.labels, p) for n, p in validation.probabilities.items()},
    )


def read_kept(best: Restored) -> Trust:
    """What an earlier evaluation of this checkpoint kept; nothing where that cannot be read, and is fitted anew."""
    try:
        return read_trust(best)
    except CheckpointError:
        return Trust()


def fit_domains(
    best: Restored, variables: dict[str, PyTree], films: Prepared, split: str, kept: Trust
) -> tuple[dict[str, Domain], Summary]:
    """What the training films look like to each network, and how often the gate holds up films of `split`.

    All processes take part. `variables` are replicated. What `kept` holds is taken from there: a checkpoint's films are
    always those it was trained on.

    Returns:
      The domains; and per network "films", "false_alarms" (stated), "held_up" (the share of films that are doubtful as
      they are), "poses" (pose -> the shares of films "held_up" and "named": doubtful, and in this very pose).
    """
    is_fitted = set(kept.domains) == set(best.models)
    if is_fitted and split in kept.gates:
        return kept.domains, kept.gates[split]
    shown = [("train", TRAINING, False), ("train", POSED, True), ("val", HELD_OUT, False), (split, MEASURED, True)]
    shown = shown[-1:] if is_fitted else shown
    count = sum(min(len(films.parts[part].names), most) for part, most, _ in shown)
    with progress_bar(count, "fitting the gate", shown=jax.process_index() == 0, kept=False) as bar:
        *fitting, measured = (_features(best, variables, films, *which, bar) for which in shown)
    domains = kept.domains if is_fitted else {}
    for name in () if is_fitted else best.models:
        training, posed, held_out = (features[name] for features in fitting)
        if (domain := Domain.fit(training, _by_pose(posed), held_out)) is not None:
            domains[name] = domain
    return domains, {name: measure_gate(domain, _by_pose(measured[name])) for name, domain in domains.items()}


def _features(
    best: Restored, variables: dict[str, PyTree], films: Prepared, split: str, most: int, posed: bool, bar: Any
) -> dict[str, np.ndarray]:
    """Pooled features per network (films, features), those of all poses side by side; of at most `most` films."""
    data = best.config.data
    poses = list(POSES.values()) if posed else [POSES["upright"]]

    def extract(variables: dict[str, PyTree], images: jax.Array) -> dict[str, jax.Array]:
        def extract_once(images: jax.Array) -> dict[str, jax.Array]:
            x = normalize(images, data.mean, data.std)
            return {name: see(model, variables[name], x)[1] for name, model in best.models.items()}

        # A loop: the networks are compiled once, and hold the feature maps of one pose at a time.
        found = jax.lax.map(extract_once, jnp.stack([pose(images) for pose in poses]))
        return {name: jnp.concatenate(list(features), axis=-1) for name, features in found.items()}

    count = len(films.parts[split].names)
    rows = np.sort(np.random.default_rng(0).permutation(count)[:most])
    batches = evaluation_batches(Some(films.source(split), rows), best.config.batch_size, data.threads)
    return run_split(each_device(at_precision("highest", extract)), variables, batches, bar.update)


def _by_pose(features: np.ndarray) -> np.ndarray:
    """(films, poses * features) -> (films, poses, features)."""
    return features.reshape(len(features), len(POSES), -1)


def measure_gate(domain: Domain, posed: np.ndarray) -> Summary:
    """How many films the gate holds up, and whether it names their pose; `posed` is (films, poses, features)."""
    poses = {}
    for k, pose in enumerate(POSES):
        verdicts = domain.judge(posed[:, k])
        named = [f"seems {pose}" in verdict.reasons for verdict in verdicts]
        held_up = [verdict.status != "ok" for verdict in verdicts]
        poses[pose] = {"held_up": float(np.mean(held_up)), "named": float(np.mean(named))}
    alarms = poses.pop("upright")["held_up"]
    return {"films": len(posed), "false_alarms": domain.false_alarms, "held_up": alarms, "poses": poses}


def summarize_trust(trust: Trust, predictions: Predictions, gate: Summary, findings: Sequence[str]) -> Summary:
    """The numbers of calibration, bands and gate on a split, as `metrics.json` holds them.

    "calibration": per network and finding the "kind" of curve and, before and after it, "log_loss",
    "expected_calibration_error" and "brier"; "abstaining": "risk", and per network and finding "low", "high" and what
    `summarize_decisions` gives; "gate" as `fit_domains` returns it.
    """
    labels = predictions.films.labels
    calibration: Summary = {}
    abstaining: Summary = {}
    for name, p in predictions.probabilities.items():
        fitted, bands = trust.calibrations[name], trust.bands[name]
        figures = {}
        for key, figure in _FIGURES.items():
            figures[key] = [figure(labels, shown) for shown in (p, fitted.apply(p))]
        calibration[name] = {
            finding: {
                "kind": fitted.curves[k].kind,
                **{key: [number(side[k]) for side in both] for key, both in figures.items()},
            }
            for k, finding in enumerate(findings)
        }
        decisions = summarize_decisions(labels, bands.decide(p))
        abstaining[name] = {
            finding: {
                "low": float(bands.low[k]),
                "high": float(bands.high[k]),
                **{key: number(share) for key, share in decisions[k].items()},
            }
            for k, finding in enumerate(findings)
        }
    risk = next(iter(trust.bands.values())).risk
    return {"calibration": calibration, "abstaining": {"risk": risk, "networks": abstaining}, "gate": gate}


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The mean negative log likelihood in nats of what is known to be 0 or 1, float64 (findings,); NaN without any."""
    found = []
    for own, p in zip(labels.T, probabilities.T, strict=True):
        known = (own == 0) | (own == 1)
        p = np.where(own[known] == 1, p[known], 1 - p[known])
        found.append(-float(np.log(np.maximum(p, np.finfo(np.float64).tiny)).mean()) if known.any() else math.nan)
    return np.array(found)


_FIGURES: Final = {
    "log_loss": log_loss,
    "expected_calibration_error": metrics.expected_calibration_error,
    "brier": metrics.brier,
}
