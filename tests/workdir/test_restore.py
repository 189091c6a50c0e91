"""What is no workdir, and the line that says what to name or to do instead."""

import re
from pathlib import Path

import pytest

from chexjax.errors import CheckpointError
from chexjax.models.torch_weights import ABOUT
from chexjax.workdir.restore import check_no_file, restore_best


@pytest.mark.parametrize(
    ("name", "begins", "advice"),
    [
        ("net.pth", b"", "\nimport weights first, then name the folder this makes: python -m "),
        ("net", b"\0\0\0\0\0\0\0\0{", "\nimport weights first"),  # a safetensors file under another name
        ("film.png", b"\x89PNG", ""),
        ("notes.txt", b"hello", ""),
    ],
)
def test_only_weights_are_to_be_imported(tmp_path: Path, name: str, begins: bytes, advice: str) -> None:
    (tmp_path / name).write_bytes(begins)
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)} is a file, not a workdir{advice or '$'}"):
        restore_best(tmp_path / name)


def test_a_folder_of_imported_weights_is_no_run(tmp_path: Path) -> None:
    (tmp_path / ABOUT).write_text("{}")
    with pytest.raises(CheckpointError, match=rf"imported weights, not a run\n.*init_from={re.escape(str(tmp_path))} "):
        check_no_file(tmp_path)
    (tmp_path / "weights.npz").touch()
    with pytest.raises(CheckpointError, match=rf"lies in a workdir; name that: {re.escape(str(tmp_path))}$"):
        check_no_file(tmp_path / "weights.npz")


def test_a_workdir_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none is no workdir: it does not exist$"):
        restore_best(tmp_path / "none")
