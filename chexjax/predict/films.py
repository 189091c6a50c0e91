"""Finds film files, names them, and reads any film as uint8 grey levels."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from chexjax.data import dicom
from chexjax.data.images import JudgedFilm, check_size, judge_colour, judge_size, upright
from chexjax.data.kinds import SUFFIXES, classify
from chexjax.data.verdict import Verdict
from chexjax.errors import ConfigError, DataError, printable
from chexjax.files import folder_path

Film = str | Path | bytes | Image.Image | np.ndarray | jax.Array

# Any film as grey levels


def as_film(film: Film) -> np.ndarray:
    """A path, a file's content, a PIL image or an array as uint8 (height, width), whatever its verdict.

    Raises:
      DataError: as `as_judged`.
    """
    return as_judged(film).pixels


def as_judged(film: Film) -> JudgedFilm:
    """A path, a file's content, a PIL image or an array as uint8 (height, width), with its verdict.

    Raises:
      DataError: it cannot be read, or its pixels are not 8-bit grey levels; the message says what was found.
    """
    verdict = Verdict()
    if isinstance(film, str | Path):
        path = Path(film).expanduser()
        where = f"{printable(path)}: "
        judged = dicom.read_judged(path)
        pixels, verdict = judged.pixels, judged.verdict
    elif isinstance(film, bytes):
        where = "a file: "
        judged = dicom.judge_file(film, "a file")
        pixels, verdict = judged.pixels, judged.verdict
    elif isinstance(film, Image.Image):
        where = "a PIL image: "
        if film.mode not in ("L", "LA", "P", "RGB", "RGBA"):
            raise DataError(f"a PIL image of mode {film.mode!r}; a film has 8 bits a pixel: convert it to 'L'")
        check_size("a PIL image", *film.size)
        try:
            shown = upright(film)
            if film.mode not in ("L", "LA"):
                verdict += judge_colour(np.asarray(shown.convert("RGB")))
            pixels = np.asarray(shown.convert("L"))
        except (OSError, SyntaxError, ValueError) as error:  # its file is only now read
            raise DataError(f"a PIL image: cannot be read ({error})") from error
        verdict += judge_size(*pixels.shape)
    elif isinstance(film, np.ndarray | jax.Array):
        where = "an array: "
        array = np.asarray(film)
        pixels = _grey_of(array)
        if array.ndim == 3 and array.shape[-1] >= 3:
            verdict += judge_colour(array[..., :3])
        verdict += judge_size(*pixels.shape)
    else:
        raise DataError(f"{type(film).__name__} is no film; a film is a path, bytes, a PIL image or a uint8 array")
    low, high = int(pixels.min()), int(pixels.max())
    if high <= 1:
        raise DataError(f"{where}grey levels from {low} to {high}; a film's go from 0 to 255 (was it scaled to 0..1?)")
    if low == high:
        raise DataError(f"{where}every pixel has grey level {low}; there is no film to be seen")
    return JudgedFilm(pixels, verdict)


def _grey_of(array: np.ndarray) -> np.ndarray:
    """An array as uint8 (height, width); channels become grey as Pillow weighs them."""
    if array.dtype != np.uint8:
        numeric = array.size and np.issubdtype(array.dtype, np.number) and not np.issubdtype(array.dtype, np.complex128)
        seen = f" with values from {np.nanmin(array):g} to {np.nanmax(array):g}" if numeric else ""
        raise DataError(
            f"an array of {array.dtype}{seen}; a film is uint8, grey levels from 0 to 255\n"
            "window it to 8 bits first; normalisation belongs to the networks"
        )
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 3 and array.shape[-1] in (3, 4) and array.size:
        return np.asarray(Image.fromarray(array).convert("L"))
    if array.ndim != 2 or not array.size:
        raise DataError(
            f"an array of shape {array.shape} is no film; a film is (height, width), or with 1, 3 or 4 channels last\n"
            "several films are given as a list"
        )
    return array


def name_of(film: Any, index: int) -> str:
    """The name of a film outside any table: its file's name, or its number."""
    path = film if isinstance(film, str | Path) else getattr(film, "filename", "") or f"film {index + 1}"
    return printable(Path(path).name)


# Which files


@dataclass(frozen=True)
class Found:
    """The films among files and folders, by their names in the tables, and counts of skipped files by kind."""

    files: dict[str, Path]
    passed_over: Counter[str] = field(default_factory=Counter)


def find_films(patterns: Sequence[str]) -> Found:
    """Finds the films in files, folders and globs.

    In folders, at any depth, a file counts as a film if it begins like one: PNG, JPEG or DICOM with pixels, whatever
    its suffix. What cannot be reached counts as one, too, so that reading it reports it: a link with a film's name to
    nothing, and a folder that may not be read. A file named explicitly always counts, even if it does not exist
    (reading it will report that), unless it is DICOM without a film, such as a report. Links to folders are followed
    only if named explicitly. A film has its file's name; equal names are numbered, `a.png (2)`, because a folder may be
    named after a patient. Characters that do not print are shown as codes.

    Raises:
      ConfigError: there is no file at all.
    """
    paths: list[Path] = []
    passed_over: Counter[str] = Counter()
    for pattern in patterns:
        path = Path(pattern).expanduser()
        for match in [path] if path.exists() else _matching(path) or [path]:
            inside = match.is_dir()
            for file in _below(match) if inside else [match]:
                kind = classify(file)
                if kind.kind == "no film" and (_says_no_film(file) if inside else dicom.is_dicom(file)):
                    passed_over[kind.what] += 1
                else:
                    paths.append(file)
    paths = list(dict.fromkeys(paths))
    if not paths and not passed_over:
        raise ConfigError(f"no files in {', '.join(patterns)}")
    named: dict[str, Path] = {}
    counts: Counter[str] = Counter()
    for path in paths:
        name = base = printable(path.name)
        while name in named:
            counts[base] += 1
            name = f"{base} ({counts[base] + 1})"
        named[name] = path
    return Found(named, passed_over)


def find_files(patterns: Sequence[str]) -> dict[str, Path]:
    """The films of `find_films`, by name."""
    return find_films(patterns).files


def is_shown(path: Path) -> bool:
    """A plain file that is not hidden."""
    return not path.name.startswith(".") and os.path.isfile(path)


def _below(folder: Path) -> list[Path]:
    """What is not hidden in a folder, at any depth: files, links to nothing, and folders that may not be read."""
    locked: list[OSError] = []
    files = [Path(parent, name) for parent, _, names in os.walk(folder, onerror=locked.append) for name in names]
    found = [path for path in files if is_shown(path) or (not path.name.startswith(".") and _is_lost(path))]
    return sorted([*found, *(Path(error.filename) for error in locked)])


def _says_no_film(path: Path) -> bool:
    """Whether something in a folder is no film, and not one that cannot be reached either."""
    return os.path.isfile(path) or not (path.is_dir() or path.suffix.lower() in SUFFIXES)


def _is_lost(path: Path) -> bool:
    """Whether a listed file is a link to nothing, or may not be looked at; links that go round are nobody's films."""
    try:
        path.stat()
    except (FileNotFoundError, PermissionError):
        return True
    except OSError:
        pass
    return False


def looks_like_film(path: Path) -> bool:
    """Whether a file is not hidden, and begins like PNG, JPEG or DICOM with pixels or at least has such a suffix."""
    return is_shown(path) and classify(path).kind != "no film"


def _matching(pattern: Path) -> list[Path]:
    """The files of a glob. Unlike glob's, pathlib's `**` follows no links to folders: two in a ring are 2**40 paths."""
    try:
        return sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
    except ValueError:  # no glob, but a name with `**` in it
        return []


def check_out(out: Path, inputs: Sequence[Path], flag: str = "--out") -> None:
    """Refuses to write where films are read: overlays could be read as films the next time, or overwrite one.

    Raises:
      ConfigError: `out` is a file or called like one, or lies in one of the folders, or a film lies in its overlays.
    """
    folder_path(out, flag)
    target = Path(os.path.realpath(out))
    for path in map(os.path.realpath, inputs):
        if target.is_relative_to(path) or Path(path).is_relative_to(target / "overlays"):
            raise ConfigError(
                f"{flag}={printable(out)} lies among the films, in {printable(path)}; choose another folder"
            )


def without_path(message: object, path: Path, name: str) -> str:
    """A message with the film's name in place of its path, which may name a patient."""
    text = str(message)
    for written in (printable(path), str(path)):
        text = text.replace(written, name)
    return text.removeprefix(f"{name}: ")
