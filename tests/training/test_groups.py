"""Groups of findings against figures by hand, SciPy's clustering, and planted clusters."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from chexjax.findings import FINDINGS, SPECIALIST_GROUPS
from chexjax.models.network import by_names, names
from chexjax.training.groups import cluster, cooccurrence, likeness


def test_the_reports_groups_hold_every_finding_once() -> None:
    groups = by_names(SPECIALIST_GROUPS, FINDINGS)
    assert sorted(output for group in groups for output in group) == list(range(14))
    assert names(groups, FINDINGS) == [list(group) for group in SPECIALIST_GROUPS]
    assert groups[2] == (FINDINGS.index("Cardiomegaly"), FINDINGS.index("Emphysema"))


def test_cooccurrence_is_the_phi_coefficient() -> None:
    labels = (np.random.default_rng(0).random((500, 14)) < np.linspace(0.05, 0.6, 14)).astype(np.uint8)
    np.testing.assert_allclose(cooccurrence(labels), np.corrcoef(labels.T), atol=1e-12)


def test_cooccurrence_is_that_of_the_films_of_which_both_findings_are_known() -> None:
    rng = np.random.default_rng(3)
    labels = (rng.random((500, 14)) < np.linspace(0.2, 0.6, 14)).astype(np.float32)
    labels[rng.random((500, 14)) < 0.4] = np.nan
    labels[:, 5] = np.where(np.isnan(labels[:, 5]), np.nan, np.float32(0.3))  # soft, and alike on all films
    found = cooccurrence(labels)
    for i in range(14):
        for j in range(14):
            both = ~np.isnan(labels[:, [i, j]]).any(axis=1)
            expected = 0.0 if 5 in (i, j) else np.corrcoef(labels[both][:, [i, j]].T)[0, 1]
            assert found[i, j] == pytest.approx(expected, abs=1e-10)
    apart = np.full((10, 2), np.nan)
    apart[:5, 0], apart[5:, 1] = [0, 1, 0, 1, 1], [1, 1, 0, 0, 1]
    np.testing.assert_array_equal(cooccurrence(apart), np.eye(2))


def test_films_of_which_a_finding_is_not_known_do_not_count_for_what_it_looks_like() -> None:
    rng = np.random.default_rng(4)
    labels, embeddings = (rng.random((200, 14)) < 0.4).astype(np.float32), rng.normal(size=(200, 8))
    negatives = labels == 0
    unknown = np.where(negatives & (rng.random((200, 14)) < 0.5), np.nan, labels)
    np.testing.assert_allclose(likeness(embeddings, unknown), likeness(embeddings, labels), atol=1e-12)


def test_a_finding_that_no_film_has_goes_with_nothing() -> None:
    labels = (np.random.default_rng(0).random((50, 14)) < 0.5).astype(np.uint8)
    labels[:, 13] = 0
    found = cooccurrence(labels)
    assert np.isfinite(found).all()
    assert not found[13].any()


@pytest.mark.parametrize("count", [1, 4, 14])
def test_clusters_are_scipys_average_linkage(count: int) -> None:
    labels = (np.random.default_rng(1).random((300, 14)) < 0.3).astype(np.uint8)
    similarity = cooccurrence(labels)
    found = cluster(similarity, count)
    tree = linkage(squareform(1 - similarity, checks=False), "average")
    home = fcluster(tree, count, "maxclust")
    assert found == tuple(sorted(tuple(np.flatnonzero(home == label).tolist()) for label in np.unique(home)))


def test_planted_groups_come_back_from_labels_and_from_embeddings() -> None:
    rng = np.random.default_rng(2)
    planted = tuple(sorted(by_names(SPECIALIST_GROUPS, FINDINGS)))
    causes = rng.random((2000, 4)) < 0.3
    labels = np.zeros((2000, 14), np.uint8)
    for k, group in enumerate(planted):
        labels[:, group] = causes[:, k, None] & (rng.random((2000, len(group))) < 0.8)
    assert cluster(cooccurrence(labels), 4) == planted
    embeddings = causes @ rng.normal(size=(4, 32)) + 0.3 * rng.normal(size=(2000, 32))
    single = np.eye(14, dtype=np.uint8)[rng.integers(14, size=2000)]  # one finding a film: labels alone tell nothing
    causes = single @ np.array([[finding in group for group in planted] for finding in range(14)])
    embeddings = causes @ rng.normal(size=(4, 32)) + 0.3 * rng.normal(size=(2000, 32))
    assert cluster(likeness(embeddings, single), 4) == planted
