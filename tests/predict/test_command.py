"""The command: its tables, pictures, messages and exit statuses; what goes on after an interruption; shards."""

import csv
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from chexjax import predict
from chexjax.findings import FINDINGS
from chexjax.predict import Classifier


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, arguments)])
    try:
        predict.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_command(
    workdir: Path, films: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = tmp_path / "in"
    (folder / "deeper").mkdir(parents=True)
    for name, target in (("a.png", "a.png"), ("b.png", "deeper/a.png"), ("c.png", "=cmd <b>.png")):
        (folder / target).write_bytes(films[f"{'abc'.index(name[0])}.png"].read_bytes())
    (folder / "broken.png").write_bytes(films["0.png"].read_bytes()[:2000])
    (folder / "notes.txt").write_text("not a film")
    out = tmp_path / "out"
    status = run(
        monkeypatch, f"--checkpoint={workdir}", f"--out={out}", folder, tmp_path / "absent.png", "--batch_size=2"
    )
    assert status == 1
    told = capsys.readouterr()
    assert "3 films" in told.out
    assert "images/s" in told.out
    assert "Traceback" not in told.err
    assert "errors.csv: 2: " in told.err

    names = ["'=cmd <b>.png", "a.png", "a.png (2)"]  # a spreadsheet must not run the first
    table = rows(out / "predictions.csv")
    assert sorted(row["Image Index"] for row in table) == sorted(names)
    assert tuple(table[0]) == ("Image Index", *FINDINGS, "status", "reasons")
    expected = Classifier.from_checkpoint(workdir).predict(folder / "a.png")[0].probabilities
    (row,) = [row for row in table if row["Image Index"] == names[1]]
    np.testing.assert_allclose([float(row[finding]) for finding in FINDINGS], expected, rtol=1e-5)
    assert {row["Image Index"] for row in rows(out / "errors.csv")} == {"broken.png", "absent.png"}
    assert "passed over, for they hold no film: 1: 1 no picture" in told.out
    assert str(tmp_path) not in told.err + (out / "errors.csv").read_text()
    left = {path.name for path in out.iterdir()}
    assert left == {"predictions.csv", "boxes.csv", "errors.csv", "index.html", "overlays"}

    page = (out / "index.html").read_text()
    assert "<b>.png" not in page
    pictures = list((out / "overlays").iterdir())
    assert 3 <= len(pictures) <= 9
    assert all(f'src="overlays/{path.name}"' in page for path in pictures)
    boxes = rows(out / "boxes.csv")
    assert boxes
    for box in boxes:
        assert float(box["probability"]) >= float(box["threshold"])
        assert box["Finding Label"] in FINDINGS

    again = run(monkeypatch, f"--checkpoint={workdir}", f"--out={out}", folder / "*.p[n]g", "--overlays=1")
    assert again == 1
    assert {row["Image Index"] for row in rows(out / "predictions.csv")} == {"a.png", "'=cmd <b>.png"}
    assert len(list((out / "overlays").iterdir())) == 2
    (folder / "broken.png").unlink()
    assert run(monkeypatch, f"--checkpoint={workdir}", f"--out={out}", folder / "a.png") == 0
    assert not (out / "errors.csv").exists()
    page = (out / "index.html").read_text()
    assert {path.name for path in (out / "overlays").iterdir()} == set(re.findall(r'src="overlays/(.*?)"', page))


def test_dicom_goes_in_and_no_patient_comes_out(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pydicom")
    from tests.dicom_files import SECRET, write_dicom

    pixels = (np.random.default_rng(0).integers(0, 4096, (64, 64))).astype(np.uint16)
    (tmp_path / "in").mkdir()
    write_dicom(tmp_path / "in" / "film.dcm", pixels, PhotometricInterpretation="MONOCHROME1")
    write_dicom(tmp_path / "in" / "IM0001", pixels)  # as they lie on a disc, without a suffix
    broken = write_dicom(tmp_path / "in" / "broken.dcm", pixels)
    broken.write_bytes(broken.read_bytes()[:-4000])
    assert run(monkeypatch, f"--checkpoint={workdir}", f"--out={tmp_path / 'out'}", tmp_path / "in") == 1
    table = rows(tmp_path / "out" / "predictions.csv")
    assert {row["Image Index"] for row in table} == {"film.dcm", "IM0001"}
    assert table[0]["Mass"] != table[1]["Mass"]
    heard = "".join(capfd.readouterr()).encode()
    for content in (heard, *(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())):
        for word in (*SECRET.split("^"), "471147", "19700101"):
            assert word.encode() not in content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage"),
        (["film.png", "--out=x"], "configs/baseline.py"),
        (["film.png", "--out=x", "--checkpoint=nowhere"], "nowhere is no workdir"),
        (["film.png", "--out=x", "--checkpoint=nowhere", "--maps=none", "--batch_size=0"], "batch_size"),
        (["--checkpoint=nowhere", "--out=x", "empty"], "no files in empty"),
        (["film.png", "--out=x.csv", "--checkpoint=nowhere"], "--out=x.csv is a file's name; it takes a folder"),
        (["film.png", "--out=taken", "--checkpoint=nowhere"], "--out=taken is a file"),
        *(
            (["film.png", "--out=x", "--checkpoint=nowhere", f"--shard={shard}"], "K/N")
            for shard in ("0/4", "5/4", "3", "a/b", "1/0", "-1/2", "1/2/3")
        ),
    ],
)
def test_what_the_command_refuses(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").touch()
    assert run(monkeypatch, *arguments) == 64
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "taken"}
