"""The checks of maps, on scores whose reasons are known, and against SciPy."""

import numpy as np
import pytest
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve
from scipy.stats import spearmanr

from chexjax.explain import check

SIDE = 32
BOX = np.array([[0.25, 0.5, 0.25, 0.25]])  # left, top, width, height


def inside() -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[16:24, 8:16] = True
    return mask


@pytest.fixture(scope="module")
def cases() -> check.Cases:
    """Films with a bright square, which is the finding."""
    films = np.random.default_rng(0).integers(40, 60, (8, SIDE, SIDE)).astype(np.uint8)
    films[:, inside()] = 200
    return check.Cases(films, np.zeros(8, int), [BOX] * 8)


def score(films: np.ndarray) -> np.ndarray:
    """A logit that only the square's brightness raises."""
    return (films[:, inside()].mean(axis=1, keepdims=True) - 120) / 20


def test_the_true_map_wins_and_its_opposite_loses(cases: check.Cases) -> None:
    truth = inside().astype(float)
    random = np.random.default_rng(1)
    rows = {
        "true": check.judge_maps([truth] * 8, cases, score),
        "opposite": check.judge_maps([-truth] * 8, cases, score),
        "random": check.judge_maps([random.random((4, 4)) for _ in range(8)], cases, score),
        "centre": check.judge_maps([check.centre_prior()] * 8, cases, score),
    }
    assert rows["true"]["pointing"] == 1.0
    assert rows["opposite"]["pointing"] == 0.0
    assert rows["true"]["most_removed"] < 0.1
    assert rows["true"]["least_removed"] > 0.95
    assert rows["opposite"]["gap"] == pytest.approx(-rows["true"]["gap"], abs=0.05)
    assert abs(rows["random"]["gap"]) < 0.4
    assert rows["true"]["gap"] > rows["centre"]["gap"] + 0.15  # the square is not far from the middle
    assert rows["true"]["gap"] > rows["random"]["gap"] + 0.5


def test_without_boxes_there_is_no_pointing(cases: check.Cases) -> None:
    unboxed = check.Cases(cases.films, cases.findings, [np.zeros((0, 4))] * 8)
    assert check.judge_maps([inside().astype(float)] * 8, unboxed, score)["pointing"] is None


def test_removed_pixels_solve_the_equations_of_road() -> None:
    random = np.random.default_rng(0)
    side = 20
    films = random.integers(0, 256, (2, side, side)).astype(np.uint8)
    removed = random.random((2, side, side)) < 0.6
    removed[:, 4:15, 4:15] = True
    found = np.asarray(check._fill(films, removed))
    for film, gone, ours in zip(films, removed, found, strict=True):
        pixels_gone = {tuple(pixel): k for k, pixel in enumerate(np.argwhere(gone))}
        left, right = lil_matrix((len(pixels_gone), len(pixels_gone))), np.zeros(len(pixels_gone))
        for (row, column), k in pixels_gone.items():
            for dy, dx in [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]:
                beside = (row + dy, column + dx)
                if min(beside) < 0 or max(beside) >= side:
                    continue
                weight = 1 / 12 if dy and dx else 1 / 6
                left[k, k] += weight
                if beside in pixels_gone:
                    left[k, pixels_gone[beside]] -= weight
                else:
                    right[k] += weight * film[beside]
        np.testing.assert_allclose(ours[gone], spsolve(left.tocsr(), right), atol=0.3)


def test_what_stays_is_untouched_and_a_ramp_is_restored() -> None:
    ramp = np.broadcast_to(np.arange(SIDE, dtype=np.uint8) * 7, (1, SIDE, SIDE)).copy()
    removed = np.zeros((1, SIDE, SIDE), bool)
    removed[0, 8:24, 8:24] = True
    filled = check.fill_in(ramp, removed)
    np.testing.assert_array_equal(filled[~removed], ramp[~removed])
    assert np.abs(filled.astype(int) - ramp).max() < 16  # the noise
    assert np.abs(filled.astype(int) - ramp)[removed].mean() < 3


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_shares_are_exact(share: float) -> None:
    order = np.random.default_rng(0).random((3, SIDE, SIDE))
    first = check._first(order, share)
    assert (first.sum((1, 2)) == round(share * SIDE**2)).all()
    assert all(film[own].max() < film[~own].min() for film, own in zip(order, first, strict=True))


def test_agreement_is_spearmans() -> None:
    random = np.random.default_rng(0)
    maps, others = random.random((2, 5, 4, 4)).round(1)
    expected = np.mean([abs(spearmanr(a, b, axis=None).statistic) for a, b in zip(maps, others, strict=True)])
    assert check.agreement(maps, others) == pytest.approx(expected)
    assert check.agreement(maps, -maps) == pytest.approx(1.0)
    assert check.agreement([np.ones((4, 4))], [maps[0]]) == 0.0
