"""What `metrics.json` says of a model, against the functions it comes from and by hand."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from chexjax.evaluation.published import published
from chexjax.evaluation.summary import count_labels, find_thresholds, summarize_model, undefined_findings
from chexjax.findings import FINDINGS

LABELS = np.array([[1, 0], [1, 0], [0, 0], [0, 0], [1, 0], [0, 0]], np.uint8)
PROBABILITIES = np.array([[0.9, 0.1], [0.6, 0.2], [0.5, 0.3], [0.1, 0.4], [0.4, 0.5], [0.2, 0.6]])
PATIENTS = tuple("abcdef")


def test_thresholds_of_one_set_of_films_are_applied_to_another() -> None:
    names = ("Mass", "Hernia")
    thresholds = find_thresholds(LABELS, PROBABILITIES, names)
    assert thresholds["Mass"] == {"youden": 0.6, "sensitivity_90": 0.4}
    assert thresholds["Hernia"] == {"youden": None, "sensitivity_90": None}
    found = summarize_model(LABELS[::2], PROBABILITIES[::2], PATIENTS[::2], names, thresholds)
    assert found["at_thresholds"]["Hernia"] == {"youden": None, "sensitivity_90": None}
    at = found["at_thresholds"]["Mass"]["sensitivity_90"]  # 0.9 and 0.4 with the finding, 0.5 without
    assert (at["true_positives"], at["false_positives"], at["true_negatives"]) == (2, 1, 0)
    assert (at["sensitivity"], at["specificity"], at["precision"]) == (1.0, 0.0, pytest.approx(2 / 3))


def test_figures_are_plain_numbers_and_none_where_there_is_one_class() -> None:
    found = json.loads(
        json.dumps(summarize_model(LABELS, PROBABILITIES, PATIENTS, ("Mass", "Hernia")), allow_nan=False)
    )
    assert found["auroc"]["Mass"] == pytest.approx(roc_auc_score(LABELS[:, 0], PROBABILITIES[:, 0]), abs=1e-15)
    assert found["mean_auroc"] == found["auroc"]["Mass"]
    low, high = found["auroc_interval"]["Mass"]
    assert found["mean_auroc_interval"] == [low, high]
    assert 0 <= low < found["mean_auroc"] <= high <= 1
    assert found["auroc"]["Hernia"] is found["auroc_interval"]["Hernia"] is found["average_precision"]["Hernia"] is None
    assert found["brier"]["Hernia"] == pytest.approx(np.mean(PROBABILITIES[:, 1] ** 2))
    assert undefined_findings(LABELS, ("Mass", "Hernia")) == {"Hernia": "no film has it"}


def test_figures_stand_on_the_films_of_which_a_finding_is_known() -> None:
    names = ("Mass", "Hernia")
    labels = LABELS.astype(np.float32)
    labels[2, 0], labels[3, 0], labels[:, 1] = np.nan, 0.4, np.nan
    rows = [0, 1, 4, 5]
    assert count_labels(labels, names) == {"known": {"Mass": 4, "Hernia": 0}, "positives": {"Mass": 3, "Hernia": 0}}
    assert undefined_findings(labels, names) == {"Hernia": "it is known of no film"}
    thresholds = find_thresholds(labels, PROBABILITIES, names)
    assert thresholds["Mass"] == find_thresholds(LABELS[rows], PROBABILITIES[rows], names)["Mass"]
    found = summarize_model(labels, PROBABILITIES, PATIENTS, names, thresholds)
    found = json.loads(json.dumps(found, allow_nan=False))
    assert found["auroc"] == {"Mass": 1.0, "Hernia": None}
    assert found["brier"]["Mass"] == pytest.approx(np.mean((PROBABILITIES[rows, 0] - LABELS[rows, 0]) ** 2))
    assert found["brier"]["Hernia"] is found["expected_calibration_error"]["Hernia"] is None
    assert found["at_thresholds"]["Mass"]["youden"]["true_positives"] == 3
    assert found["at_thresholds"]["Hernia"] == {"youden": None, "sensitivity_90": None}


def test_numbers_that_are_no_probabilities_are_ranked_and_not_calibrated() -> None:
    names = ("Mass", "Hernia")
    ranks = summarize_model(LABELS, PROBABILITIES, PATIENTS, names)
    found = summarize_model(LABELS, 100 * PROBABILITIES - 7, PATIENTS, names, calibration=False)
    for key in ("auroc", "auroc_interval", "auroc_interval_delong", "average_precision", "mean_auroc"):
        assert found[key] == ranks[key]
    assert found["brier"] == found["expected_calibration_error"] == {"Mass": None, "Hernia": None}


def test_published_columns_have_every_finding_and_the_mean_they_state() -> None:
    found = published()
    assert len(found["report"]["columns"]) == 8
    for column in found["report"]["columns"].values():
        assert tuple(column["auroc"]) == FINDINGS
        assert np.mean(list(column["auroc"].values())) == pytest.approx(column["mean"], abs=0.0006)
    named = {found["report"]["split"]} | {row["split"] for row in found["others"]}
    assert named == set(found["splits"])
