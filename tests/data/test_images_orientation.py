"""A camera's or a phone's EXIF orientation: the film is read as viewers show it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from chexjax.data.images import read_grey
from chexjax.predict import as_film

# What a viewer does with the stored pixels, by EXIF's tag 0x0112: where the stored row 0 and column 0 lie, "visually".
SHOWN = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a),
}


def save(path: Path, orientation: int, kind: str) -> np.ndarray:
    """A film whose corners differ; returns the pixels that are stored."""
    pixels = np.kron(np.array([[250, 20, 90], [60, 130, 200]], np.uint8), np.ones((16, 16), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, format=kind, exif=exif, **({"quality": 100} if kind == "JPEG" else {}))
    return np.asarray(Image.open(path).convert("L"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", SHOWN)
def test_each_orientation(orientation: int, kind: str, tmp_path: Path) -> None:
    stored = save(tmp_path / "film", orientation, kind)
    expected = SHOWN[orientation](stored)
    np.testing.assert_array_equal(read_grey(tmp_path / "film"), expected)
    with Image.open(tmp_path / "film") as image:
        np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(image).convert("L")), expected)
        np.testing.assert_array_equal(as_film(image), expected)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_changes_nothing(orientation: int, tmp_path: Path) -> None:
    stored = save(tmp_path / "film.jpg", orientation, "JPEG")
    np.testing.assert_array_equal(read_grey(tmp_path / "film.jpg"), stored)


def test_broken_exif_is_no_reason_to_refuse_a_film(tmp_path: Path) -> None:
    stored = save(tmp_path / "film.jpg", 6, "JPEG")
    data = (tmp_path / "film.jpg").read_bytes()
    start = data.index(b"Exif\0\0") + 6
    (tmp_path / "film.jpg").write_bytes(data[:start] + b"\xff" * 8 + data[start + 8 :])
    np.testing.assert_array_equal(read_grey(tmp_path / "film.jpg"), stored)


def test_broken_exif_is_not_worth_a_word(tmp_path: Path) -> None:
    save(tmp_path / "film.jpg", 6, "JPEG")
    data = (tmp_path / "film.jpg").read_bytes()
    start = data.index(b"Exif\0\0") + 10  # where the first directory begins
    (tmp_path / "film.jpg").write_bytes(data[:start] + b"\xff" * 4 + data[start + 4 :])
    with pytest.warns(UserWarning, match="Corrupt EXIF"), Image.open(tmp_path / "film.jpg") as image:
        image.getexif()
    program = "import sys, pathlib; from chexjax.data.images import read_grey; read_grey(pathlib.Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "film.jpg")], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
