"""The command that scores predictions, as it is typed, against scikit-learn and by hand."""

import csv
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from chexjax.commands import score
from chexjax.data.sources.nih import read_entry_file
from chexjax.evaluation import metrics
from chexjax.evaluation.predictions import write_predictions
from chexjax.evaluation.summary import group_of
from chexjax.findings import FINDINGS


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the command; returns what it printed, or what it said when it ended with status 1."""

    def typed(*flags: str) -> str:
        monkeypatch.setattr(sys, "argv", ["score", *flags])
        try:
            score.main()
        except SystemExit as ended:
            status = ended.code
        else:
            return capsys.readouterr().out
        message = capsys.readouterr().err
        assert status == 1
        assert message.startswith("error: ")
        assert "Traceback" not in message
        return message

    return typed


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory, entry_file: Path, probabilities: np.ndarray) -> Path:
    """a.csv and b.csv over the last 28 films, val.csv over the first 12."""
    folder = tmp_path_factory.mktemp("tables")
    names = [*read_entry_file(entry_file)]
    write_predictions(folder / "a.csv", names[12:], probabilities[12:], FINDINGS)
    write_predictions(folder / "b.csv", names[12:], probabilities[12:] ** 2 * 0.9 + 0.1 * probabilities[:28], FINDINGS)
    write_predictions(folder / "val.csv", names[:12], probabilities[:12], FINDINGS)
    return folder


class Reader(HTMLParser):
    """What a browser would fetch or run, and the text it would show."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.shown = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        values = {key: value or "" for key, value in attrs}
        links = [values[key] for key in ("src", "href") if key in values]
        self.fetched += [link for link in links if not link.startswith(("data:", "#"))]

    def handle_data(self, data: str) -> None:
        self.shown += data


def test_a_score_in_full(run, tables: Path, entry_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    printed = run(
        f"--predictions={tables / 'a.csv'}",
        f"--against={tables / 'b.csv'}",
        f"--labels={entry_file}",
        f"--thresholds-from={tables / 'val.csv'}",
        "--by=sex,view",
        f"--out={out}",
    )
    assert "a.csv: 28 of 28 rows match the entry file" in printed
    found = json.loads((out / "metrics.json").read_text())
    entries = list(read_entry_file(entry_file).values())[12:]
    labels = np.stack([entry.labels for entry in entries])
    with (tables / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    a = np.array([[float(row[finding]) for finding in FINDINGS] for row in rows])
    b = np.array([[float(v) for v in line.split(",")[1:]] for line in (tables / "b.csv").read_text().split()[2:]])

    assert (found["films"], found["patients"]) == (28, 14)
    assert found["networks"]["a"]["auroc"]["Hernia"] is None
    assert any("Hernia: no film has it" in note for note in found["notes"])
    for k, finding in enumerate(FINDINGS[:-1]):
        assert found["positives"][finding] == labels[:, k].sum()
        for name, p in (("a", a), ("b", b)):
            expected = roc_auc_score(labels[:, k], p[:, k])
            assert found["networks"][name]["auroc"][finding] == pytest.approx(expected, abs=1e-12)
        test = metrics.delong_test(labels[:, k], a[:, k], b[:, k])
        assert found["comparison"]["findings"][finding]["p_value"] == pytest.approx(test.p_value, abs=1e-12)
        for sex in "MF":
            group = np.array([entry.sex == sex for entry in entries])
            group_figures = found["subgroups"]["sex"][sex]
            assert group_figures["positives"][finding] == labels[group, k].sum()
            expected = roc_auc_score(labels[group, k], a[group, k])
            assert group_figures["networks"]["a"]["auroc"][finding] == pytest.approx(expected, abs=1e-12)
    p_values = [at["p_value"] for at in found["comparison"]["findings"].values() if at["p_value"] is not None]
    corrected = [at["p_value_holm"] for at in found["comparison"]["findings"].values() if at["p_value"] is not None]
    np.testing.assert_allclose(corrected, metrics.holm(p_values))
    assert found["subgroups"]["view"]["AP"]["films"] == 28
    assert "thresholds" in found["networks"]["a"]
    assert "thresholds" not in found["networks"]["b"]
    at = found["networks"]["a"]["at_thresholds"]["Mass"]["youden"]
    threshold = found["networks"]["a"]["thresholds"]["Mass"]["youden"]
    k = FINDINGS.index("Mass")
    assert at["true_positives"] == ((a[:, k] >= threshold) & (labels[:, k] == 1)).sum()
    for finding, figure in found["networks"]["a"]["auroc"].items():
        assert ("n/a" if figure is None else f"{figure:.4f}") in re.search(rf"^{finding} .*$", printed, re.M)[0]

    assert (out / "roc.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "reliability.png").stat().st_size > 10_000
    shown = Reader((out / "report.html").read_text())
    assert not shown.fetched
    assert "script" not in shown.tags
    assert f"{found['networks']['a']['auroc']['Mass']:.4f}" in shown.shown
    assert not list(out.glob("*.partial"))


def test_what_the_entry_file_says_is_neither_markup_nor_a_formula(run, tmp_path: Path) -> None:
    evil = ["<script>alert(1)</script>", "=HYPERLINK(1)"]
    lines = ["Image Index,Finding Labels,Patient ID,Patient Gender"]
    lines += [f"{k}.png,{'Mass' if k % 3 else 'No Finding'},{k},{evil[k % 2]}" for k in range(12)]
    (tmp_path / "entries.csv").write_text("\n".join(lines))
    path = tmp_path / "<b>.csv"
    path.write_text("Image Index,Mass\n" + "".join(f"{k}.png,0.{k + 10}\n" for k in range(12)))
    run(f"--predictions={path}", f"--labels={tmp_path / 'entries.csv'}", "--by=sex", f"--out={tmp_path / 'out'}")
    shown = Reader((tmp_path / "out" / "report.html").read_text())
    assert "script" not in shown.tags
    assert "b" not in shown.tags
    assert all(text in shown.shown for text in [*evil, "<b>"])
    with (tmp_path / "out" / "tables.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert "'=HYPERLINK(1)" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "@"))]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--labels={entries}"], "usage: "),
        (["--predictions={a}", "--labels={entries}", "--by=colour"], "--by knows sex, age, view, not 'colour'"),
        (["--predictions={a}", "--labels={entries}", "more"], "unexpected argument more"),
        (["--predictions={a}", "--label={entries}"], "label"),
        (["--predictions={a}", "--labels={a}"], "has no column 'Finding Labels'"),
        (
            ["--predictions={entries}", "--labels={entries}"],
            "no column for any of the 14 findings; it has 6: 'Finding L",
        ),
        (["--predictions={a}.gz", "--labels={entries}"], "a.csv.gz does not exist"),
        (["--predictions={a}", "--labels={entries}", "--thresholds-from={a}"], "thresholds must come from other films"),
        (["--predictions={a}", "--labels={entries}", "--out={a}"], "a.csv"),
    ],
)
def test_what_is_mistyped_is_told_in_a_line(
    run, tables: Path, entry_file: Path, flags: list[str], message: str
) -> None:
    assert message in run(*(flag.format(a=tables / "a.csv", entries=entry_file) for flag in flags))


def test_logits_are_ranked_as_they_are_written(run, tmp_path: Path) -> None:
    """Between 40 and 41, where a sigmoid in float64 gives 1 for all."""
    rng = np.random.default_rng(2)
    labels, logits = np.repeat([1, 0], [7, 6]), np.round(40 + rng.random(13), 3)
    expected = roc_auc_score(labels, logits)
    assert 0.5 < expected < 0.9
    (tmp_path / "l.csv").write_text(
        "Image Index,Mass,Edema\n" + "".join(f"{k}.png,{z},{z - 41}\n" for k, z in enumerate(logits))
    )
    (tmp_path / "labels.csv").write_text(
        "Image Index,Mass,Edema\n" + "".join(f"{k}.png,{y},{y if k % 3 else ''}\n" for k, y in enumerate(labels))
    )
    printed = run(
        f"--predictions={tmp_path / 'l.csv'}", f"--labels={tmp_path / 'labels.csv'}", f"--out={tmp_path / 'out'}"
    )
    assert "are no probabilities" in printed
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["networks"]["l"]["auroc"]["Mass"] == pytest.approx(expected, abs=1e-12)
    assert found["networks"]["l"]["brier"] == {"Mass": None, "Edema": None}
    assert (found["known"], found["positives"]) == ({"Mass": 13, "Edema": 8}, {"Mass": 7, "Edema": 4})
    rest = np.arange(13) % 3 > 0
    edema = roc_auc_score(labels[rest], logits[rest])
    assert found["networks"]["l"]["auroc"]["Edema"] == pytest.approx(edema, abs=1e-12)
    assert re.search(rf"^Edema +8 +4 +{edema:.4f} .* n/a +n/a$", printed, re.M)
    assert not (tmp_path / "out" / "reliability.png").exists()
    assert "Reliability" not in (tmp_path / "out" / "report.html").read_text()


def test_labels_partly_known_are_scored_finding_by_finding_and_in_subgroups(
    run, tables: Path, entry_file: Path, tmp_path: Path
) -> None:
    """Against scikit-learn on what is left of a table with empty, NaN, -1 and soft cells."""
    entries = read_entry_file(entry_file)
    rng = np.random.default_rng(3)
    lines = [f"Image Index,Patient ID,Patient Sex,{','.join(FINDINGS)}"]
    known = np.zeros((len(entries), 14), bool)
    for row, entry in enumerate(entries.values()):
        cells = [str(int(label)) for label in entry.labels]
        for k, other in zip(
            range(14), rng.choice(["", "nan", "-1", "0.4", None], 14, p=[0.1] * 4 + [0.6]), strict=True
        ):
            known[row, k] = other is None
            cells[k] = cells[k] if other is None else other
        lines.append(f"{entry.name},{entry.patient},{entry.sex},{','.join(cells)}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    out = tmp_path / "out"
    printed = run(
        f"--predictions={tables / 'a.csv'}", f"--against={tables / 'b.csv'}", f"--labels={tmp_path / 'labels.csv'}",
        f"--thresholds-from={tables / 'val.csv'}", "--by=sex", f"--out={out}",
    )  # fmt: skip
    assert re.search(r"labels\.csv: \d+ uncertain labels \(-1\) are taken as not known", printed)
    found = json.loads((out / "metrics.json").read_text())
    truth = np.stack([entry.labels for entry in entries.values()])[12:]
    known = known[12:]
    a, b = (
        np.array([[float(row[f]) for f in FINDINGS] for row in csv.DictReader((tables / f"{n}.csv").open())])
        for n in "ab"
    )
    women = np.array([entry.sex == "F" for entry in entries.values()])[12:]
    for k, finding in enumerate(FINDINGS):
        rows = known[:, k]
        y = truth[rows, k]
        assert (found["known"][finding], found["positives"][finding]) == (rows.sum(), y.sum())
        assert re.search(rf"^{finding} +{rows.sum()} +{int(y.sum())} ", printed, re.M)
        if len(set(y)) < 2:
            assert found["networks"]["a"]["auroc"][finding] is None
            continue
        for name, p in (("a", a), ("b", b)):
            expected = roc_auc_score(y, p[rows, k])
            assert found["networks"][name]["auroc"][finding] == pytest.approx(expected, abs=1e-12)
        expected = metrics.delong_test(y, a[rows, k], b[rows, k]).p_value
        assert found["comparison"]["findings"][finding]["p_value"] == pytest.approx(expected, abs=1e-9)
        at = found["networks"]["a"]["at_thresholds"][finding]["youden"]
        assert at is None or sum(list(at.values())[:4]) == rows.sum()
        of_women = found["subgroups"]["sex"]["F"]
        assert of_women["known"][finding] == (rows & women).sum()
    assert (out / "roc.png").exists()


def test_ages_in_groups(entry_file: Path) -> None:
    entries = read_entry_file(entry_file)
    assert [group_of(entries[name], "age") for name in ("f00.png", "f08.png", "f39.png")] == [
        "00-19",
        "20-39",
        "80 and above",
    ]


def test_two_files_of_one_name(run, tables: Path, entry_file: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes((tables / "b.csv").read_bytes())
    printed = run(f"--predictions={tables / 'a.csv'}", f"--against={tmp_path / 'a.csv'}", f"--labels={entry_file}")
    assert f"{tables.name}/a less {tmp_path.name}/a" in printed
