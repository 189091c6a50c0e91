"""The distance from the training films and the pose, against dense algebra, scikit-learn and films nobody fitted to."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from threadpoolctl import threadpool_info

from chexjax.models import create_model
from chexjax.trust.domain import _SHRINKAGE, Domain
from chexjax.trust.features import POSES, pool_features, see

FEATURES = 24
RANDOM = np.random.default_rng(0)
MIXING = RANDOM.standard_normal((FEATURES, FEATURES)) * np.geomspace(1, 0.05, FEATURES)
MOVES = RANDOM.standard_normal((len(POSES), FEATURES)) @ MIXING.T * 1.2
MOVES[0] = 0.0


def features(seed: int, films: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((films, FEATURES)) @ MIXING.T + 3.0


def posed(seed: int, films: int) -> np.ndarray:
    return features(seed, films * len(POSES)).reshape(films, len(POSES), FEATURES) + MOVES


@pytest.fixture(scope="module")
def domain() -> Domain:
    fitted = Domain.fit(features(1, 120), posed(2, 200), features(30, 4000))
    assert fitted is not None
    return fitted


def test_the_score_is_mahalanobis_by_the_whole_covariance(domain: Domain) -> None:
    """15 directions of 120 films, one variance for the other 9, put together and inverted."""
    training = features(1, 120)
    values, vectors = np.linalg.eigh(np.cov(training.T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    assert domain.basis.shape == (FEATURES, 15)
    covariance = vectors @ np.diag(np.r_[values[:15], np.full(9, values[15:].mean())]) @ vectors.T
    inverse = np.linalg.inv(covariance)
    for film, score in zip(films := features(4, 20), domain.score(films), strict=True):
        expected = mahalanobis(film, training.mean(0), inverse) ** 2 / FEATURES
        assert score == pytest.approx(expected, rel=2e-3)


def test_the_limits_keep_the_stated_share_of_new_films(domain: Domain) -> None:
    fresh = features(5, 20_000)
    assert (domain.score(fresh) > domain.limit).mean() == pytest.approx(0.01, abs=0.008)
    assert (domain.pose_odds(fresh)[0] > domain.pose_limit).mean() < 0.02
    verdicts = domain.judge(fresh[:2000])
    assert 0 < sum(verdict.status == "doubtful" for verdict in verdicts) < 100
    assert {verdict.status for verdict in verdicts} == {"ok", "doubtful"}


def test_measuring_gives_the_scores_and_leaves_blas_its_threads(domain: Domain) -> None:
    before = [library["num_threads"] for library in threadpool_info()]
    scores, verdicts = domain.measure(films := features(6, 40))
    np.testing.assert_allclose(scores, domain.score(films), rtol=1e-12)
    assert [verdict.status == "doubtful" for verdict in verdicts] == [
        bool(score > domain.limit or odds > domain.pose_limit)
        for score, odds in zip(domain.score(films), domain.pose_odds(films)[0], strict=True)
    ]
    assert [library["num_threads"] for library in threadpool_info()] == before


def test_what_lies_far_away_is_doubtful_and_says_how_far(domain: Domain) -> None:
    away = features(6, 3) + 10 * MIXING[:, -1]
    (verdict, *_) = domain.judge(away)
    assert verdict.status == "doubtful"
    times = domain.score(away)[0] / domain.limit
    assert f"unlike the training films ({times:.3g} times the limit)" in verdict.reasons


def test_the_pose_is_that_of_scikit_learns_discriminants(domain: Domain) -> None:
    points = (posed(2, 200) - domain.mean) @ domain.basis
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=_SHRINKAGE)
    theirs.fit(points.reshape(-1, points.shape[-1]), np.tile(np.arange(len(POSES)), 200))
    fresh = posed(7, 100).reshape(-1, FEATURES)
    expected = theirs.predict_log_proba((fresh - domain.mean) @ domain.basis)
    odds, pose = domain.pose_odds(fresh)
    upright = np.exp(expected[:, 0])
    np.testing.assert_allclose(odds, np.log1p(-upright) - np.log(upright), rtol=1e-2, atol=1e-2)
    np.testing.assert_array_equal(pose, 1 + expected[:, 1:].argmax(axis=1))
    truth = np.tile(np.arange(len(POSES)), 100)
    assert (pose == truth)[truth > 0].mean() > 0.9


def test_a_doubtful_pose_is_named(domain: Domain) -> None:
    names = list(POSES)
    films = posed(8, 50)
    for k in range(1, len(POSES)):
        named = [f"seems {names[k]}" in verdict.reasons for verdict in domain.judge(films[:, k])]
        assert np.mean(named) > 0.5


def test_arrays_give_back_the_same_and_refuse_what_is_none(domain: Domain) -> None:
    arrays = domain.to_arrays()
    again = Domain.from_arrays(arrays)
    np.testing.assert_array_equal(again.score(features(9, 5)), domain.score(features(9, 5)))
    assert again.limit == domain.limit
    for name, broken in (("basis", arrays["basis"][:-1]), ("mean", arrays["mean"] * np.nan), ("rest", np.array(-1.0))):
        with pytest.raises(ValueError, match=r"shape|above 0"):
            Domain.from_arrays(arrays | {name: broken})
    with pytest.raises(ValueError, match="limit"):
        Domain.from_arrays(replace(domain, limit=np.inf).to_arrays())


def test_too_few_films_or_features_that_are_all_alike_give_no_domain() -> None:
    assert Domain.fit(features(1, 7), posed(2, 5), features(3, 5)) is None
    assert Domain.fit(np.ones((50, FEATURES)), posed(2, 5), features(3, 5)) is None
    assert Domain.fit(features(1, 50), posed(2, 5), features(3, 0)) is None


@pytest.mark.parametrize("side", [1, 4, 7])
def test_quarters_are_means_over_halves(side: int) -> None:
    maps = np.random.default_rng(0).standard_normal((2, side, side, 3)).astype(np.float32)
    half, rest = (side + 1) // 2, side // 2
    found = np.asarray(pool_features(jnp.asarray(maps)))
    expected = [
        maps[:, rows, columns].mean((1, 2))
        for rows in (slice(half), slice(rest, None))
        for columns in (slice(half), slice(rest, None))
    ]
    np.testing.assert_allclose(found, np.concatenate(expected, axis=-1), rtol=1e-5, atol=1e-6)


def test_poses_are_what_their_names_say() -> None:
    film = np.array([[1, 2], [3, 4]], np.uint8)
    expected = {
        "upright": [[1, 2], [3, 4]],
        "turned by 90 degrees to the left": [[2, 4], [1, 3]],
        "turned by 180 degrees": [[4, 3], [2, 1]],
        "turned by 90 degrees to the right": [[3, 1], [4, 2]],
        "mirrored": [[2, 1], [4, 3]],
        "inverted": [[254, 253], [252, 251]],
    }
    found = {name: np.asarray(pose(jnp.asarray(film)[None, ..., None]))[0, ..., 0] for name, pose in POSES.items()}
    assert {name: pose.tolist() for name, pose in found.items()} == expected
    assert {pose.dtype for pose in found.values()} == {np.dtype(np.uint8)}


def test_one_pass_gives_the_networks_own_logits() -> None:
    model = create_model("tiny", 3, width=0.125)
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 1))
    variables = model.init(jax.random.key(1), x)
    logits, pooled = see(model, variables, x)
    np.testing.assert_allclose(logits, model.apply(variables, x), rtol=1e-5)
    mean = model.apply(variables, x, method="features").mean((1, 2))
    np.testing.assert_allclose(pooled.reshape(2, 4, -1).mean(1), mean, rtol=1e-4, atol=1e-6)
