"""What a source gives: a row for each film, a column for each finding, both under the source's own names."""

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from chexjax.data.images import SUFFIXES
from chexjax.errors import DataError, first_ten, warn

SPLITS: Final = ("train", "val", "test")
TRAIN_VAL: Final = "train_val"  # a film of the training part, of whose patients some are still to be held out
LEFT_OUT: Final = "none"  # a film of no part
UNKNOWN_AGE: Final = -1


@dataclass(frozen=True)
class Request:
    """What a source is asked for.

    Attributes:
      folder: the unpacked download.
      table: the label table, where it is not the one in the folder.
      findings: the findings that are wanted; empty: all. Only `table` looks at it before `labels` does.
      split: see `splits.divide`; `nih` has lists for "official" and "arnoweng".
      lists: the folder of the split's lists; None: `folder`.
      skip_unreadable: whether films are left out that a list names and the label table does not.
    """

    folder: Path
    table: Path | None = None
    findings: tuple[str, ...] = ()
    split: str = "official"
    lists: Path | None = None
    skip_unreadable: bool = False


@dataclass(frozen=True)
class Box:
    """Where a finding lies: in shares of the film's width and height or, `in_pixels`, in those of the film's file."""

    finding: str
    left: float
    top: float
    width: float
    height: float
    reader: str = ""
    in_pixels: bool = False

    def in_shares(self, width: int, height: int) -> "Box":
        """The box in shares of a film of `width` x `height` pixels."""
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
    """All that a source says about its films; each sequence has an item for each film, in one order.

    Attributes:
      source: its name in the table of sources.
      folder: where its films lie.
      findings: what it labels, in its own names.
      names: what the tables call the films; no two are the same.
      files: the film's path below `folder`; where `film_folders` are given, its name in one of them.
      labels: float32 (films, findings): 0 absent, 1 present, between them soft, NaN not known, -1 uncertain.
      patients: whose film it is.
      population: which patient numbers these are; two sources of one population share patients.
      sexes: "M", "F" or "" where not known.
      ages: int16 (films,), years; -1 where not known.
      views: "PA", "AP", "L", ...; "" where not known.
      splits: "train", "val", "test"; "train_val" and "" are still to be divided by patient; "none" is left out.
      boxes: by film name, in the source's own names of findings.
      film_folders: patterns of folders below `folder` that hold the films; none: `files` are whole paths.
      suffixes: what follows `files` in the folder, in order of preference; none: nothing.
      notes: what a reader of the run should know, a line each.
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
        """Where the films of these rows (all by default) lie, by their names or one like it; else None.

        See `find_alike`.
        """
        files = self.files if rows is None else [self.files[row] for row in rows]
        if self.film_folders:
            found = find_in_folders(self.folder, files, self.film_folders, self.suffixes)
            if not self.suffixes:
                places = folders_below(self.folder, self.film_folders)
                found |= find_alike(places, set(files) - found.keys())
            return [found.get(file) for file in files]
        found = {file: path for file in files if (path := self.folder / file).exists()}
        lost: dict[Path, dict[str, str]] = {}
        for file in set(files) - found.keys():
            path = self.folder / file
            lost.setdefault(path.parent, {})[path.name] = file
        alike: dict[str, Path] = {}
        for place, names in lost.items():
            if place.is_dir():
                alike |= {names[name]: path for name, path in _alike([place], names.keys()).items()}
        _tell_alike(alike)
        return [found.get(file) or alike.get(file) for file in files]


def find_in_folders(
    folder: Path, files: Iterable[str], patterns: Sequence[str], suffixes: Sequence[str] = ()
) -> dict[str, Path]:  # fmt: skip
    """Where each file lies in the folders that `patterns` name below `folder`; without those that lie nowhere.

    The names are only compared with what lies there, so none leads out of the folder; a link does, if it is there.
    """
    wanted = set(files)
    found: dict[str, Path] = {}
    for place in folders_below(folder, patterns):
        for suffix in suffixes or ("",):
            listed = {name.removesuffix(suffix): name for name in os.listdir(place) if name.endswith(suffix)}
            for file in wanted & listed.keys() - found.keys():
                if (path := place / listed[file]).exists():
                    found[file] = path
    return found


def find_alike(places: Iterable[Path], files: Iterable[str]) -> dict[str, Path]:
    """Of each file that lies in none of `places` the picture there that differs from it by suffix or case alone.

    Where there are several such pictures nobody knows which is meant, and none is taken. How many are found is told.
    """
    alike = _alike(places, set(files))
    _tell_alike(alike)
    return alike


def _alike(places: Iterable[Path], names: Set[str]) -> dict[str, Path]:
    stems = {Path(name).stem.casefold() for name in names}
    pictures: dict[str, dict[str, Path]] = {}
    for place in places if stems else ():
        for path in place.iterdir():
            stem = path.stem.casefold()
            if stem in stems and path.suffix.lower() in SUFFIXES and path.is_file():
                pictures.setdefault(stem, {})[path.name] = path
    each = {name: pictures.get(Path(name).stem.casefold(), {}) for name in names}
    return {name: path for name, paths in each.items() if len(paths) == 1 for path in paths.values()}


def _tell_alike(alike: Mapping[str, Path]) -> None:
    if alike:
        name, path = min(alike.items())
        warn(
            f"{len(alike):,} films have another suffix or case than in the table, as {path.name} for {name}, "
            "and are taken for those that it names"
        )


def folders_below(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The folders that `patterns` name below `folder`, each once, in the order of the patterns; "" is `folder`."""
    places = (place for pattern in patterns for place in (sorted(folder.glob(pattern)) if pattern else [folder]))
    return [place for place in dict.fromkeys(places) if place.is_dir()]


def path_below(folder: Path, text: str) -> str:
    """The path of a film in a table, as one below `folder` with `/` between its parts.

    Raises:
      ValueError: it is empty, leads out of the folder, or holds what a terminal would act on.
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


def check_folder(folder: Path, source: str, what: str) -> None:
    """Refuses a folder that is none.

    Raises:
      DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; data.dir (--dir) must name {what} for the source {source!r}")


def need(folder: Path, source: str, names: Sequence[str]) -> Path:
    """The first of the files `names`, each also with .gz or .zip behind it, that lies in the folder.

    Raises:
      DataError: there is none.
    """
    if path := look_for(folder, names):
        return path
    raise DataError(f"{folder} lacks {' or '.join(names)} (or .gz of it), which the source {source!r} reads")


def look_for(folder: Path, names: Sequence[str]) -> Path | None:
    """As `need`, but None where there is none."""
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
