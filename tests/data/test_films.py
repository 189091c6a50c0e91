"""Films that were prepared ahead are those of the run; and a run that has them needs the raw ones no more."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from chexjax.commands import prepare
from chexjax.configs import common
from chexjax.data import prepared as prepared_module
from chexjax.data.films import check_classes, open_films
from chexjax.data.prepared import Part, Prepared
from chexjax.errors import DataError


@pytest.fixture
def data(phantom_folder: Path, tmp_path: Path) -> ConfigDict:
    """`config.data` of 32 px films of a folder that a test may spoil."""
    data = common.base().data
    data.update({"source": "chestxray14", "dir": str(shutil.copytree(phantom_folder, tmp_path / "nih"))})
    data.update({"cache": str(tmp_path / "cache"), "size": 32, "val_fraction": 0.3})
    return data


@pytest.mark.parametrize("named", [True, False], ids=["--out", "the default"])
def test_what_the_command_prepared_is_what_a_run_opens(
    data: ConfigDict, named: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not named:
        monkeypatch.setenv("CHEXJAX_CACHE", data.cache)
    out = [f"--out={data.cache}"] * named
    data.cache = data.cache if named else ""
    flags = ["prepare", f"--dir={data.dir}", *out, "--size=32", "--val_fraction=0.3"]
    monkeypatch.setattr(sys, "argv", flags)
    prepare.main()
    message = capsys.readouterr().out
    assert f"--config.data.dir={data.dir}" in message
    assert ("--config.data.cache=" in message) is named

    def refuse(*args: object) -> None:
        raise AssertionError("prepared again")

    monkeypatch.setattr(prepared_module, "write_set", refuse)
    assert f"prepared films: {open_films(data).path}\n" in message
    if named:
        data.cache = f"{data.cache}/prepared"  # as one may read it in what the command printed
        assert f"prepared films: {open_films(data).path}\n" in message


@pytest.mark.parametrize("gone", ["folder", "images", "tables"])
def test_films_of_a_checkpoint_are_opened_by_their_digest_when_the_raw_ones_are_gone(
    data: ConfigDict, gone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = open_films(data)
    capsys.readouterr()
    folder = Path(data.dir)
    for path in {"folder": [folder], "images": [folder / "images"], "tables": [*folder.glob("*.csv")]}[gone]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = open_films(data, before.digest)
    message = capsys.readouterr().err
    assert message.startswith("warning: ")
    assert f"going on with the films as they were prepared for the checkpoint, in {before.path}" in message
    assert (found.digest, found.size, found.path) == (before.digest, before.size, before.path)
    for part in ("train", "val", "test"):
        assert found.parts[part].names == before.parts[part].names
        np.testing.assert_array_equal(found.parts[part].labels, before.parts[part].labels)
    with pytest.raises(DataError, match="nor are there prepared films 0123456789ab in"):
        open_films(data, "0123456789ab")
    with pytest.raises(DataError):
        open_films(data)  # without a checkpoint nobody knows which are meant


def test_broken_prepared_films_are_not_to_be_removed_before_the_raw_ones_are_back(data: ConfigDict) -> None:
    before = open_films(data)
    record = next(before.path.glob("*test.array_record*"))
    record.write_bytes(record.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"\nremove that folder, and they are prepared anew$"):
        open_films(data, before.digest)
    shutil.rmtree(data.dir)
    with pytest.raises(DataError, match=r"not as they were written.*\n.*bring the folder back first") as raised:
        open_films(data, before.digest)
    assert "remove" not in str(raised.value)


def test_films_that_are_there_come_first(data: ConfigDict) -> None:
    """Another folder than the checkpoint's gives other films, which whoever asked must see."""
    before = open_films(data)
    (Path(data.dir) / "BBox_List_2017.csv").unlink()
    assert open_films(data, before.digest).digest != before.digest


def with_labels(*columns: list[float]) -> Prepared:
    """A set whose training films have these labels, a finding a column."""
    labels = np.array(columns, np.float32).T
    names = tuple(f"{k}.png" for k in range(len(labels)))
    return Prepared(Path(), "", 32, ("A", "B", "C")[: len(columns)], {"train": Part(names, names, labels)})


def test_a_finding_of_one_class_is_told_and_nothing_but_such_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    nan = np.nan
    check_classes(with_labels([0, 1, nan], [0.2, 0.3, 0.2]))
    assert not capsys.readouterr().err
    check_classes(with_labels([0, 0, nan], [0, 1, 0], [nan, nan, nan]))
    message = capsys.readouterr().err
    assert "3 training films: 2: A (all 2 are 0), C (no label is known)" in message
    assert "--config.data.findings" in message
    assert message.count("\n") == 2
    lost = with_labels([1, 1, 1], [nan, 0, 0])
    with pytest.raises(DataError, match=r"^every finding is of one class only.*A \(all 3 are 1\), B \(all 2 are 0\)"):
        check_classes(lost)
    check_classes(lost, has_teacher=True)
