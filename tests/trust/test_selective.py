"""The bands keep their promise on films that they were not fitted on."""

import math

import numpy as np
import pytest
from scipy.special import expit

from chexjax.trust.selective import UNDECIDED, Bands, summarize_decisions


def films(random: np.random.Generator, count: int, apart: float) -> tuple[np.ndarray, np.ndarray]:
    labels = (random.random((count, 1)) < 0.3).astype(np.float64)
    return labels, expit(apart * labels + random.standard_normal((count, 1)))


@pytest.mark.parametrize("apart", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("risk", [0.05, 0.2])
def test_at_most_the_stated_share_is_decided_wrongly(apart: float, risk: float) -> None:
    random = np.random.default_rng(0)
    missed, alarms, decided = [], [], []
    for _ in range(200):
        bands = Bands.fit(*films(random, 150, apart), risk)
        labels, p = films(random, 400, apart)
        (found,) = summarize_decisions(labels, bands.decide(p))
        missed.append(found["missed"])
        alarms.append(found["false_alarms"])
        decided.append(found["decided"])
    error = 3 * np.std(missed) / math.sqrt(200)
    assert np.mean(missed) <= risk + error
    assert np.mean(alarms) <= risk + error
    if apart == 8.0:  # hardly any overlap: nothing is left open
        assert np.mean(decided) > 0.999
    if apart == 0.5:  # and the promise is not kept by deciding nothing
        assert np.mean(missed) > risk / 2
        assert 0.05 < np.mean(decided) < 0.6


def test_the_cuts_are_the_ranks_of_the_conformal_rule() -> None:
    """Nine positives at a risk of 0.2: the second least of them, as 2 = floor(0.2 * 10)."""
    positives, negatives = np.linspace(0.1, 0.9, 9), np.linspace(0.15, 0.95, 9)
    labels = np.repeat([1.0, 0.0], 9)[:, None]
    bands = Bands.fit(labels, np.concatenate([positives, negatives])[:, None], 0.2)
    assert bands.low[0] == pytest.approx(0.2)
    assert bands.high[0] == pytest.approx(0.85)
    assert bands.decide(np.array([[0.1], [0.2], [0.85], [0.9]])).ravel().tolist() == [0, UNDECIDED, UNDECIDED, 1]


def test_of_too_few_positives_no_film_is_declared_free() -> None:
    labels = np.array([[1.0]] * 3 + [[0.0]] * 40 + [[math.nan]] * 5)
    p = np.linspace(0.01, 0.99, 48)[::-1, None]
    bands = Bands.fit(labels, p, 0.1)
    assert bands.low[0] == 0.0
    assert not (bands.decide(p) == 0).any()
    assert (bands.decide(p) == 1).any()
    again = Bands.from_json(bands.to_json(), 1)
    np.testing.assert_array_equal(again.decide(p), bands.decide(p))
    with pytest.raises(ValueError, match="no bands"):
        Bands.from_json(bands.to_json(), 2)


def test_unknown_labels_count_nowhere() -> None:
    labels = np.array([[1.0], [0.0], [math.nan], [0.5]])
    (found,) = summarize_decisions(labels, np.array([[0], [-1], [1], [1]], np.int8))
    assert found == {"decided": 0.5, "missed": 1.0, "false_alarms": 0.0}
