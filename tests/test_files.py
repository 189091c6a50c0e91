"""Files that are whole or not there, and cells that a spreadsheet would run."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chexjax import files
from chexjax.errors import ConfigError


@given(st.text(st.sampled_from("=+-@'\t\r\nab0"), max_size=6))
def test_no_cell_is_run_and_every_text_comes_back(text: str) -> None:
    cell = files.cell(text)
    assert not cell or cell[0] not in "=+-@\t\r\n" or re.fullmatch("[+-]0+", cell)
    assert files.text_of(cell) == text


def test_plain_names_stay_as_they_are() -> None:
    assert files.cell("00000001_000.png") == "00000001_000.png"
    assert files.cell("=HYPERLINK(1)") == "'=HYPERLINK(1)"
    assert files.cell("-0.30") == "-0.30"
    assert files.cell("-0.30+cmd") == "'-0.30+cmd"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_file_that_is_not_written_to_its_end_changes_nothing(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.json"
    files.write_whole(path, "before, Röntgen")

    def write_half() -> None:
        with files.whole(path) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert path.read_text(encoding="utf-8") == "before, Röntgen"
    files.write_whole(path, "after", flush=True)
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_when_all_of_it_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    with files.whole(folder) as partial:
        partial.mkdir()
        (partial / "a").touch()
        assert not folder.exists()
    assert [path.name for path in folder.iterdir()] == ["a"]
    with pytest.raises(OSError, match="not empty"), files.whole(folder) as partial:  # what is there is not lost
        partial.mkdir()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["weights", "weights/a"]


@pytest.mark.parametrize(
    "address",
    ["gs://bucket/run", "S3://b", "gs:/bucket", "https://x.org/w", "file:///a", "abfss://c@a/x", "dbfs:/x"],
)
def test_an_address_is_no_path(address: str) -> None:
    with pytest.raises(ConfigError, match=r"^--out is .*; (it takes local folders|give the path alone)") as raised:
        files.local_path(address, "--out")
    assert "\n" not in str(raised.value)
    with pytest.raises(ConfigError):
        files.local_path(Path(address), "--out")  # of two slashes it has one


@pytest.mark.parametrize("path", ["runs/first", "/a/b:c", "C:/films", "a b", "x:y", "gs/bucket", "./gs://b"])
def test_a_path_is_no_address(path: str) -> None:
    assert files.local_path(path, "--out") == Path(path)


def test_the_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.local_path("~/a", "--out") == tmp_path / "a"


@pytest.mark.parametrize("name", ["x.csv", "X.CSV", "run.html", "films.tar.gz", "net.safetensors", "a/b.parquet"])
def test_a_folder_is_not_called_like_a_file(tmp_path: Path, name: str) -> None:
    without = re.escape(str(tmp_path / name.split(".")[0]))
    with pytest.raises(ConfigError, match=rf"is a file's name; it takes a folder: --out={without}$"):
        files.folder_path(tmp_path / name, "--out")
    (tmp_path / name).mkdir(parents=True)  # it is there, so it is meant
    assert files.folder_path(tmp_path / name, "--out") == tmp_path / name


@pytest.mark.parametrize("name", ["new", "version-1.5", "a.b/c", "2024.11.25"])
def test_other_names_are_folders(tmp_path: Path, name: str) -> None:
    assert files.folder_path(tmp_path / name, "--out") == tmp_path / name
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(ConfigError, match="is a file; it takes a folder"):
        files.folder_path(tmp_path / name, "--out")
