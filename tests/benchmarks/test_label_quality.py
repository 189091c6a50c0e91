"""Labels and models beside readers: figures against scikit-learn's, and by hand."""

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, precision_score, recall_score, roc_auc_score

from benchmarks import label_quality
from chexjax.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty films; the labels say Nodule or Mass of some, the readers of others; a model knows the readers' mind."""
    rng = np.random.default_rng(0)
    readers = rng.random(40) < 0.4
    labels = np.where(rng.random(40) < 0.25, ~readers, readers)
    with (tmp_path / "entries.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Image Index", "Finding Labels", "Patient ID"])
        for k, has in enumerate(labels):
            table.writerow([f"{k}.png", ("Mass" if k % 2 else "Nodule|Effusion") if has else "No Finding", k // 2])
    with (tmp_path / "readers.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Image Index", "Nodule or mass", "Set Id"])
        table.writerows([f"{k}.png", "YES" if has else "NO", "test"] for k, has in enumerate(readers))
    with (tmp_path / "model.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Image Index", "Nodule", "Mass"])
        scores = readers * 0.5 + rng.random(40) * 0.45  # every film of the readers above every other
        table.writerows([f"{k}.png", score, score / 2] for k, score in enumerate(scores))
    np.savez(tmp_path / "truth.npz", readers=readers, labels=labels)
    return tmp_path


def run(folder: Path, readers: str = "readers.csv") -> dict:
    arguments = [f"--labels={folder / 'entries.csv'}", f"--readers={folder / readers}", f"m={folder / 'model.csv'}"]
    return label_quality.main(arguments)


def test_figures_equal_scikit_learns(folder: Path, capsys: pytest.CaptureFixture) -> None:
    found, truth = run(folder)["Nodule or mass"], np.load(folder / "truth.npz")
    readers, labels = truth["readers"], truth["labels"]
    assert found["films"] == 40
    assert found["kappa"] == pytest.approx(cohen_kappa_score(readers, labels))
    assert found["sensitivity"] == pytest.approx(recall_score(readers, labels))
    assert found["specificity"] == pytest.approx(recall_score(~readers, ~labels))
    assert found["precision"] == pytest.approx(precision_score(readers, labels))
    model = found["models"]["m"]
    assert model["readers"][0] == 1.0
    scores = np.array([float(row["Nodule"]) for row in csv.DictReader((folder / "model.csv").open())])
    assert model["labels"][0] == pytest.approx(roc_auc_score(labels, scores))
    assert model["apart"] == (readers != labels).sum() > 0
    assert model["with_readers"] == 1.0
    assert "sides with readers" in capsys.readouterr().out


def test_a_table_without_readers_is_refused(folder: Path) -> None:
    (folder / "other.csv").write_text("Image Index,Fracture\na.png,YES\n")
    with pytest.raises(DataError, match="no column of readers"):
        label_quality.read_readers(folder / "other.csv")
    (folder / "unsure.csv").write_text("Image Index,target\na.png,maybe\n")
    with pytest.raises(DataError, match="'maybe' is neither YES nor NO"):
        label_quality.read_readers(folder / "unsure.csv")
