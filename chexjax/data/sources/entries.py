"""What a source returns: a row per film and a column per finding, under the source's own names."""

import fnmatch
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from chexjax.data import kinds
from chexjax.data.images import SUFFIXES
from chexjax.errors import DataError, first_ten, warn

SPLITS: Final = ("train", "val", "test")
TRAIN_VAL: Final = "train_val"  # the training part, from which validation patients are still to be held out
LEFT_OUT: Final = "none"  # in no part
UNKNOWN_AGE: Final = -1
AGREEMENT: Final = 0.9  # of films: what is known of one film, too, differs in a few rows between the NIH's two tables
_UNKNOWN: Final = ("", str(UNKNOWN_AGE))
_YEARS: Final = 1  # ages differ by one between the NIH's two tables, for two films in five
_PICTURES: Final = (*kinds.SUFFIXES, ".tif", ".tiff", ".bmp", ".gif")
_MOST_FILES: Final = 1_000_000  # searched for films that are not where they should be


@dataclass(frozen=True)
class Request:
    """What a source is asked to read.

    Attributes:
      folder: the unpacked download.
      table: the label table, if it is not the one in the folder.
      findings: the findings wanted; empty: all. Only the source `table` uses it; elsewhere `labels.align` selects.
      split: see `splits.divide`; `nih` has lists for "official" and "arnoweng".
      lists: the folder of the split's lists; None: `folder`.
      skip_unreadable: whether to leave out films that a list names but the label table lacks.
    """

    folder: Path
    table: Path | None = None
    findings: tuple[str, ...] = ()
    split: str = "official"
    lists: Path | None = None
    skip_unreadable: bool = False


@dataclass(frozen=True)
class Box:
    """Where a finding lies, as fractions of the film's width and height or, if `in_pixels`, in pixels of the file."""

    finding: str
    left: float
    top: float
    width: float
    height: float
    reader: str = ""
    in_pixels: bool = False

    def in_shares(self, width: int, height: int) -> "Box":
        """The box as fractions of a film of `width` x `height` pixels."""
        if not self.in_pixels:
            return self
        return replace(
            self,
            left=self.left / width,
            top=self.top / height,
            width=self.width / width,
            height=self.height / height,
            in_pixels=False,
        )


@dataclass(frozen=True)
class Entries:
    """The films of a source; each sequence has one item per film, in the same order.

    Attributes:
      source: its name in the table of sources.
      folder: where its films are.
      findings: the labelled findings, in the source's own names.
      names: the film names in the tables; no two are the same.
      files: the film's path below `folder` or, if `film_folders` are given, its name in one of them.
      labels: float32 (films, findings): 0 absent, 1 present, between them soft, NaN not known, -1 uncertain.
      patients: the patient of each film.
      population: whose patient numbers these are; two sources with one population share patients.
      sexes: "M", "F" or "" where not known.
      ages: int16 (films,), years; -1 where not known.
      views: "PA", "AP", "L", ...; "" where not known.
      splits: "train", "val" or "test"; "train_val" and "" are divided by patient later; "none" is left out.
      boxes: by film name, in the source's own names of findings.
      film_folders: patterns for the folders below `folder` that hold the films; empty: `files` are paths.
      suffixes: file suffixes to append to `files`, in order of preference; empty: none.
      notes: lines for the reader of the run.
    """

    source: str
    folder: Path
    findings: tuple[str, ...]
    names: tuple[str, ...]
    files: tuple[str, ...]
    labels: np.ndarray = field(repr=False, compare=False)
    patients: tuple[str, ...]
    population: str = ""
    sexes: tuple[str, ...] = ()
    ages: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int16), repr=False, compare=False)
    views: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    boxes: Mapping[str, tuple[Box, ...]] = field(default_factory=dict, repr=False, compare=False)
    film_folders: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        films = len(self.names)
        empty = {
            "population": self.source,
            "sexes": ("",) * films,
            "ages": np.full(films, UNKNOWN_AGE, np.int16),
            "views": ("",) * films,
            "splits": ("",) * films,
        }
        for name, value in empty.items():
            if not len(getattr(self, name)):
                object.__setattr__(self, name, value)
        lengths = {len(getattr(self, name)) for name in ("files", "patients", "sexes", "ages", "views", "splits")}
        if lengths != {films} or self.labels.shape != (films, len(self.findings)):
            raise ValueError(f"{self.source}: columns of unequal length")
        if not films:
            raise DataError(f"{self.folder}: the tables of {self.source!r} list no film")
        if len(set(self.names)) < films:
            raise DataError(f"{self.folder}: two films of {self.source!r} have one name")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def subfolders(self) -> list[Path]:
        """The folders that may hold the films; none where `files` are paths."""
        return folders_below(self.folder, self.film_folders)

    def take(self, rows: Iterable[int]) -> "Entries":
        """The entries of these rows, in this order."""
        rows = list(rows)
        names = [self.names[row] for row in rows]
        return replace(
            self,
            names=tuple(names),
            files=tuple(self.files[row] for row in rows),
            labels=self.labels[rows],
            patients=tuple(self.patients[row] for row in rows),
            sexes=tuple(self.sexes[row] for row in rows),
            ages=self.ages[rows],
            views=tuple(self.views[row] for row in rows),
            splits=tuple(self.splits[row] for row in rows),
            boxes={name: self.boxes[name] for name in names if name in self.boxes},
        )

    def find(self, rows: Sequence[int] | None = None) -> list[Path | None]:
        """The path of each film of these rows (by default all); None for a film that is missing.

        A file whose name differs in suffix or case alone is accepted; see `find_alike`.
        """
        files = self.files if rows is None else [self.files[row] for row in rows]
        if self.film_folders:
            found = find_in_folders(self.folder, files, self.film_folders, self.suffixes)
            if not self.suffixes:
                found |= find_alike(self.subfolders, set(files) - found.keys())
            return [found.get(file) for file in files]
        found = {file: path for file in files if (path := self.folder / file).exists()}
        lost: dict[Path, dict[str, str]] = {}
        for file in set(files) - found.keys():
            path = self.folder / file
            lost.setdefault(path.parent, {})[path.name] = file
        alike: dict[str, Path] = {}
        for subfolder, names in lost.items():
            if subfolder.is_dir():
                alike |= {names[name]: path for name, path in _alike([subfolder], names.keys()).items()}
        _tell_alike(alike)
        return [found.get(file) or alike.get(file) for file in files]


def find_in_folders(
    folder: Path, files: Iterable[str], patterns: Sequence[str], suffixes: Sequence[str] = ()
) -> dict[str, Path]:  # fmt: skip
    """The path of each file in the folders that `patterns` match below `folder`; missing files are left out.

    Names are only compared with directory listings, so no name can lead out of the folder; a link in it can.
    """
    wanted = set(files)
    found: dict[str, Path] = {}
    for subfolder in folders_below(folder, patterns):
        for suffix in suffixes or ("",):
            listed = {name.removesuffix(suffix): name for name in os.listdir(subfolder) if name.endswith(suffix)}
            for file in wanted & listed.keys() - found.keys():
                if (path := subfolder / listed[file]).exists():
                    found[file] = path
    return found


def find_alike(subfolders: Iterable[Path], files: Iterable[str]) -> dict[str, Path]:
    """For each missing file, the picture in `subfolders` whose name differs from it in suffix or case alone.

    If several pictures match, the choice would be a guess, and none is taken. A warning counts the matches.
    """
    alike = _alike(subfolders, set(files))
    _tell_alike(alike)
    return alike


def _alike(subfolders: Iterable[Path], names: Set[str]) -> dict[str, Path]:
    pictures = _pictures_alike(subfolders, names)
    return {name: path for name, paths in pictures.items() if len(paths) == 1 for path in paths.values()}


def _pictures_alike(subfolders: Iterable[Path], names: Set[str]) -> dict[str, dict[str, Path]]:
    """The pictures in `subfolders` that have a film's name but for suffix or case, by that name and their own."""
    stems = {bare_name(name) for name in names}
    pictures: dict[str, dict[str, Path]] = {}
    for subfolder in subfolders if stems else ():
        for path in subfolder.iterdir():
            stem = bare_name(path.name)
            if stem in stems and path.suffix.lower() in SUFFIXES and path.is_file():
                pictures.setdefault(stem, {}).setdefault(path.name, path)
    return {name: pictures.get(bare_name(name), {}) for name in names}


def _tell_alike(alike: Mapping[str, Path]) -> None:
    if alike:
        name, path = min(alike.items())
        warn(
            f"{len(alike):,} film names differ from the table's in suffix or case, such as {path.name} for {name}; "
            "these files are used"
        )


def bare_name(name: str) -> str:
    """A film's name without folders (by / or \\) and without the suffix of a picture, in lower case.

    The last number of a DICOM identifier, `1.2.840.7.1`, is no suffix.
    """
    file = name.replace("\\", "/").rpartition("/")[2].casefold()
    stem, _, suffix = file.rpartition(".")
    return stem if stem and f".{suffix}" in _PICTURES else file


def names_alike(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """For each name, the only one of `known` that differs from it in folder, suffix or case alone."""
    stems: dict[str, list[str]] = {}
    for name in known:
        stems.setdefault(bare_name(name), []).append(name)
    each = {name: stems.get(bare_name(name), []) for name in names}
    return {name: found[0] for name, found in each.items() if len(found) == 1}


def why_missing(folder: Path, subfolders: Sequence[Path], files: Iterable[str]) -> list[str]:
    """Where films were looked for, and what to do: lines of an error.

    Args:
      folder: the source's folder.
      subfolders: the folders in it that were searched.
      files: the films that are in none of them.
    """
    files = set(files)
    lines = [f"looked in {first_ten([_below(folder, subfolder) for subfolder in subfolders])}"] if subfolders else []
    several = {name: paths for name, paths in _pictures_alike(subfolders, files).items() if len(paths) > 1}
    if several:
        name, paths = min(several.items())
        which = " and ".join(sorted(paths))
        lines.append(f"of {len(several):,} there are several files, such as {which} for {name}; keep one of each")
    elsewhere = Counter(_folders_of(folder, {bare_name(name) for name in files}, set(subfolders)))
    for subfolder, count in elsewhere.most_common(3):
        lines.append(f"{count:,} lie in {_below(folder, subfolder)}" + ("; rename it to images" if subfolders else ""))
    packed = sorted(
        path.name for subfolder in {folder, *subfolders} for path in subfolder.glob("*") if _is_packed(path)
    )
    if packed and not elsewhere:
        lines.append(f"there are archives, {first_ten(packed)}; unpack them there")
    return lines


def _below(folder: Path, subfolder: Path) -> str:
    return "the folder itself" if subfolder == folder else str(subfolder.relative_to(folder))


def _is_packed(path: Path) -> bool:
    return (
        path.name.lower().endswith((".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")) and ".csv" not in path.name.lower()
    )


def _folders_of(folder: Path, stems: Set[str], searched: Set[Path]) -> Iterator[Path]:
    """The folder of each picture below `folder` that is called one of `stems`, but for those in `searched`."""
    seen = 0
    for subfolder, _, listed in os.walk(folder):
        seen += len(listed)
        if seen > _MOST_FILES:
            return
        if Path(subfolder) not in searched:
            pictures = (Path(name) for name in listed)
            alike = (bare_name(path.name) in stems and path.suffix.lower() in SUFFIXES for path in pictures)
            yield from (Path(subfolder) for is_one in alike if is_one)


def folders_below(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The folders that `patterns` match below `folder`, each once, in the order of the patterns; "" is `folder`.

    Capitals do not matter.
    """
    subfolders = (subfolder for pattern in patterns for subfolder in _matching(folder, pattern.lower().split("/")))
    return [subfolder for subfolder in dict.fromkeys(subfolders) if subfolder.is_dir()]


def _matching(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    if not parts or parts == [""]:
        yield folder
        return
    try:
        names = sorted(name for name in os.listdir(folder) if fnmatch.fnmatchcase(name.lower(), parts[0]))
    except OSError:  # no folder, or one that may not be read
        return
    for name in names:
        yield from _matching(folder / name, parts[1:])


def path_below(folder: Path, text: str) -> str:
    """A film's path from a table, relative to `folder`, with `/` between its parts.

    Raises:
      ValueError: it is empty, leaves the folder, or contains control characters.
    """
    path = text.strip().replace("\\", "/")
    root = f"{folder.absolute().as_posix()}/"
    if path.startswith(root):
        path = path.removeprefix(root)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or not path.isprintable():
        raise ValueError("no usable path of a film")
    if path.startswith("/") or ".." in parts or parts[0].endswith(":"):
        raise ValueError("a path that leaves the folder of the films")
    return "/".join(parts)


def is_same_film(facts: Mapping[str, tuple[str, str]]) -> bool:
    """Whether nothing that two tables both know of a film differs, except for its age by a year.

    `facts` holds the text of each table under "sex", "age", "view" and "patient"; empty, or -1, where not known.
    """
    known = {fact: pair for fact, pair in facts.items() if not set(pair) & set(_UNKNOWN)}
    return all(a == b or (fact == "age" and _is_near(a, b)) for fact, (a, b) in known.items())


def _is_near(age: str, other: str) -> bool:
    return age.isdecimal() and other.isdecimal() and abs(int(age) - int(other)) <= _YEARS


def patient_number(patient: str) -> str:
    """A patient's number without its population and leading zeros: 61 of `nih:00000061`."""
    return patient.rpartition(":")[2].lstrip("0") or "0"


def check_folder(folder: Path, source: str, what: str) -> None:
    """Refuses a path that is not a folder.

    Raises:
      DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; data.dir (--dir) must name {what} for the source {source!r}")


def need(folder: Path, source: str, names: Sequence[str]) -> Path:
    """The first of the files `names` that exists in the folder, plain or with .gz or .zip appended.

    Raises:
      DataError: none exists.
    """
    if path := look_for(folder, names):
        return path
    way = elsewhere(folder, names)
    raise DataError(f"{folder} lacks {' or '.join(names)} (or .gz of it), which the source {source!r} reads{way}")


def elsewhere(folder: Path, names: Sequence[str]) -> str:
    """A line that names the folder to give instead: the one above, or one below, that holds one of `names`; "" if none.

    A download lies in a folder of its own, and the film's folder lies in it: both are easily named for the other.
    """
    for near in (folder.resolve().parent, *sorted(path for path in folder.glob("*") if path.is_dir())):
        if look_for(near, names) or any((near / name).is_dir() for name in names):
            return f"\nthat lies in {near}; name it: --dir (data.dir)"
    return ""


def look_for(folder: Path, names: Sequence[str]) -> Path | None:
    """As `need`, but returns None if none exists."""
    for name in names:
        for path in (folder / name, folder / f"{name}.gz", folder / f"{name}.zip"):
            if path.is_file():
                return path
    return None


def refuse_twice(where: object, twice: Sequence[str]) -> None:
    """Refuses films that are listed more than once.

    Raises:
      DataError: there are any.
    """
    if twice:
        raise DataError(f"{where} lists films more than once, {first_ten(twice)}")
