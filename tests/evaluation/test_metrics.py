"""Figures against brute force and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chexjax.evaluation.metrics import auroc, convergence_epoch, cross_entropy, mean_over_findings


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=1, max_size=40))
def test_auroc_is_the_share_of_pairs_in_order(rows: list[tuple[int, int]]) -> None:
    labels, scores = np.array(rows).T
    pairs = [(p > n) + (p == n) / 2 for p in scores[labels == 1] for n in scores[labels == 0]]
    if pairs:
        assert auroc(labels, scores) == pytest.approx(np.mean(pairs), abs=1e-12)
    else:
        assert math.isnan(auroc(labels, scores))


def test_a_finding_without_positives_is_nan_and_left_out_of_the_mean() -> None:
    labels = np.array([[1, 0], [0, 0], [1, 0], [0, 0]])
    scores = np.array([[0.9, 0.1], [0.2, 0.3], [0.1, 0.2], [0.05, 0.9]])
    figures = auroc(labels, scores)
    assert figures[0] == 0.75
    assert math.isnan(figures[1])
    assert mean_over_findings(figures) == 0.75
    assert math.isnan(mean_over_findings(np.array([np.nan])))


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        auroc(np.zeros(2), np.zeros(3))


def test_cross_entropy_by_hand_and_at_the_ends() -> None:
    found = cross_entropy(np.array([[1.0], [0.0]]), np.array([[math.log(3)], [math.log(3)]]))
    assert found[0] == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)
    assert cross_entropy(np.array([[1.0]]), np.array([[1e4]]))[0] == 0.0


@pytest.mark.parametrize(
    ("losses", "epoch"),
    [
        ([3.0, 2.0, 1.0], 3),  # still falling: converged only at its end
        ([3.0, 1.0, 2.0, 1.5], 2),
        ([3.0, 1.0, 0.95, 0.92], 2),  # 0.08 below is within the tolerance of 0.1
        ([3.0, 1.0, 0.95, 0.85], 3),  # 0.15 below is not
        ([1.0], 1),
        ([], None),
    ],
)
def test_convergence_epoch(losses: list[float], epoch: int | None) -> None:
    assert convergence_epoch(losses, tolerance=0.1) == epoch
