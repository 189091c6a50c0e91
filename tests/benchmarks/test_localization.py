"""The judging of a folder: which films, which boxes, and the same maps that prediction shows."""

from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from benchmarks.localization import judge_folder
from chexjax.data.sources.nih import boxed_entries, read_entries
from chexjax.errors import DataError
from chexjax.evaluation.localization import judge
from chexjax.predict import Classifier
from tests.untrained import save_untrained


def test_a_folder_is_judged_without_the_patients_seen_in_training(
    phantom_folder: Path, small_baseline: ConfigDict, tmp_path: Path
) -> None:
    whole = read_entries(phantom_folder)
    boxed = [name for name, entry in whole.items() if entry.boxes]
    seen = boxed[:5]
    kept = [name for name in boxed if whole[name].patient not in {whole[film].patient for film in seen}]
    assert len(kept) < len(boxed) - len(seen)  # some of the patients have other films
    parts = [*(f"{name},{part}" for name, part in zip(seen, ("train", "val") * 3, strict=False)), f"{kept[0]},test"]
    (tmp_path / "seen.csv").write_text("\n".join(["Image Index,part", *parts]))
    entries = boxed_entries(phantom_folder, tmp_path / "seen.csv")
    assert list(entries) == kept

    classifier = Classifier.from_checkpoint(save_untrained(small_baseline, tmp_path / "run"))
    found = judge_folder({"cam": classifier}, phantom_folder, tmp_path / "seen.csv")
    cases = {(name, box.finding) for name in kept for box in entries[name].boxes}
    assert found["cases"] == len(cases) > 10
    shown = {name: classifier.predict(phantom_folder / "images" / name)[0] for name in kept}
    truth = [
        np.array([[b.left, b.top, b.width, b.height] for b in entries[name].boxes if b.finding == finding])
        for name, finding in cases
    ]
    expected = judge([shown[name].map(finding) for name, finding in cases], truth)
    source = found["groups"]["all"]["sources"]["cam"]
    assert source["pointing"] == pytest.approx(expected.pointing.mean())
    assert source["iou"]["0.1"] == pytest.approx((expected.iou >= 0.1).mean())


def test_patients_are_known_by_films_that_the_folder_lacks(phantom_folder: Path, tmp_path: Path) -> None:
    """A run's `folds.csv` lists its own films: the NIH's names begin with the patient's number."""
    boxed = {name: entry for name, entry in read_entries(phantom_folder).items() if entry.boxes}
    patient = next(iter(boxed.values())).patient
    (tmp_path / "folds.csv").write_text(f"Image Index,fold\n{int(patient):08}_999.png,val\n")
    expected = [name for name, entry in boxed.items() if entry.patient != patient]
    assert list(boxed_entries(phantom_folder, tmp_path / "folds.csv")) == expected != list(boxed)
    (tmp_path / "folds.csv").write_text(f"Image Index,age\n{next(iter(boxed))},50\n")
    with pytest.raises(DataError, match="the second column names no part of a split"):
        boxed_entries(phantom_folder, tmp_path / "folds.csv")


def test_a_film_that_is_missing_is_named(phantom_folder: Path, tmp_path: Path) -> None:
    for path in phantom_folder.glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(DataError, match=r"films with boxes are missing, \d+: "):
        judge_folder({}, tmp_path)
