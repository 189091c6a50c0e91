"""Runs on films of one's own and on several sources together: from the tables to the report."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from chexjax.data.films import open_films
from chexjax.errors import DataError
from chexjax.predict import Classifier
from chexjax.training import loop
from tests.spots import FINDINGS, draw


@pytest.fixture(scope="module")
def own_films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`films/` with 60 films of 30 patients in folders, and `labels.csv`; every fifth haze is not known."""
    folder = tmp_path_factory.mktemp("own")
    rows = []
    for film in range(60):
        labels = np.array([film % 2, film // 2 % 2, film // 4 % 2])
        path = f"p{film // 2}/f{film}.png"
        draw(folder / "films" / path, labels, film)
        rows.append([path, f"p{film // 2}", *labels[:2], "" if film % 5 == 0 else labels[2], "F", 30 + film % 9])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "patient", *FINDINGS, "sex", "age"), *rows])
    return folder


@pytest.fixture
def own(small_baseline: ConfigDict, own_films: Path, tmp_path: Path) -> ConfigDict:
    config = small_baseline
    config.data.update({"source": "table", "table": str(own_films / "labels.csv"), "dir": str(own_films / "films")})
    config.data.update({"cache": str(tmp_path / "cache"), "findings": ",".join(FINDINGS)})
    config.max_steps = 4
    return config


def test_a_run_on_a_table_of_ones_own(own: ConfigDict, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    loop.train(own, workdir)
    loop.evaluate(own, workdir)
    with (workdir / "folds.csv").open() as file:
        rows = list(csv.DictReader(file))
    parts = {fold: {row["Patient ID"] for row in rows if row["fold"] == fold} for fold in ("train", "val", "test")}
    assert len(rows) == 60
    assert {fold: len(patients) for fold, patients in parts.items()} == {"train": 21, "val": 3, "test": 6}
    results = json.loads((workdir / "metrics.json").read_text())
    assert set(results["networks"]["net1"]["auroc"]) >= set(FINDINGS)
    page = (workdir / "report.html").read_text()
    assert "By source" in page
    assert "Published figures" not in page
    classifier = Classifier.from_checkpoint(workdir)
    assert classifier.findings == FINDINGS
    films = open_films(own.data)
    label = films.parts["test"].labels
    assert np.isnan(label[:, 2]).sum() == sum(
        int(name.split("f")[1][:-4]) % 5 == 0 for name in films.parts["test"].names
    )
    again = own.copy_and_resolve_references()
    again.data.update({"split": "folds", "lists": str(workdir), "split_seed": 7})
    assert {k: set(p.names) for k, p in open_films(again.data).parts.items()} == {
        k: set(p.names) for k, p in films.parts.items()
    }


def test_two_sources_in_one_training_set(own: ConfigDict, own_films: Path, tmp_path: Path) -> None:
    rsna = tmp_path / "rsna"
    boxes = ["patientId,x,y,width,height,Target"]
    for film in range(20):
        draw(rsna / "stage_2_train_images" / f"r{film}.png", np.array([0, 0, film % 2]), 100 + film)
        boxes.append(f"r{film},{'0,640,1024,384,1' if film % 2 else ',,,,0'}")
    (rsna / "stage_2_train_labels.csv").write_text("\n".join(boxes) + "\n")
    own.data.sources = f"table={own_films / 'films'},rsna={rsna}=2.5"
    own.data.findings = "Left spot,Lung Opacity"
    films = open_films(own.data)
    counts = films.sources()
    assert list(counts) == ["table", "rsna"]
    assert (counts["table"].films, counts["table"].patients, *counts["table"].known) == (60, 30, 60, 0)
    assert (counts["rsna"].films, *counts["rsna"].known, *counts["rsna"].positives) == (20, 0, 20, 0, 10)
    workdir = tmp_path / "run"
    loop.train(own, workdir)
    part = films.parts["train"]
    from chexjax.data.feed import training_slots

    slots = training_slots(own, films)
    assert slots is not None
    shown = {source: sum(part.sources[film] == source for film in slots) for source in counts}
    in_part = {source: part.sources.count(source) for source in counts}
    assert shown["table"] == in_part["table"]
    assert shown["rsna"] == round(2.5 * in_part["rsna"])
    assert set(slots.tolist()) == set(range(len(part.names)))


def test_no_finding_in_common(own: ConfigDict, own_films: Path, tmp_path: Path) -> None:
    (tmp_path / "stage_2_train_labels.csv").write_text("patientId,x,y,width,height,Target\na,,,,,0\n")
    own.data.sources = f"table={own_films / 'films'},rsna={tmp_path}"
    with pytest.raises(DataError, match="rsna labels none of the findings"):
        open_films(own.data)
