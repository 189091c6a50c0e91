"""Figures of 112,120 films and 14 findings with patient-clustered intervals, beside scikit-learn and plain NumPy.

    python -m benchmarks.metrics [--films=112120] [--resamples=1000] [--json=FILE]

- chexjax: `evaluation.summary`: AUROC, AP, Brier, ECE, DeLong's intervals, the bootstrap over patients, of all films.
- scikit-learn: roc_auc_score and average_precision_score a finding; the point estimates alone.
- NumPy: the bootstrap as one writes it first (draw patients, copy out their films, rank, sum ranks). It is timed on a
  few resamples and multiplied: all of them would take an hour.

Simulated scores: prevalences from 18 % to 0.2 %, normal, 1.2 apart; 3.6 films a patient. Run in one process, in turn.
"""

import resource
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from scipy.special import expit
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.contest import Results, finish, introduce, parser_of
from chexjax.evaluation.metrics import bootstrap_aurocs
from chexjax.evaluation.summary import summarize_model
from chexjax.findings import FINDINGS

FEW: Final = 5  # resamples of the NumPy bootstrap


def simulate(films: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities (films, 14), patients (films,)."""
    rng = np.random.default_rng(0)
    labels = (rng.random((films, 14)) < np.geomspace(0.18, 0.002, 14)).astype(np.uint8)
    return labels, expit(1.2 * labels + rng.normal(size=labels.shape) - 2.0), rng.integers(0, films * 10 // 36, films)


def numpy_bootstrap(labels: np.ndarray, scores: np.ndarray, patients: np.ndarray, resamples: int) -> np.ndarray:
    """Draw patients, copy out their films, rank them anew: AUROCs (resamples, findings)."""
    rng = np.random.default_rng(0)
    people, cluster = np.unique(patients, return_inverse=True)
    rows_of = np.split(np.argsort(cluster, kind="stable"), np.cumsum(np.bincount(cluster))[:-1])
    found = []
    for _ in range(resamples):
        rows = np.concatenate([rows_of[k] for k in rng.integers(0, len(people), len(people))])
        y, ranks = labels[rows], rankdata(scores[rows], axis=0)
        p, n = y.sum(axis=0, dtype=float), (1 - y).sum(axis=0, dtype=float)
        found.append(((ranks * y).sum(axis=0) - p * (p + 1) / 2) / (p * n))
    return np.array(found)


def main(argv: Sequence[str] | None = None) -> Results:
    parser = parser_of(__doc__)
    parser.add_argument("--films", type=int, default=112_120)
    parser.add_argument("--resamples", type=int, default=1000)
    arguments = parser.parse_args(argv)
    labels, scores, patients = simulate(arguments.films)
    results: Results = {"films": arguments.films}

    def timed(name: str, run: Callable[[], Any], times: float = 1.0) -> Any:
        start, worked = time.perf_counter(), time.process_time()
        found = run()
        results[name] = (time.perf_counter() - start) * times
        cpu = (time.process_time() - worked) * times  # on a busy machine this is what to read
        # The highest of the process so far, so chexjax, which comes first, is not charged with its peers'.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name:<48}{results[name]:>10.2f} s{cpu:>10.2f} s of CPU{peak:>8.2f} GiB peak", flush=True)
        results.setdefault("chexjax_peak_gib", peak)
        return found

    introduce(f"{arguments.films} films, {arguments.resamples} resamples")
    figures = timed(
        "chexjax, all figures, compiling included",
        lambda: summarize_model(labels, scores, [*map(str, patients)], FINDINGS),
    )
    ours = timed("chexjax, the bootstrap alone, compiled", lambda: bootstrap_aurocs(
        labels, scores, patients, arguments.resamples
    ))  # fmt: skip
    theirs = timed("scikit-learn, AUROC and AP without intervals", lambda: [
        (roc_auc_score(y, s), average_precision_score(y, s)) for y, s in zip(labels.T, scores.T, strict=True)
    ])  # fmt: skip
    plain = timed(
        f"NumPy bootstrap, {FEW} resamples times {arguments.resamples // FEW}",
        lambda: numpy_bootstrap(labels, scores, patients, FEW),
        arguments.resamples / FEW,
    )
    np.testing.assert_allclose(list(figures["auroc"].values()), [auroc for auroc, _ in theirs], atol=1e-12)
    np.testing.assert_allclose(ours[:FEW], plain, atol=1e-12)
    print("equal to scikit-learn's figures and to NumPy's resamples, to 1e-12")
    return finish(results, arguments.json)


if __name__ == "__main__":
    main()
