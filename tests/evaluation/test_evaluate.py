"""A checkpoint on another data set: its films, the findings of both, thresholds of there and here."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from sklearn.metrics import roc_auc_score

from chexjax.configs import common
from chexjax.data import labels
from chexjax.errors import ChexjaxError, ConfigError, DataError
from chexjax.evaluation.evaluate import choose_films, data_of, evaluate, write_into
from chexjax.evaluation.summary import prevalence_thresholds
from chexjax.predict import Classifier
from chexjax.training import loop
from chexjax.workdir.config import read_config
from chexjax.workdir.restore import restore_best
from chexjax.workdir.thresholds import validation_thresholds
from tests.spots import FINDINGS, draw


def write_table(path: Path, head: tuple[str, ...], rows: list[list]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`films/` with 60 films of 30 patients, and `labels.csv`."""
    folder = tmp_path_factory.mktemp("home")
    rows = []
    for film in range(60):
        labels = [film % 2, film // 2 % 2, film // 4 % 2]
        draw(folder / "films" / f"f{film}.png", np.array(labels), film)
        rows.append([f"f{film}.png", f"p{film // 2}", *labels, "FM"[film // 2 % 2], 30 + film // 2 % 20])
    write_table(folder / "labels.csv", ("path", "patient", *FINDINGS, "sex", "age"), rows)
    return folder


@pytest.fixture(scope="module")
def run(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a short run of two small networks on it, evaluated."""
    from chexjax.configs import dml
    from tests.conftest import shrink

    config = shrink(dml.get_config())
    config.data.update({"source": "table", "table": str(home / "labels.csv"), "dir": str(home / "films")})
    workdir = tmp_path_factory.mktemp("runs") / "run"
    config.data.update({"cache": str(workdir.parent / "cache"), "findings": ",".join(FINDINGS)})
    config.max_steps = 4
    loop.train(config, workdir)
    loop.evaluate(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another hospital: two findings of the run's three, one by another spelling, one of its own; some unknown."""
    folder = tmp_path_factory.mktemp("elsewhere")
    rows = []
    for film in range(24):
        labels = [film % 3 == 0, 0, film % 4 == 0]
        draw(folder / "films" / f"g{film}.png", np.array(labels), 500 + film)
        haze = "" if film % 5 == 0 else int(labels[2])
        rows.append([f"g{film}.png", f"q{film // 2}", int(labels[0]), haze, film % 2])
    write_table(folder / "labels.csv", ("path", "patient", "left_spot", "Haze", "Other"), rows)
    return folder


def data_at(folder: Path, run: Path, **fields) -> ConfigDict:
    table = str(folder / "labels.csv")
    return data_of("table", str(folder / "films"), table=table, cache=str(run.parent / "cache"), **fields)


def test_the_report_on_the_findings_of_both(run: Path, elsewhere: Path, tmp_path: Path) -> None:
    found = evaluate(run, data_at(elsewhere, run), tmp_path / "out", progress=False)
    assert found == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert set(found["networks"]) == {"net1", "net2", "ensemble"}
    assert found["known"] == {"Left spot": 24, "Haze": 19}
    assert found["positives"] == {"Left spot": 8, "Haze": 4}
    assert any("2 of the run's 3 findings" in note for note in found["notes"])

    # Independently: the prediction command's probabilities of the same films, and scikit-learn's AUROC.
    classifier = Classifier.from_checkpoint(run)
    names = [f"g{film}.png" for film in range(24)]
    films = [np.asarray(Image.open(elsewhere / "films" / name)) for name in names]
    means = np.stack([p.probabilities for p in classifier.predict(films)])
    left, haze = np.arange(24) % 3 == 0, np.arange(24) % 4 == 0
    known = np.arange(24) % 5 != 0
    auroc = found["networks"]["ensemble"]["auroc"]
    assert auroc["Left spot"] == pytest.approx(roc_auc_score(left, means[:, 0]), abs=1e-9)
    assert auroc["Haze"] == pytest.approx(roc_auc_score(haze[known], means[known, 2]), abs=1e-9)
    with (tmp_path / "out" / "predictions_ensemble.csv").open() as file:
        rows = {row["Image Index"]: row for row in csv.DictReader(file)}
    written = np.array([[float(rows[name][finding]) for finding in ("Left spot", "Haze")] for name in names])
    np.testing.assert_allclose(written, means[:, [0, 2]], atol=2e-6)

    # The thresholds of the run's validation are applied as they are.
    own = json.loads((run / "metrics.json").read_text())["networks"]["net1"]["thresholds"]
    here = found["networks"]["net1"]
    assert here["thresholds"] == {finding: own[finding] for finding in ("Left spot", "Haze")}
    at = here["at_prevalence"]["at_thresholds"]["Left spot"]["prevalence"]
    assert at["true_positives"] + at["false_positives"] == 8

    page = (tmp_path / "out" / "report.html").read_text()
    assert "another data set" in page
    assert "the prevalence of these films" in page
    assert "Published figures" not in page
    assert not list((tmp_path / "out").glob("writing-*"))


def test_a_label_wider_than_the_outputs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three readers marked "Any spot", which no output means: the higher of the two spots' outputs counts."""
    wide = labels.Evaluable("Any spot", ("Left spot", "Right spot"), "a test's reason")
    monkeypatch.setattr(labels, "WIDE_LABELS", (wide,))
    rows, corners = [], {}
    for film in range(24):
        left, right, haze = film % 3 == 0, film % 5 == 0, film % 4 == 0
        draw(tmp_path / "v" / "train" / f"v{film}.png", np.array([left, right, haze]), 900 + film)
        marks = (
            [("Any spot", 5, 10, 15, 20)] * left
            + [("Any spot", 25, 10, 35, 20)] * right
            + [("Haze", 0, 25, 40, 40)] * haze
        )
        corners[f"v{film}"] = [mark[1:] for mark in marks if mark[0] == "Any spot"]
        for reader in "abc":
            rows += [[f"v{film}", *mark, reader] for mark in marks or [("No finding", "", "", "", "")]]
    write_table(
        tmp_path / "v" / "train.csv", ("image_id", "class_name", "x_min", "y_min", "x_max", "y_max", "rad_id"), rows
    )
    found = evaluate(run, data_of("vindr", str(tmp_path / "v"), cache=str(tmp_path)), tmp_path / "out", progress=False)
    assert found["evaluated_by"] == {"Any spot": ["Left spot", "Right spot"]}
    assert found["known"] == {"Haze": 24, "Any spot": 24}

    names = list(corners)
    predictions = Classifier.from_checkpoint(run).predict([tmp_path / "v" / "train" / f"{name}.png" for name in names])
    highest = np.array([max(p.probabilities[0], p.probabilities[1]) for p in predictions])
    truth = [bool(corners[name]) for name in names]
    auroc = found["networks"]["ensemble"]["auroc"]["Any spot"]
    assert auroc == pytest.approx(roc_auc_score(truth, highest), abs=1e-9)
    with (tmp_path / "out" / "predictions_ensemble.csv").open() as file:
        written = {row["Image Index"]: float(row["Any spot"]) for row in csv.DictReader(file)}
    np.testing.assert_allclose([written[name] for name in names], highest, atol=2e-6)

    hits = []
    for prediction, name in zip(predictions, names, strict=True):
        if corners[name]:
            cells = np.maximum(prediction.maps[..., 0], prediction.maps[..., 1])
            row, column = np.unravel_index(cells.argmax(), cells.shape)
            y, x = (row + 0.5) * 40 / cells.shape[0], (column + 0.5) * 40 / cells.shape[1]
            hits.append(any(left <= x <= right and top <= y <= bottom for left, top, right, bottom in corners[name]))
    group = found["localization"]["groups"]["Any spot"]
    assert group["cases"] == len(hits) > 8
    assert group["sources"]["ensemble"]["pointing"] == pytest.approx(np.mean(hits))

    # No threshold of the run is known for it; a reader sees how it was evaluated, and why.
    assert set(found["networks"]["net1"]["thresholds"]) == {"Haze"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Any spot <small>(highest of Left spot, Right spot)</small>" in page
    assert "Any spot is evaluated by the highest of the outputs Left spot, Right spot (a test&#39;s reason)" in page


def test_thresholds_at_the_prevalence_call_as_many_as_there_are() -> None:
    random = np.random.default_rng(0)
    labels = (random.random((200, 3)) < [0.1, 0.5, 0.0]).astype(np.float32)
    labels[::7, 1] = np.nan
    labels[1::7, 1] = 0.5
    probabilities = random.random((200, 3))
    found = prevalence_thresholds(labels, probabilities, "ABC")
    for k, finding in enumerate("AB"):
        hard = np.isin(labels[:, k], (0, 1))
        called = probabilities[hard, k] >= found[finding]["prevalence"]
        assert called.sum() == (labels[hard, k] == 1).sum() > 0
    assert found["C"] == {"prevalence": None}


def test_patients_of_the_run_are_left_out(run: Path, home: Path, tmp_path: Path) -> None:
    with (run / "folds.csv").open() as file:
        fold_of = {row["Image Index"]: row["fold"] for row in csv.DictReader(file)}
    best = restore_best(run)
    _, rows, notes = choose_films(best, data_at(home, run), "all")
    assert len(rows) == list(fold_of.values()).count("test") < 60
    assert any("left out" in note for note in notes)
    # Under other folders, without the films that tested the run, nothing is left.
    (tmp_path / "films").mkdir()
    text = (home / "labels.csv").read_text().splitlines()
    learned = [text[0]] + [row for row in text[1:] if fold_of[row.split(",")[0]] != "test"]
    (tmp_path / "labels.csv").write_text("\n".join(learned).replace("\nf", "\nfilms/f"))
    with pytest.raises(DataError, match="no film for a test"):
        choose_films(best, data_at(tmp_path, run), "all")


def test_other_patients_under_the_same_names_are_kept(run: Path, home: Path, tmp_path: Path) -> None:
    rows = [row.split(",") for row in (home / "labels.csv").read_text().splitlines()]
    rows = [rows[0]] + [[*row[:-1], str(int(row[-1]) + 17)] for row in rows[1:]]
    (tmp_path / "films").mkdir()
    (tmp_path / "labels.csv").write_text("\n".join(map(",".join, rows)))
    films, chosen, notes = choose_films(restore_best(run), data_at(tmp_path, run), "all")
    assert len(chosen) == len(films) == 60
    assert any("show other patients: they are kept" in note for note in notes)


def test_another_hospitals_patients_may_have_the_same_numbers(run: Path, home: Path, tmp_path: Path) -> None:
    rows = [row.split(",") for row in (home / "labels.csv").read_text().splitlines()]
    (tmp_path / "films").mkdir()

    def chosen(sex: dict[str, str]) -> tuple[int, str]:
        others = [rows[0]] + [[f"other-{row[0]}", *row[1:5], sex[row[5]], row[6]] for row in rows[1:]]
        (tmp_path / "labels.csv").write_text("\n".join(map(",".join, others)))
        _, kept, notes = choose_films(restore_best(run), data_at(tmp_path, run), "all")
        return len(kept), notes[-1]

    assert chosen({"F": "M", "M": "F"})[0] == 60
    kept, note = chosen({"F": "F", "M": "M"})
    assert 0 < kept < 60
    assert "if they are other people, give them other numbers in the table, such as B-12" in note


def test_a_table_of_test_films_alone(run: Path, home: Path, tmp_path: Path) -> None:
    rows = (home / "labels.csv").read_text().splitlines()
    tested = [f"{rows[0]},split", *(f"new-{row.replace(',p', ',q')},test" for row in rows[1:])]
    (tmp_path / "films").mkdir()
    (tmp_path / "labels.csv").write_text("\n".join(tested))
    _, kept, _ = choose_films(restore_best(run), data_at(tmp_path, run), "test")
    assert len(kept) == 60


def test_the_other_edition_of_a_table_names_the_same_films(run: Path, home: Path, tmp_path: Path) -> None:
    """Google's table has the NIH's films with ages that differ by a year from those of 2020, for two films in five."""
    rows = [row.split(",") for row in (home / "labels.csv").read_text().splitlines()]
    rows = [rows[0]] + [[*row[:-1], str(int(row[-1]) + (k % 5 < 2))] for k, row in enumerate(rows[1:])]
    (tmp_path / "films").mkdir()
    (tmp_path / "labels.csv").write_text("\n".join(map(",".join, rows)))
    films, chosen, notes = choose_films(restore_best(run), data_at(tmp_path, run), "all")
    _, expected, _ = choose_films(restore_best(run), data_at(home, run), "all")
    assert {films.names[row] for row in chosen} == {films.names[row] for row in expected}
    assert len(chosen) < 60
    assert any("left out" in note for note in notes)


def test_uncertain_labels_need_a_word(run: Path, elsewhere: Path, tmp_path: Path) -> None:
    table = (elsewhere / "labels.csv").read_text().replace("g3.png,q1,1", "g3.png,q1,-1")
    (tmp_path / "labels.csv").write_text(table)
    best = restore_best(run)
    fields = {"table": str(tmp_path / "labels.csv"), "cache": str(tmp_path)}
    with pytest.raises(DataError, match="--uncertain=ignore") as message:
        choose_films(best, data_of("table", str(elsewhere / "films"), **fields), "all")
    assert "config.data" not in str(message.value)
    for policy, value in (("ignore", np.nan), ("one", 1.0), ("Left spot=0.25", 0.25)):
        films, _, _ = choose_films(best, data_of("table", str(elsewhere / "films"), uncertain=policy, **fields), "all")
        assert np.array_equal(films.labels[films.names.index("g3.png"), 0], np.float32(value), equal_nan=True)


def test_what_cannot_be_evaluated_is_told(run: Path, elsewhere: Path, tmp_path: Path) -> None:
    data = data_at(elsewhere, run)
    with pytest.raises(ConfigError, match="holds a run"):
        evaluate(run, data, run)
    with pytest.raises(ConfigError, match="a file's name"):
        evaluate(run, data, tmp_path / "x.csv")
    write_table(tmp_path / "other.csv", ("path", "Other", "labels"), [["a.png", "1", "Thing"]])
    data = data_of("table", str(tmp_path), table=str(tmp_path / "other.csv"))
    with pytest.raises(DataError, match="none of the findings that the run predicts"):
        choose_films(restore_best(run), data, "all")


def test_a_run_that_is_given_other_films_names_this_command(run: Path, home: Path, elsewhere: Path) -> None:
    config = common.retype(read_config(run))
    for folder in (elsewhere / "films", run.parent):  # other films, none
        config.data.dir = str(folder)
        with pytest.raises(ChexjaxError, match=rf"chexjax\.evaluation\.evaluate --checkpoint={run} --source=NAME"):
            loop.evaluate(config, run)


def test_thresholds_of_another_checkpoint_do_not_count(run: Path, tmp_path: Path) -> None:
    best = restore_best(run)
    results = json.loads((run / "metrics.json").read_text())
    for text in ("", "[]", '{"step": 1}', json.dumps(results | {"step": best.step + 1})):
        (tmp_path / "metrics.json").write_text(text)
        assert validation_thresholds(tmp_path, best.step) == {}
    assert set(validation_thresholds(run, best.step)["net2"]["Haze"]) == {"youden", "sensitivity_90"}


def test_an_earlier_report_stays_until_a_new_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("old")
    (tmp_path / "predictions_net9.csv").write_text("old")
    (tmp_path / "mine.txt").write_text("mine")

    def fails(folder: Path) -> None:
        (folder / "report.html").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match="No space left"):
        write_into(tmp_path, fails)
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "predictions_net9.csv", "mine.txt"}
    write_into(tmp_path, lambda folder: [(folder / name).write_text("new") for name in ("metrics.json", "a.csv")])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "metrics.json": "new",
        "a.csv": "new",
        "mine.txt": "mine",
    }


def test_the_command(run: Path, elsewhere: Path, tmp_path: Path) -> None:
    """Its flags, its status, and its line where something is missing; the networks of the test are not in it."""
    program = "import sys; import tests.conftest; from chexjax.cli import main; main()"
    given = [f"--checkpoint={run}", "--source=table", f"--dir={elsewhere / 'films'}"]

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, "evaluate", *arguments]
        root = Path(__file__).parent.parent.parent
        return subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=300)

    done = call(*given, f"--table={elsewhere / 'labels.csv'}", f"--out={tmp_path / 'out'}", f"--cache={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "left_spot" not in done.stderr
    assert "mean AUROC" in done.stdout
    assert (tmp_path / "out" / "metrics.json").is_file()
    done = call(*given)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no --out is given")
    assert "Traceback" not in done.stderr
