"""Names and folders that mean harm, through the commands: nothing acts on a terminal, a spreadsheet or a page."""

import csv
import html.parser
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from chexjax import predict
from chexjax.commands import clean, score
from chexjax.commands import predict as predict_command
from chexjax.data import cleaning
from chexjax.data.prepared import SKIPPED, TABLE, load, prepare
from chexjax.data.recipe import Recipe
from chexjax.data.sources import nih
from chexjax.errors import ConfigError, DataError
from chexjax.evaluation.predictions import read_predictions
from chexjax.findings import FINDINGS
from tests.untrained import save_untrained

NAMES = [
    b"=cmd|' C calc'!A0.png", b"+1.png", b"-2+3.png", b"@SUM(1).png", b"\tTAB.png",
    b"<img src=x onerror=alert(1)>.png",
    b"\x1b[2J\x1b]0;owned\x07.png", b"two\nlines.png", b"not\xffutf8.png", "\u202egnp.exe.png".encode(),
    b"n" * 250 + b".png",
    b"'\"&,;.png", b"$\\frac{$.png", b"plain.png", b"%s{0}.png",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A film under each name, a folder that looks like one, a pipe, and links that go round."""
    films = tmp_path / "films"
    films.mkdir()
    for number, name in enumerate(NAMES):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32), np.uint8)
        Image.fromarray(pixels).save(films / os.fsdecode(name), "PNG")
    (films / "folder.png").mkdir()
    os.mkfifo(films / "pipe.png")
    (films / "self.png").symlink_to("self.png")
    (films / "round").symlink_to(".")
    (films / "again").symlink_to(".")
    return films


def run(monkeypatch: pytest.MonkeyPatch, main: Callable[[], None], *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def plain(text: str) -> bool:
    """No escape code, no bell, no byte that is no text."""
    return all(character.isprintable() or character in "\r\n\t" for character in text)


def check_table(path: Path) -> list[str]:
    """The film names of a CSV, of which no cell begins like a formula."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    for cell in (cell for row in rows for cell in row):
        assert not cell or cell[0] not in "=+-@\t\r\n" or float(cell) < 0
        assert plain(cell)
    return [row[0] for row in rows[1:] if row]


class Tags(html.parser.HTMLParser):
    """What a browser would see of a page: its tags and their attributes' names."""

    def __init__(self, text: str):
        super().__init__()
        self.found: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(name for name, _ in attributes)}


def test_predict(
    folder: Path, tmp_path: Path, small_baseline: ConfigDict, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    workdir, out = save_untrained(small_baseline, tmp_path / "run"), tmp_path / "out"
    (folder / "\x1b[31mbroken.png").write_text("no film")
    assert run(monkeypatch, predict_command.main, f"--checkpoint={workdir}", f"--out={out}", folder) == 1
    message = capsys.readouterr()
    assert plain(message.out + message.err)
    assert "Traceback" not in message.err
    assert len(check_table(out / "predictions.csv")) == len(NAMES)
    assert len(check_table(out / "errors.csv")) == 1
    assert len(set(read_predictions(out / "predictions.csv", FINDINGS).names)) == len(NAMES)
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "onerror" not in Tags(page).found
    assert page.count("<article") == len(NAMES)
    for picture in (out / "overlays").iterdir():
        assert picture.name.isascii()
        assert f'src="overlays/{picture.name}"' in page


def test_out_is_never_among_the_films(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "overlays").mkdir()
    for out in (folder, folder / "out", tmp_path / "link", tmp_path / "link" / "deeper"):
        with pytest.raises(ConfigError, match="lies among the films"):
            predict.check_out(out, [folder])
    with pytest.raises(ConfigError, match="lies among the films"):
        predict.check_out(tmp_path, [tmp_path / "overlays" / "a-Mass.png"])
    predict.check_out(tmp_path / "out", [folder, tmp_path / "elsewhere.png"])
    before = {path: path.lstat().st_mtime_ns for path in folder.iterdir()}
    assert run(monkeypatch, predict_command.main, "--checkpoint=none", f"--out={folder}", folder) == 64
    assert {path: path.lstat().st_mtime_ns for path in folder.iterdir()} == before


def test_folders_that_go_round_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = predict.find_files([str(folder)])
    assert len(found) == len(NAMES)
    assert all(name.isprintable() for name in found)
    monkeypatch.chdir(folder)
    for pattern in ("**/*.png", f"{folder}/**/plain.png", "plain.p[n]g"):
        assert "plain.png" in predict.find_files([pattern])
    assert list(predict.find_files(["a**b.png"])) == ["a**b.png"]  # no glob; reading it says that it is absent


def test_names_that_look_alike_stay_apart(tmp_path: Path) -> None:
    for name in ("\x1b.png", "\\x1b.png"):
        (tmp_path / name).touch()
    found = predict.find_files([str(tmp_path)])
    assert len(found) == 2
    assert {path.name for path in found.values()} == {"\x1b.png", "\\x1b.png"}


def test_scanline(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, clean.main, folder, f"--out={tmp_path / 'out'}", "--compare") == 0
    (folder / "\x1b[31mbroken.png").write_text("no film")
    assert run(monkeypatch, clean.main, folder, f"--out={tmp_path / 'again'}") == 1
    message = capsys.readouterr()
    assert plain(message.out + message.err)
    assert len(check_table(tmp_path / "out" / "changed.csv")) == len(NAMES)
    assert len([path for path in (tmp_path / "out").iterdir() if path.suffix == ".png"]) == len(NAMES)
    (tmp_path / "loop").symlink_to("loop")
    assert run(monkeypatch, clean.main, folder, f"--out={tmp_path / 'loop'}") == 1
    assert "Traceback" not in capsys.readouterr().err


def test_memory_is_bounded_whatever_the_sizes_of_films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr(cleaning, "WAITING", 4)
    monkeypatch.setattr(cleaning, "read_grey", lambda path: np.zeros((1, int(path.stem)), np.uint8))
    jobs = [cleaning.Job(tmp_path / f"{k}.png", Path(f"{k}.png"), Path("a"), Path("b")) for k in range(1, 40)]
    largest = 0

    class Bar:
        def update(self, count: int) -> None:
            pass

    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        for batch in cleaning._batches(jobs, pool, {}, Bar()):
            sizes += [film.shape[1] for _, film in batch]
            largest = max(largest, len(batch))
    assert sorted(sizes) == list(range(1, 40))
    assert largest == 1


def nih_folder(phantom: Path, tmp_path: Path, renamed: dict[str, str]) -> Path:
    """A copy of simulated films, some under other names, in the tables, too."""
    folder = tmp_path / "nih"
    (folder / "images").mkdir(parents=True)
    for path in phantom.rglob("*"):
        if path.suffix in (".csv", ".txt"):
            text = path.read_text()
            for old, new in renamed.items():
                text = text.replace(old, new)
            (folder / path.name).write_text(text)
        elif path.is_file():
            (folder / "images" / renamed.get(path.name, path.name)).write_bytes(path.read_bytes())
    return folder


def test_preparing(phantom_folder: Path, tmp_path: Path) -> None:
    first, second, third = sorted(path.name for path in (phantom_folder / "images").iterdir())[:3]
    renamed = {first: "=cmd.png", second: "@b.png", third: "<i>.png"}
    folder = nih_folder(phantom_folder, tmp_path, renamed)
    (folder / "images" / "<i>.png").unlink()
    (folder / "images" / "<i>.png").mkdir()  # listed, and a folder
    prepared = prepare(folder, tmp_path / "out", Recipe(size=16, skip_unreadable=True), progress=False)
    assert {"=cmd.png", "@b.png"} <= {name for part in prepared.parts.values() for name in part.names}
    assert load(prepared.path).parts["train"].names == prepared.parts["train"].names
    check_table(prepared.path / TABLE)
    assert check_table(prepared.path / SKIPPED) == ["<i>.png"]
    assert "a folder, not a film" in (prepared.path / SKIPPED).read_text()


@pytest.mark.parametrize(
    "name", ["../secret.png", "..", ".", "/etc/passwd", "a/b.png", "a\\b.png", "a\x1b[2J.png", "a\0.png"]
)
def test_a_name_leads_nowhere_else(name: str, phantom_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / nih.ENTRY_FILES[0]
    path.write_text(f"Image Index,Finding Labels,Patient ID\n{name},Mass,1\n")
    with pytest.raises(DataError, match="no usable name of a film") as caught:
        nih.read_entries(tmp_path)
    assert str(caught.value).isprintable()


def test_a_link_to_nothing_is_a_missing_film(phantom_folder: Path, tmp_path: Path) -> None:
    folder = nih_folder(phantom_folder, tmp_path, {})
    film = sorted((folder / "images").iterdir())[0]
    film.unlink()
    film.symlink_to("nowhere")
    with pytest.raises(DataError, match=f"listed but missing .* 1: {film.name}"):
        prepare(folder, tmp_path / "out", Recipe(size=16), progress=False)


def test_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [f"{k}.png,{FINDINGS[k % 14]},{k},=cmd<script>\x1b[2J" for k in range(42)]
    (tmp_path / "labels.csv").write_text("\n".join(["Image Index,Finding Labels,Patient ID,Patient Gender", *entries]))
    rows = [",".join([f"{k}.png", *(f"{(k * (j + 3)) % 41 / 41:.4f}" for j in range(14))]) for k in range(42)]
    path = tmp_path / os.fsdecode(b"_$\\frac{<b>$\xff\x1b[2J.csv")
    path.write_text("\n".join([",".join(["Image Index", *FINDINGS]), *rows]))
    out, labels = tmp_path / "out", tmp_path / "labels.csv"
    flags = (f"--predictions={path}", f"--labels={labels}", f"--out={out}")
    assert run(monkeypatch, score.main, *flags) == 0
    message = capsys.readouterr()
    assert plain(message.out + message.err)
    check_table(out / "tables.csv")
    assert not {"b", "script"} & Tags((out / "report.html").read_text(encoding="utf-8")).found
