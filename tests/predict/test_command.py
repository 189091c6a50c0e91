"""The command: its tables, pictures, messages and exit statuses; what goes on after an interruption; shards."""

import csv
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chexjax import predict
from chexjax.commands import join
from chexjax.commands import predict as command
from chexjax.errors import ConfigError, Interrupted
from chexjax.evaluation.predictions import read_predictions
from chexjax.explain import cam
from chexjax.findings import FINDINGS
from chexjax.predict import Classifier, Options, batch, tables
from chexjax.predict.journal import Journal


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, arguments)])
    try:
        command.main()
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
    complaint = capsys.readouterr()
    assert "3 films" in complaint.out
    assert "images/s" in complaint.out
    assert "Traceback" not in complaint.err
    assert "errors.csv: 2: " in complaint.err

    names = ["'=cmd <b>.png", "a.png", "a.png (2)"]  # a spreadsheet must not run the first
    table = rows(out / "predictions.csv")
    assert sorted(row["Image Index"] for row in table) == sorted(names)
    assert tuple(table[0]) == ("Image Index", *FINDINGS, "status", "reasons")
    expected = Classifier.from_checkpoint(workdir).predict(folder / "a.png")[0].probabilities
    (row,) = [row for row in table if row["Image Index"] == names[1]]
    np.testing.assert_allclose([float(row[finding]) for finding in FINDINGS], expected, rtol=1e-5)
    assert {row["Image Index"] for row in rows(out / "errors.csv")} == {"broken.png", "absent.png"}
    assert "skipped, files without a film: 1: 1 no picture" in complaint.out
    assert str(tmp_path) not in complaint.err + (out / "errors.csv").read_text()
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
    complaint = capsys.readouterr().err
    assert message in complaint
    assert "Traceback" not in complaint
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "taken"}


def content(out: Path) -> dict[str, bytes]:
    """All files of a result."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


class Impatient(Exception):
    """What a test raises in the midst of a run."""


def stop_after(films: int, error: type[BaseException]) -> Callable[[dict], None]:
    """A `tell` that raises when that many films are done."""
    seen: list[str] = []

    def tell(record: dict) -> None:
        seen.append(record["name"])
        if len(seen) == films:
            raise error

    return tell


@pytest.mark.parametrize("torn", [False, True])
def test_what_was_interrupted_goes_on_and_ends_as_if_it_never_had_been(
    torn: bool, classifier: Classifier, films: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    predict.predict_files(classifier, films, whole, progress=False)
    with pytest.raises(Interrupted, match="the same command goes on"):
        batch.score_films(classifier, films, out, Options(), progress=False, tell=stop_after(2, KeyboardInterrupt))
    assert not (out / "predictions.csv").exists()
    if torn:  # killed while it wrote the second line
        journal = out / "journal" / "1-of-1.jsonl"
        journal.write_bytes(journal.read_bytes()[:-30])
    read: list[str] = []
    real = batch.as_judged
    monkeypatch.setattr(batch, "as_judged", lambda path: read.append(path.name) or real(path))
    assert not predict.predict_files(classifier, films, out, progress=False)
    assert sorted(read) == sorted(films)[1 if torn else 2 :]
    assert content(out) == content(whole)


def test_a_film_that_changed_or_could_not_be_read_is_seen_again(
    classifier: Classifier, films: dict[str, Path], tmp_path: Path
) -> None:
    copies = {name: tmp_path / name for name in films}
    for name, path in films.items():
        copies[name].write_bytes(path.read_bytes())
    first, second, third, *_ = copies
    copies[second].write_bytes(b"no film")
    done = []
    with pytest.raises(Impatient):
        batch.score_films(
            classifier, copies, tmp_path / "out", Options(), progress=False, tell=stop_after(3, Impatient)
        )
    copies[first].write_bytes(films[third].read_bytes())
    copies[second].write_bytes(films[second].read_bytes())
    tell = lambda record: done.append(record["name"])  # noqa: E731
    batch.score_films(classifier, copies, tmp_path / "out", Options(), progress=False, tell=tell)
    assert sorted(done) == sorted(set(films) - {third})
    assert not predict.predict_files(classifier, copies, tmp_path / "out", progress=False)
    table = {row["Image Index"]: row for row in rows(tmp_path / "out" / "predictions.csv")}
    assert {table[first][f] for f in FINDINGS} == {table[third][f] for f in FINDINGS}


def test_another_command_does_not_go_on_with_what_this_one_did(
    classifier: Classifier, films: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(Impatient):
        batch.score_films(classifier, films, tmp_path, Options(), progress=False, tell=stop_after(3, Impatient))
    done: list[str] = []
    options = Options(overlays=1)
    batch.score_films(classifier, films, tmp_path, options, progress=False, tell=lambda r: done.append(r["name"]))
    assert done == list(films)


def test_two_processes_do_not_write_to_one_folder(
    classifier: Classifier, films: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("fcntl")
    head = batch.head_of(classifier, Options())
    other = Journal(tmp_path, head, {})
    with pytest.raises(ConfigError, match="another process writes"):
        predict.predict_files(classifier, films, tmp_path, progress=False)
    other.close()
    assert not predict.predict_files(classifier, films, tmp_path, progress=False)


def join_command(monkeypatch: pytest.MonkeyPatch, out: Path) -> int:
    monkeypatch.setattr(sys, "argv", ["join", str(out)])
    with pytest.raises(SystemExit) as end:
        join.main()
    return int(end.value.code or 0)


def test_shards_are_joined_to_what_one_job_would_have_written(
    workdir: Path, films: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = tmp_path / "in"
    folder.mkdir()
    for name, path in films.items():
        (folder / name).write_bytes(path.read_bytes())
    (folder / "a b.png").write_bytes(films["0.png"].read_bytes())  # their pictures must not share a name
    (folder / "a_b.png").write_bytes(films["1.png"].read_bytes())
    (folder / "notes.txt").write_text("not a film")
    same = (f"--checkpoint={workdir}", folder, "--batch_size=2", "--uids")
    assert run(monkeypatch, *same, f"--out={tmp_path / 'one'}") == 0
    out = tmp_path / "many"
    assert join_command(monkeypatch, out) == 64
    for shard in ("3/3", "1/3"):
        assert run(monkeypatch, *same, f"--out={out}", f"--shard={shard}") == 0
    assert f"python -m chexjax.predict.join {out}" in capsys.readouterr().out
    assert join_command(monkeypatch, out) == 64
    assert "not done yet, --shard=2/3" in capsys.readouterr().err
    assert not (out / "predictions.csv").exists()
    assert run(monkeypatch, *same, f"--out={out}", "--shard=2/3", "--overlays=1") == 0
    assert join_command(monkeypatch, out) == 64
    assert "not made by the same command" in capsys.readouterr().err
    assert run(monkeypatch, *same, f"--out={out}", "--shard=2/3") == 0
    capsys.readouterr()
    assert join_command(monkeypatch, out) == 0
    complaint = capsys.readouterr().out
    assert "7 films of 3 shards" in complaint
    assert "skipped, files without a film: 1: 1 no picture" in complaint
    assert content(out) == content(tmp_path / "one")
    # More jobs than films: those without have done their part.
    for k in range(1, 10):
        assert run(monkeypatch, *same, f"--out={out}", f"--shard={k}/9") == 0
    assert join_command(monkeypatch, out) == 0
    assert content(out) == content(tmp_path / "one")


def test_shards_that_saw_different_films_are_not_joined(
    workdir: Path, films: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name, path in films.items():
        (folder / name).write_bytes(path.read_bytes())
    same = (f"--checkpoint={workdir}", folder, f"--out={out}", "--overlays=0")
    assert run(monkeypatch, *same, "--shard=1/2") == 0
    (folder / "0.png").rename(folder / "9.png")  # as many as before
    assert run(monkeypatch, *same, "--shard=2/2") == 0
    capsys.readouterr()
    assert join_command(monkeypatch, out) == 64
    assert "shards 1 and 2 of 2 saw different films" in capsys.readouterr().err
    assert not (out / "predictions.csv").exists()
    assert run(monkeypatch, *same, "--shard=1/2") == 0
    assert join_command(monkeypatch, out) == 0
    assert {row["Image Index"] for row in rows(out / "predictions.csv")} == {path.name for path in folder.iterdir()}


def test_what_cannot_be_reached_in_a_folder_is_an_error_and_not_skipped(
    workdir: Path, films: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "locked").mkdir(parents=True)
    (folder / "good.png").write_bytes(next(iter(films.values())).read_bytes())
    (folder / "lost.png").symlink_to(tmp_path / "not mounted" / "lost.png")
    (folder / "lost.txt").symlink_to(tmp_path / "not mounted" / "lost.txt")
    scan = os.scandir

    def refused(path: str) -> object:  # the tests may run as root, who may read all
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    assert run(monkeypatch, f"--checkpoint={workdir}", folder, f"--out={out}", "--overlays=0") == 1
    assert [row["Image Index"] for row in rows(out / "predictions.csv")] == ["good.png"]
    assert {row["Image Index"] for row in rows(out / "errors.csv")} == {"lost.png", "locked"}


def test_tables_alone_take_no_maps(
    workdir: Path, films: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = next(iter(films.values())).parent, tmp_path / "out"
    same = (f"--checkpoint={workdir}", folder, f"--out={out}")
    assert run(monkeypatch, *same) == 0
    with_maps = rows(out / "predictions.csv")
    monkeypatch.setattr(Classifier, "explain", None)
    assert run(monkeypatch, *same, "--overlays=0") == 0
    assert {path.name for path in out.iterdir()} == {"predictions.csv"}
    for row, other in zip(rows(out / "predictions.csv"), with_maps, strict=True):
        assert row["Image Index"] == other["Image Index"]
        np.testing.assert_allclose([float(row[f]) for f in FINDINGS], [float(other[f]) for f in FINDINGS], rtol=1e-5)


@pytest.mark.parametrize(
    ("names", "status"),
    [
        (["good.png"], 0),
        (["good.png", "broken.png"], 1),
        (["broken.png"], 2),
        (["notes.txt"], 2),
        (["good.png", "report"], 0),
    ],
)
def test_exit_statuses(
    names: list[str], status: int, workdir: Path, films: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.png").write_bytes(films["0.png"].read_bytes())
    (folder / "broken.png").write_bytes(films["0.png"].read_bytes()[:900])
    (folder / "report").write_text("a report on it")
    (folder / "notes.txt").write_text("notes")
    for path in list(folder.iterdir()):
        if path.name not in names:
            path.unlink()
    assert run(monkeypatch, f"--checkpoint={workdir}", folder, f"--out={tmp_path / 'out'}", "--overlays=0") == status


def test_one_network_of_two(
    workdir: Path, films: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = films["0.png"]
    found = {}
    for name in ("net1", "net2", "ensemble"):
        flags = (f"--checkpoint={workdir}", path, f"--out={tmp_path / name}", "--overlays=0", f"--network={name}")
        assert run(monkeypatch, *flags) == 0
        (row,) = rows(tmp_path / name / "predictions.csv")
        found[name] = np.array([float(row[finding]) for finding in FINDINGS])
    np.testing.assert_allclose((found["net1"] + found["net2"]) / 2, found["ensemble"], rtol=1e-5)
    assert np.abs(found["net1"] - found["net2"]).max() > 1e-3
    assert run(monkeypatch, f"--checkpoint={workdir}", path, f"--out={tmp_path / 'o'}", "--network=net3") == 64
    assert "no network 'net3'" in (complaint := capsys.readouterr().err)
    assert "there are net1, net2" in complaint


def test_a_flat_map_of_a_called_finding_is_told(
    workdir: Path, films: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A Grad-CAM whose every weight is negative is zero everywhere: here that of each finding."""
    monkeypatch.setitem(cam.METHODS, "grad_cam", lambda model, own, x: 0.0 * cam.class_activation_map(model, own, x))
    flags = (f"--checkpoint={workdir}", films["0.png"], f"--out={tmp_path}", "--maps=grad_cam")
    assert run(monkeypatch, *flags) == 0
    boxes = rows(tmp_path / "boxes.csv")
    (row,) = rows(tmp_path / "predictions.csv")
    called = [f for k, f in enumerate(FINDINGS, start=1) if float(row[f]) >= 0.05 * k]
    assert sorted(box["Finding Label"] for box in boxes) == sorted(called)
    assert all(box["x"] == box["y"] == box["w"] == box["h"] == "" for box in boxes)
    assert f"{len(called)} of {len(called)} called findings have a flat map" in capsys.readouterr().out
    assert "flat map, no place to show" in (tmp_path / "index.html").read_text()


def test_names_of_folders_are_told_only_where_they_are_asked_for(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two studies as Orthanc's archive lays them out, by patient; each file is called the same."""
    pytest.importorskip("pydicom")
    from tests.dicom_files import write_dicom

    pixels = np.random.default_rng(0).integers(0, 4096, (80, 80)).astype(np.uint16)
    for patient in ("ID1 MADE UP ONE", "ID2 MADE UP TWO"):
        (tmp_path / "in" / patient).mkdir(parents=True)
        write_dicom(tmp_path / "in" / patient / "DX000000.dcm", pixels)
    broken = write_dicom(tmp_path / "in" / patient / "BROKEN.dcm", pixels)
    broken.write_bytes(broken.read_bytes()[:-4000])
    out = tmp_path / "out"
    same = (f"--checkpoint={workdir}", tmp_path / "in", f"--out={out}", "--json")
    assert run(monkeypatch, *same) == 1
    heard = "".join(capfd.readouterr())
    assert len(rows(out / "predictions.csv")) == 2
    assert {row["Image Index"] for row in rows(out / "predictions.csv")} == {"DX000000.dcm", "DX000000.dcm (2)"}
    for text in (heard.encode(), *content(out).values(), *(name.encode() for name in content(out))):
        assert b"MADE" not in text
    assert run(monkeypatch, *same, "--paths", "--uids") == 1
    paths = {row["Image Index"]: row["path"] for row in rows(out / "paths.csv")}
    assert paths["DX000000.dcm (2)"] == str(tmp_path / "in" / patient / "DX000000.dcm")
    assert len(paths) == 3
    uids = rows(out / "uids.csv")
    assert [row["Image Index"] for row in uids] == ["DX000000.dcm", "DX000000.dcm (2)"]


def test_a_line_of_json_a_film(
    workdir: Path, films: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "broken.png").write_bytes(films["0.png"].read_bytes()[:900])
    paths = [films["0.png"], tmp_path / "broken.png", films["1.png"]]
    flags = (f"--checkpoint={workdir}", *paths, f"--out={tmp_path / 'out'}", "--json")
    assert run(monkeypatch, *flags) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["name"] for line in lines] == ["0.png", "broken.png", "1.png"]
    assert "error" in lines[1]
    for line, row in zip((lines[0], lines[2]), rows(tmp_path / "out" / "predictions.csv"), strict=True):
        assert line["probabilities"] == {finding: float(row[finding]) for finding in FINDINGS}
        assert line["status"] == row["status"]
        assert len(line["pictures"]) >= 1


def test_many_films_make_several_pages(
    classifier: Classifier, films: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "PER_PAGE", 2)
    predict.predict_files(classifier, films, tmp_path, progress=False)
    pages = ["index.html", "page-2.html", "page-3.html"]
    assert sorted(path.name for path in tmp_path.glob("*.html")) == pages
    shown = [re.findall(r"<h2>(.*?)</h2>", (tmp_path / page).read_text()) for page in pages]
    assert [name for page in shown for name in page] == list(films)
    assert list(map(len, shown)) == [2, 2, 1]
    monkeypatch.setattr(tables, "PAGES", 2)
    predict.predict_files(classifier, films, tmp_path, progress=False)
    assert sorted(path.name for path in tmp_path.glob("*.html")) == pages[:2]
    assert "The first 4 are shown; all are in predictions.csv" in (tmp_path / "index.html").read_text()
    assert len(rows(tmp_path / "predictions.csv")) == 5


def test_processes_draw_what_threads_draw(
    classifier: Classifier, films: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict.predict_files(classifier, films, tmp_path / "threads", progress=False)
    monkeypatch.setattr(batch, "MANY", 1)
    journal = batch.score_films(classifier, films, tmp_path / "processes", Options(processes=2), progress=False)
    tables.write_tables(tmp_path / "processes", [journal])
    drawn = [content(tmp_path / name / "overlays") for name in ("threads", "processes")]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) >= len(films)


def test_doubtful_films_are_refused_where_that_is_asked_for(
    workdir: Path, films: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "fine.png").write_bytes(films["0.png"].read_bytes())
    pale = np.random.default_rng(0).integers(100, 140, (128, 128), np.uint8)
    Image.fromarray(pale).save(folder / "pale.png")
    Image.fromarray(pale[:16, :16]).save(folder / "thumbnail.png")
    same = (f"--checkpoint={workdir}", folder, f"--out={out}")
    assert run(monkeypatch, *same) == 1
    table = {row["Image Index"]: row for row in rows(out / "predictions.csv")}
    assert {name: row["status"] for name, row in table.items()} == {
        "fine.png": "ok", "pale.png": "doubtful", "thumbnail.png": "refused",
    }  # fmt: skip
    assert table["pale.png"]["reasons"]
    assert all(table["pale.png"][finding] for finding in FINDINGS)
    assert not any(table["thumbnail.png"][finding] for finding in FINDINGS)
    page = (out / "index.html").read_text()
    assert '<p class="refused"><b>refused</b>' in page
    assert '<p class="doubtful"><b>doubtful</b>' in page
    assert "refused, without probabilities: 1: 1 " in capsys.readouterr().out
    assert not list((out / "overlays").glob("thumbnail*"))

    assert run(monkeypatch, *same, "--strict") == 1
    table = {row["Image Index"]: row for row in rows(out / "predictions.csv")}
    assert table["pale.png"]["status"] == "refused"
    assert not any(table["pale.png"][finding] for finding in FINDINGS)
    assert {row["Image Index"] for row in rows(out / "boxes.csv")} == {"fine.png"}
    found = read_predictions(out / "predictions.csv", FINDINGS)
    assert found.names == ("fine.png",)
    assert found.refused == 2
    (folder / "fine.png").unlink()
    assert run(monkeypatch, *same, "--strict") == 2
