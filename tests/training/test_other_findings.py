"""Runs of findings that no list holds: from the prepared films to all that is written of them."""

import csv
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export as jax_export
from ml_collections import ConfigDict
from PIL import Image
from sklearn.metrics import roc_auc_score

from chexjax.commands import export, score
from chexjax.data.prepared import Prepared, _load, load, write_set
from chexjax.data.recipe import Recipe
from chexjax.data.sources.nih import Box, Entry
from chexjax.errors import CheckpointError, ConfigError, DataError
from chexjax.files import text_of
from chexjax.findings import FINDINGS
from chexjax.predict import Classifier, predict_files
from chexjax.training import loop
from chexjax.training.groups import find_groups
from chexjax.viewer import list_rows
from chexjax.workdir.checkpoints import METADATA, Checkpoints
from chexjax.workdir.restore import restore_best
from tests.stopped import train_until

THREE = ("Zebra sign", "=1+1/2", "Größe (left)")  # a space, a formula with a slash, letters beyond ASCII
PARTS = {"train": range(32), "val": range(32, 48), "test": range(48, 60)}


def write_films(folder: Path, findings: tuple[str, ...]) -> Prepared:
    """Noise with a bright square per finding, 60 films of 40 px; a tenth of the labels is not known."""
    rng = np.random.default_rng(len(findings))
    entries, found = {}, {}
    for k in range(60):
        name, labels = f"{k}.png", rng.integers(0, 2, len(findings)).astype(np.float32)
        labels[0] = k % 2
        film = rng.integers(0, 90, (40, 40), np.uint8)
        for finding in np.flatnonzero(labels):
            film[4 + 12 * finding :, 10:20][:8] += 120
        labels[rng.random(len(findings)) < 0.1] = np.nan
        boxes = (Box(len(findings) - 1, 0.25, 0.1, 0.25, 0.2),) if k % 3 == 0 else ()
        entries[name] = Entry(name, labels, f"p{k}", 50, "F", "PA", boxes)
        found[name] = folder / name
        folder.mkdir(exist_ok=True)
        Image.fromarray(film).save(found[name])
    splits = {part: [f"{k}.png" for k in films] for part, films in PARTS.items()}
    final = folder / "prepared" / "32px-0123456789ab" / "1.0.0"
    write_set(final, findings, entries, splits, found, {}, Recipe(size=32), progress=False)
    return load(final)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return write_films(tmp_path_factory.mktemp("three") / "films", THREE)


@pytest.fixture
def config(small_dml: ConfigDict, films: Prepared, monkeypatch: pytest.MonkeyPatch) -> ConfigDict:
    """Four steps of a pair that learns mutually, of which the second has two branches, found by clustering."""
    monkeypatch.setattr(loop, "open_films", lambda data, digest="": films)
    small_dml.data.update({"source": "chestxray14", "dir": "nowhere"})
    small_dml.groups.update({"by": "cooccurrence", "count": 2})
    small_dml.networks.net2.shared_stages = 0
    small_dml.update({"max_steps": 4, "eval_epochs": 0.5})
    return small_dml


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "run"


def weights(workdir: Path, step: int) -> list[np.ndarray]:
    return jax.tree.leaves(Checkpoints(workdir)._load(step, ("networks", "training")))


def test_prepared_films_keep_the_names_of_their_findings(films: Prepared) -> None:
    assert films.findings == THREE
    assert films.parts["train"].labels.shape == (32, 3)
    record = films.source("train")[0]
    np.testing.assert_array_equal(record["label"], films.parts["train"].labels[0])
    assert [int(finding) for finding in record["bboxes"]["label"]] == [2]
    assert any(f"rarest {finding} (" in films.summary() for finding in THREE)


@pytest.mark.parametrize(
    ("findings", "message"),
    [((), "a list of names"), (("A", "A"), "'A' is there twice"), ((" A",), "outer blanks"), (("A\n",), "one line"),
     (("Image Index",), "the column of film names")],
)  # fmt: skip
def test_what_is_no_set_of_findings_is_not_written(tmp_path: Path, findings: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_set(tmp_path / "a", findings, {}, {}, {}, {}, Recipe(size=32), progress=False)
    assert not list(tmp_path.iterdir())


def test_a_table_of_films_with_other_columns_is_refused(tmp_path: Path) -> None:
    films = write_films(tmp_path / "films", ("A",))
    text = (films.path / "films.csv").read_text(encoding="utf-8")
    for old, new, message in (
        ("split,", "part,", "other columns"),
        (",A\n", ",A,A\n", "twice"),
        (",A\n", "\n", "names, not"),
    ):
        (films.path / "films.csv").write_text(text.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(DataError, match=f"holds no prepared films .*{message}"):
            _load(films.path)
    (films.path / "films.csv").write_text(f"{text}train,b.png", encoding="utf-8")
    with pytest.raises(DataError, match="line 62: 2 cells for 7 columns"):
        _load(films.path)


def test_a_run_of_three_findings_trains_and_goes_on_bit_for_bit(
    config: ConfigDict, workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop.train(config, workdir)
    train_until(2, config, tmp_path / "again")
    assert Checkpoints(tmp_path / "again").latest == 2
    loop.train(config, tmp_path / "again")
    for a, b in zip(weights(tmp_path / "again", 4), weights(workdir, 4), strict=True):
        np.testing.assert_array_equal(a, b)
    metadata = Checkpoints(workdir).metadata(4)
    assert metadata["findings"] == list(THREE)
    assert sorted(finding for group in metadata["groups"] for finding in group) == sorted(THREE)
    assert len(metadata["groups"]) == 2
    assert all(f"group: {', '.join(group)}" in capsys.readouterr().out for group in metadata["groups"][:1])


def test_its_evaluation_is_of_those_findings(
    config: ConfigDict, films: Prepared, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = loop.evaluate(config, workdir)
    printed = capsys.readouterr().out
    found = json.loads((workdir / "metrics.json").read_text())
    labels = films.parts["test"].labels
    for k, finding in enumerate(THREE):
        known = ~np.isnan(labels[:, k])
        assert found["known"][finding] == known.sum()
        assert found["positives"][finding] == (labels[:, k] == 1).sum()
        for name, p in predictions.probabilities.items():
            expected = roc_auc_score(labels[known, k], p[known, k])
            assert found["networks"][name]["auroc"][finding] == pytest.approx(expected, abs=1e-12)
        assert f"\n{finding}" in printed
    assert found["localization"]["groups"].keys() == {"all", THREE[2]}
    page = (workdir / "report.html").read_text()
    assert "Größe (left)" in page
    assert "Published" not in page
    assert "Hernia" not in page
    with (workdir / "predictions_net2.csv").open(newline="", encoding="utf-8") as file:
        assert [text_of(name) for name in next(csv.reader(file))] == ["Image Index", *THREE]


def test_it_predicts_draws_exports_and_is_scored(
    config: ConfigDict, films: Prepared, workdir: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    folder = films.path.parents[2]
    classifier = Classifier.from_checkpoint(workdir)
    assert classifier.findings == restore_best(workdir).findings == THREE
    assert np.isfinite(classifier.thresholds).all()
    (prediction,) = classifier.predict(folder / "0.png")
    assert sorted(prediction.ranked) == sorted(THREE)
    assert [row.finding for row in list_rows(prediction)] == prediction.ranked
    assert prediction.map(THREE[2]).shape == prediction.maps.shape[:2]
    assert prediction.maps.shape[2] == 3

    files = {f"{k}.png": folder / f"{k}.png" for k in PARTS["test"]}
    predict_files(classifier, files, tmp_path / "out", overlays=3, progress=False)
    with (tmp_path / "out" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["Image Index", "Zebra sign", "'=1+1/2", "Größe (left)", "status", "reasons"]
    with (workdir / "predictions_ensemble.csv").open(newline="", encoding="utf-8") as file:
        expected = list(csv.reader(file))
    assert [row[0] for row in rows] == [row[0] for row in expected[1:]]
    np.testing.assert_allclose(
        np.array([row[1:-2] for row in rows], float), np.array([row[1:] for row in expected[1:]], float), atol=1e-5
    )
    drawn = list((tmp_path / "out" / "overlays").iterdir())
    assert len(drawn) >= len(files)
    assert all(Image.open(path).size[0] >= 40 for path in drawn)
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "Größe (left)" in page
    assert "Hernia" not in page

    flags = [f"--checkpoint={workdir}", f"--out={tmp_path / 'all.bin'}", "--film=40x40", "--platforms=cpu"]
    monkeypatch.setattr(sys, "argv", ["export", *flags])
    export.main()
    assert json.loads((tmp_path / "all.bin.json").read_text())["findings"] == list(THREE)
    program = jax_export.deserialize(bytearray((tmp_path / "all.bin").read_bytes()))
    exported = program.call(np.asarray(Image.open(folder / "0.png"))[None])
    np.testing.assert_allclose(exported[0], prediction.probabilities, atol=1e-5)

    labels = films.parts["test"].labels
    lines = [",".join("" if np.isnan(y) else f"{y:g}" for y in row) for row in labels]
    table = [f"{name},{line}" for name, line in zip(films.parts["test"].names, lines, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join([f"Image Index,{','.join(THREE)}", *table]), encoding="utf-8")
    flags = [f"--predictions={workdir / 'predictions_net1.csv'}", f"--labels={tmp_path / 'labels.csv'}"]
    monkeypatch.setattr(sys, "argv", ["score", *flags, f"--out={tmp_path / 'score'}"])
    capsys.readouterr()
    score.main()
    found = json.loads((tmp_path / "score" / "metrics.json").read_text())
    ours = json.loads((workdir / "metrics.json").read_text())
    assert found["networks"]["predictions_net1"]["auroc"] == ours["networks"]["net1"]["auroc"]
    assert (found["known"], found["positives"]) == (ours["known"], ours["positives"])


def test_one_finding_trains_and_evaluates(config: ConfigDict, tmp_path: Path, monkeypatch) -> None:
    films = write_films(tmp_path / "films", ("Rust",))
    monkeypatch.setattr(loop, "open_films", lambda data, digest="": films)
    config.groups.count = 1
    loop.train(config, tmp_path / "run")
    predictions = loop.evaluate(config, tmp_path / "run")
    assert predictions.probabilities["ensemble"].shape == (12, 1)
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["networks"]["net2"]["mean_auroc"] == found["networks"]["net2"]["auroc"]["Rust"]
    assert Classifier.from_checkpoint(tmp_path / "run").predict(tmp_path / "films" / "0.png")[0].ranked == ["Rust"]


def test_groups_that_do_not_go_with_the_findings_are_refused_in_a_line(config: ConfigDict, films: Prepared) -> None:
    config.groups.by = "report"
    with pytest.raises(ConfigError, match=r"'Atelectasis', which is none of the findings Zebra sign, .*cooccurrence"):
        find_groups(config, films)
    config.groups.update({"by": "cooccurrence", "count": 4})
    with pytest.raises(ConfigError, match=r"config\.groups\.count is 4; there are 3 findings"):
        find_groups(config, films)


def test_a_teacher_of_other_findings_is_refused(
    config: ConfigDict, films: Prepared, workdir: Path, monkeypatch, tmp_path: Path
) -> None:
    others = write_films(tmp_path / "films", ("Moss", "Rust"))
    monkeypatch.setattr(loop, "open_films", lambda data, digest="": others)
    config.update({"regime": "distill", "teacher": str(workdir)})
    with pytest.raises(ConfigError, match=r"predicts 3: Zebra sign, .* these films have 2: Moss, Rust; a teacher"):
        loop.train(config, tmp_path / "student")


def test_a_checkpoint_of_before_findings_were_named_is_of_the_nihs(workdir: Path) -> None:
    """Its networks have three outputs, so as one of fourteen it does not fit."""
    step = Checkpoints(workdir).best
    folder = workdir / "checkpoints" / str(step)
    metadata = json.loads((folder / METADATA).read_text())
    restored = restore_best(workdir)
    assert restored.metadata["findings"] == metadata["findings"] == list(THREE)
    restored.metadata.pop("findings")
    assert restored.findings == FINDINGS
    for broken in ("Rust", [], ["a", "a"], [3]):
        restored.metadata["findings"] = broken
        with pytest.raises(ValueError, match="finding"):
            _ = restored.findings
    with pytest.raises(CheckpointError, match="was trained on 14: Atelectasis, "):
        loop.check_metadata({"data": "d", "history": []}, _WithDigest(THREE, "d"), workdir)  # type: ignore[arg-type]


class _WithDigest:
    def __init__(self, findings: tuple[str, ...], digest: str):
        self.findings, self.digest = findings, digest
