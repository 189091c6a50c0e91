"""Divides films into training, validation and test: by the source's lists, a table or a seed, always by patient."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from chexjax.data.sources.entries import LEFT_OUT, SPLITS, TRAIN_VAL, refuse_twice
from chexjax.data.sources.merge import Collection
from chexjax.data.sources.tables import read_table
from chexjax.errors import ConfigError, DataError, first_ten, printable
from chexjax.files import cell, text_of
from chexjax.findings import FILM

WAYS: Final = ("official", "arnoweng", "folds", "random")
TEST_SHARE: Final = 0.2  # of the patients that no list assigns
FOLDS: Final = "folds.csv"

Parts = dict[str, list[int]]


def divide(
    films: Collection, way: str = "official", lists: Path | None = None, val_fraction: float = 0.1, seed: int = 0,
    needed: Sequence[str] = SPLITS,
) -> Parts:  # fmt: skip
    """The rows of "train", "val" and "test".

    Args:
      way: "official": the sources' own parts; if one has no validation part, `val_fraction` of the patients of its
        training part are held out by `seed`; if it has no parts, a fifth of its patients test, `val_fraction`
        validate, and the rest train. "arnoweng": the same with that list of the NIH's films.
        "folds": `folds.csv` in `lists`, with the columns `Image Index` and `fold`.
        "random": by `seed` alone, ignoring the sources' parts.
      lists: the folder of `folds.csv`.
      needed: the parts that must not be empty.

    A patient that one source assigns to a part stays in it when another source of the same population is divided.

    Raises:
      ConfigError: `way` is unknown.
      DataError: `folds.csv` is missing or broken, a needed part is empty, or a patient has films in two parts.
    """
    if way not in WAYS:
        raise ConfigError(f"no split is called {printable(way)[:80]!r}; there are {', '.join(WAYS)}")
    if way == "folds":
        parts = _folds_of(films, (lists or next(iter(films.parts.values())).folder) / FOLDS)
    else:
        parts = _by_patient(films, way, val_fraction, seed)
    check_patients({part: [(films.names[row], films.patients[row]) for row in rows] for part, rows in parts.items()})
    for part in needed:
        if not parts[part]:
            raise DataError(f"the {part} part of the {way!r} split is empty")
    return parts


def _by_patient(films: Collection, way: str, val_fraction: float, seed: int) -> Parts:
    splits = films.splits if way != "random" else ("",) * len(films)
    home = {patient: split for patient, split in zip(films.patients, splits, strict=True) if split in SPLITS}
    for state in (TRAIN_VAL, ""):  # a training patient of one source must not be a test patient of another
        for label in films.parts:
            own = [row for row, source in enumerate(films.sources) if source == label]
            mine = [films.patients[row] for row in own if splits[row] == state and films.patients[row] not in home]
            patients = np.array(sorted(set(mine)))
            order = np.random.default_rng(seed).permutation(patients).tolist()
            test = round(len(patients) * TEST_SHARE) if state == "" else 0
            val = round(len(patients) * val_fraction)
            for k, patient in enumerate(order):
                home[patient] = "test" if k < test else "val" if k < test + val else "train"
    parts: Parts = {part: [] for part in SPLITS}
    for row, (patient, split) in enumerate(zip(films.patients, splits, strict=True)):
        if split != LEFT_OUT:
            parts[split if split in SPLITS else home[patient]].append(row)
    return parts


def _folds_of(films: Collection, path: Path) -> Parts:
    row_of = {name: row for row, name in enumerate(films.names)}
    parts = read_folds(path)
    if unknown := [name for names in parts.values() for name in names if name not in row_of]:
        raise DataError(f"{printable(path)} names films that the tables do not have, {first_ten(unknown)}")
    return {part: [row_of[name] for name in names] for part, names in parts.items()}


def read_folds(path: Path) -> dict[str, list[str]]:
    """The film names of "train", "val" and "test" in a `folds.csv`, in its order.

    Raises:
      DataError: the file is missing or broken, has a fold of another name, or lists a film twice.
    """
    table = read_table(path, (FILM, "fold"))
    parts: dict[str, list[str]] = {part: [] for part in SPLITS}
    for line, (text, fold) in enumerate(zip(table[FILM], table["fold"], strict=True)):
        if fold.strip() not in parts:
            raise table.error(line, f"fold {printable(fold[:80])!r} is none of {', '.join(SPLITS)}")
        parts[fold.strip()].append(text_of(text.strip()))
    counts = Counter(name for names in parts.values() for name in names)
    refuse_twice(printable(path), [name for name, count in counts.items() if count > 1])
    return parts


def check_patients(parts: Mapping[str, Iterable[tuple[str, str]]]) -> None:
    """Refuses a split with a patient in two parts: a network could recognise the person instead of the finding.

    `parts` holds pairs of a film's name and its patient.

    Raises:
      DataError: a patient is in two parts; the first ten are named.
    """
    home: dict[str, str] = {}
    leaks: dict[str, str] = {}
    for part, films in parts.items():
        for name, patient in films:
            if home.setdefault(patient, part) != part:
                leaks[patient] = f"{patient} ({home[patient]} and {part}, film {name})"
    if leaks:
        raise DataError(f"patients have films in two parts of the split, {first_ten(list(leaks.values()))}")


def folds_csv(parts: Mapping[str, tuple[Sequence[str], Sequence[str]]]) -> str:
    """A split, given as (names, patients) of each part, as a CSV that `divide` reads as "folds"."""
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow([FILM, "fold", "Patient ID"])
    for part, (names, patients) in parts.items():
        table.writerows((cell(name), part, cell(patient)) for name, patient in zip(names, patients, strict=True))
    return file.getvalue()
