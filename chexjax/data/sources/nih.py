"""Reads the tables of an NIH folder (entries, boxes, splits) and finds its films, without opening them.

The layout is that of the public download (Wang et al., CVPR 2017): `images/` or `images_001/images/` and so on,
`Data_Entry_2017_v2020.csv` (or the 2017 edition), `BBox_List_2017.csv`, `train_val_list.txt`, `test_list.txt`.
Kaggle's copies are read, too: the resized sets (all films in one folder; `train_val_list_NIH.txt`) and the sample
(`sample_labels.csv`, `sample/images/`), which has no lists. If a table or list is missing under its own name, the only
file whose name begins like it is used, with a warning.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from chexjax.data.sources.entries import (
    LEFT_OUT,
    SPLITS,
    TRAIN_VAL,
    Box,
    Entries,
    Request,
    elsewhere,
    find_alike,
    find_in_folders,
    folders_below,
    names_alike,
    patient_number,
)
from chexjax.data.sources.splits import FOLDS, check_patients, read_folds
from chexjax.data.sources.tables import ages, check_unique, csv_rows, film_names, read_table, require, texts
from chexjax.errors import DataError, first_ten, printable, warn
from chexjax.findings import FILM, FINDINGS, NO_FINDING

SPLIT_NAMES: Final = ("official", "arnoweng", "folds")  # of `read_splits`
COORDINATES: Final = 1024.0  # boxes are given in pixels of the 1024 x 1024 films, whatever the film's size here
ENTRY_FILES: Final = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv", "sample_labels.csv")
# The first two are those of the NIH's download, the rest those of Kaggle's copies, resized and sample.
FILM_FOLDERS: Final = (
    "images*/images*", "images*", "images*/images*/images*", "sample/images", "sample/sample/images", "",
)  # fmt: skip
BOX_FILE: Final = "BBox_List_2017.csv"
_PACKED: Final = ("", ".gz", ".zip")  # a table is read as it is, or packed
_OPTIONAL: Final = ("Patient Age", "Patient Gender", "Patient Sex", "View Position")
_BOX_NAMES: Final = {"Infiltrate": "Infiltration"}


@dataclass(frozen=True)
class Entry:
    """A row of the entry file; an unknown age is -1.

    `labels` is float32 (14,) in the order of FINDINGS: 0 absent, 1 present, between them soft, NaN not known.
    """

    name: str
    labels: np.ndarray = field(repr=False, compare=False)
    patient: str
    age: int
    sex: str
    view: str
    boxes: tuple[Box, ...] = ()
    source: str = ""  # in a set of several sources


def read_entries(folder: Path) -> dict[str, Entry]:
    """All entries of the folder by film name, boxes attached.

    Raises:
      DataError: the folder, a file or a column is missing, a label is not one of the 14, or a film is listed twice.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; data.dir (--dir) must name the unpacked ChestX-ray14 download")
    entry_file = find_table(folder, *ENTRY_FILES)
    if entry_file is None:
        has = first_ten(sorted(path.name for path in folder.iterdir())) if any(folder.iterdir()) else "nothing"
        way = elsewhere(folder, ENTRY_FILES) or f"\na table of another name must be called {ENTRY_FILES[1]}"
        raise DataError(
            f"{folder} holds none of {', '.join(ENTRY_FILES)}; is it an unpacked download? It holds {has}{way}"
        )
    return read_entry_file(entry_file, read_boxes(find_table(folder, BOX_FILE) or folder / BOX_FILE))


def find_table(folder: Path, *names: str, report: bool = True) -> Path | None:
    """The first of `names` that exists, a table also packed (`.csv.gz`, `.csv.zip`).

    Else the only file whose name begins like one of them, in any case.

    With `report`, a warning names a file that is used in place of another.

    Raises:
      DataError: none of `names` exists, and several files begin like them.
    """
    for name in names:
        for ending in _PACKED if name.endswith(".csv") else ("",):
            if (folder / f"{name}{ending}").is_file():
                return folder / f"{name}{ending}"
    starts, suffixes = tuple(Path(name).stem.lower() for name in names), {Path(name).suffix for name in names}
    found = [path for path in folder.glob("*") if path.name.lower().startswith(starts)]
    found = sorted(path for path in found if path.suffix.lower() in suffixes and path.is_file())
    if len(found) > 1:
        listed = first_ten([path.name for path in found])
        raise DataError(f"{folder} holds no {names[0]}, but several like it, {listed}; rename one of them")
    if found and report:
        warn(f"{folder} holds no {names[0]}; {found[0].name} is taken for it")
    return found[0] if found else None


def read_entry_file(path: Path, boxes: dict[str, list[Box]] | None = None) -> dict[str, Entry]:
    """The entries of one file, by film name; `boxes` (by film name) are attached.

    Raises:
      DataError: see `read_entries`.
    """
    table = read_table(path, (FILM, "Finding Labels", "Patient ID"), _OPTIONAL)
    names = film_names(table, FILM)
    check_unique(table, names)
    boxes = boxes or {}
    renamed = _as_in_table(boxes.keys() - set(names), names, "the table of boxes")
    boxes = {renamed.get(name, name): found for name, found in boxes.items()}
    named = [[part.strip() for part in cell.split("|")] for cell in table["Finding Labels"]]
    unknown = Counter(part for parts in named for part in parts if part not in FINDINGS and part != NO_FINDING)
    if unknown:
        found = ", ".join(f"{label[:80]!r} ({count} films)" for label, count in unknown.most_common(10))
        raise DataError(f"{path} has {len(unknown)} labels that are none of the 14 findings: {found}")
    columns = zip(
        names,
        named,
        require(table, "Patient ID"),
        ages(table.get("Patient Age")).tolist(),
        texts(table.get("Patient Gender" if "Patient Gender" in table else "Patient Sex")),
        texts(table.get("View Position")),
        strict=True,
    )
    return {
        name: Entry(
            name=name,
            labels=np.array([finding in parts for finding in FINDINGS], np.float32),
            patient=patient,
            age=age,
            sex=sex,
            view=view,
            boxes=tuple(boxes.get(name, ())),
        )
        for name, parts, patient, age, sex, view in columns
    }


def read_boxes(path: Path) -> dict[str, list[Box]]:
    """The boxes of `BBox_List_2017.csv` by film name; empty if there is no such file.

    Its header, `Image Index,Finding Label,Bbox [x,y,w,h],,,`, splits into odd column names, so the numbers are read by
    position. It has `Infiltrate` where the entry file has `Infiltration`.
    """
    boxes: dict[str, list[Box]] = {}
    if not path.is_file():
        return boxes
    rows = csv_rows(path)
    next(rows, None)
    for line, row in rows:
        if not row:
            continue
        try:
            finding = _BOX_NAMES.get(row[1], row[1])
            left, top, width, height = (float(number) / COORDINATES for number in row[2:6])
            right, bottom = left + width, top + height
            if finding not in FINDINGS or not np.isfinite([left, top, right, bottom]).all():
                raise ValueError("unknown finding or no finite box")
            if not (max(left, 0) < min(right, 1) and max(top, 0) < min(bottom, 1)):
                raise ValueError("a box without area on the film")
        except (IndexError, ValueError) as error:
            reason = printable(error)[:80]
            raise DataError(f"{path}, line {line}: {reason}: {','.join(row)[:200]!r}") from None
        boxes.setdefault(row[0], []).append(Box(finding, left, top, width, height))
    return boxes


def read_splits(
    folder: Path, entries: dict[str, Entry], split: str = "official", lists: Path | None = None,
    val_fraction: float = 0.1, seed: int = 0, unknown: list[str] | None = None,
) -> dict[str, list[str]]:  # fmt: skip
    """Film names of "train", "val" and "test".

    Args:
      split: "official": `train_val_list.txt` and `test_list.txt`; a `val_fraction` of the train_val patients is held
        out for validation by `seed`. "arnoweng": `train_list.txt`, `val_list.txt`, `test_list.txt`, a film on each
        line (their 14 labels are ignored in favour of the entry file's).
        "folds": `folds.csv` with the columns `Image Index` and `fold`.
      lists: the folder of the lists; by default the NIH folder itself.
      unknown: a list; if given, films without an entry are left out of the parts and added to it.

    Raises:
      DataError: a list is missing, names a film without an entry or names one film twice, a part is empty, or a
        patient has films in two parts.
    """
    lists = lists or folder
    if split == "official":
        parts = {part: _read_list(lists, part) for part in ("train_val", "test")}
        parts = _check_names(parts, entries, lists, unknown)
        train_val = parts.pop("train_val")
        patients = np.array(sorted({entries[name].patient for name in train_val}))
        count = round(len(patients) * val_fraction)
        held_out = set(np.random.default_rng(seed).permutation(patients)[:count].tolist())
        parts["train"] = [name for name in train_val if entries[name].patient not in held_out]
        parts["val"] = [name for name in train_val if entries[name].patient in held_out]
    elif split == "arnoweng":
        parts = {part: _read_list(lists, part) for part in SPLITS}
    elif split == "folds":
        parts = read_folds(lists / FOLDS)
    else:
        raise DataError(f"no split is called {split!r}; there are official, arnoweng, folds")
    parts = _check_names({part: parts[part] for part in SPLITS}, entries, lists, unknown)
    check_patients(_patients_of(parts, entries))
    for part, names in parts.items():
        if not names:
            raise DataError(f"the {part} part of the {split!r} split of {lists} is empty")
    return parts


def _patients_of(
    parts: Mapping[str, Sequence[str]], entries: Mapping[str, Entry]
) -> dict[str, list[tuple[str, str]]]:  # fmt: skip
    return {part: [(name, entries[name].patient) for name in names] for part, names in parts.items()}


def _list_path(lists: Path, part: str, report: bool = True) -> Path | None:
    """The list of a part, under the NIH's name or the one that a copy gives it."""
    return find_table(lists, f"{part}_list.txt", f"{part}_list_NIH.txt", report=report)


def _read_list(folder: Path, part: str) -> list[str]:
    """The first word of each line: the NIH's lists have one name per line, arnoweng's have labels after it."""
    name = f"{part}_list.txt"
    path = _list_path(folder, part)
    if path is None:
        texts = sorted(found.name for found in folder.glob("*") if found.suffix.lower() in (".txt", ".csv"))
        raise DataError(
            f"{folder / name} does not exist; the split needs it. The lists and tables there: {first_ten(texts)}\n"
            f"rename the list to {name}, or name the folder where it lies: --lists (data.lists); "
            "without lists, --split=random (data.split) divides all films by patient"
        )
    try:
        return [line.split()[0] for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _check_names(
    parts: dict[str, list[str]], entries: dict[str, Entry], lists: Path, left_out: list[str] | None = None
) -> dict[str, list[str]]:
    strange = {name for names in parts.values() for name in names if name not in entries}
    renamed = _as_in_table(strange, entries, f"the lists in {lists}")
    parts = {part: [renamed.get(name, name) for name in names] for part, names in parts.items()}
    unknown = [name for names in parts.values() for name in names if name not in entries]
    if unknown and left_out is None:
        raise DataError(
            f"the lists in {lists} name films that the entry file does not have, {first_ten(unknown)}\n"
            "for a part of the set, go on with what both have: --skip-unreadable (data.skip_unreadable)"
        )
    if left_out is not None:
        left_out += unknown
        parts = {part: [name for name in names if name in entries] for part, names in parts.items()}
    counts = Counter(name for names in parts.values() for name in names)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise DataError(f"the lists in {lists} name films more than once, {first_ten(twice)}")
    return parts


def _as_in_table(names: Iterable[str], known: Iterable[str], where: str) -> dict[str, str]:
    """The entry file's name for each of `names` that differs from it in folder, suffix or case alone; warns of them."""
    alike = names_alike(names, known)
    if alike:
        name = min(alike)
        warn(
            f"{len(alike):,} names in {where} differ from the entry file's in folder, suffix or case, "
            f"such as {name} for {alike[name]}; they are taken for the same films"
        )
    return alike


def is_sample(folder: Path, lists: Path | None = None) -> bool:
    """Whether the folder is Kaggle's sample (`sample_labels.csv`), without lists there or in `lists`."""
    table = find_table(folder, *ENTRY_FILES, report=False)
    is_named_so = table is not None and table.name.lower().startswith("sample_")
    return is_named_so and not _list_path(lists or folder, "test", report=False)


def boxed_entries(folder: Path, exclude: Path | None = None) -> dict[str, Entry]:
    """The films of a folder that have boxes, without patients that the CSV `exclude` assigns to training or validation.

    Its first two columns are a film and the part of a run's split that the film's patient was in, as in `folds.csv`.
    Whose film it is follows from the folder's table or, as its name begins with the patient's number, from its name.

    Raises:
      DataError: a table is missing or broken, or the second column of `exclude` names no part of a split.
    """
    entries = read_entries(folder)
    rows = [row for _, row in csv_rows(exclude) if len(row) > 1] if exclude else []
    parts = {part for _, part, *_ in rows}
    if exclude and not parts & {*SPLITS, LEFT_OUT}:
        raise DataError(f"{printable(exclude)}: the second column names no part of a split ({', '.join(SPLITS)})")
    learned = [name for name, part, *_ in rows if part in ("train", "val")]
    seen = {patient_number(entries[name].patient if name in entries else name.partition("_")[0]) for name in learned}
    return {name: entry for name, entry in entries.items() if entry.boxes and patient_number(entry.patient) not in seen}


def boxes_by_case(entries: Iterable[Entry]) -> dict[tuple[str, str], list[list[float]]]:
    """All boxes (left, top, width, height) of each finding on each film, by (film, finding)."""
    found: dict[tuple[str, str], list[list[float]]] = {}
    for entry in entries:
        for box in entry.boxes:
            found.setdefault((entry.name, box.finding), []).append([box.left, box.top, box.width, box.height])
    return found


def find_films(folder: Path, names: Iterable[str]) -> tuple[dict[str, Path], list[str]]:
    """The path of each named film below `folder`, and the names of the missing ones.

    See `entries.find_in_folders` and `entries.find_alike`.
    """
    wanted = set(names)
    found = find_in_folders(folder, wanted, FILM_FOLDERS)
    found |= find_alike(film_folders(folder), wanted - found.keys())
    return found, sorted(wanted - found.keys())


def film_folders(folder: Path) -> list[Path]:
    """The existing folders that may hold films."""
    return sorted(folders_below(folder, FILM_FOLDERS))


def read(request: Request) -> Entries:
    """The films of the folder as one source among others.

    The parts are those of the NIH's or arnoweng's lists. If the folder has no lists, like Kaggle's sample, or `split`
    is neither of the two, the films are divided later.

    With `request.skip_unreadable`, films in the lists that the entry file lacks are left out.

    Raises:
      DataError: see `read_entries` and `read_splits`.
    """
    folder = request.folder
    entries = read_entries(folder)
    lists = request.lists or folder
    parts = {}
    unknown: list[str] | None = [] if request.skip_unreadable else None
    if request.split == "arnoweng":
        parts = read_splits(folder, entries, "arnoweng", lists, unknown=unknown)
    elif request.split == "official" and _list_path(lists, "test", report=False):
        parts = {part: _read_list(lists, part) for part in (TRAIN_VAL, "test")}
        parts = _check_names(parts, entries, lists, unknown)
        check_patients(_patients_of(parts, entries))
    split_of = {name: part for part, names in parts.items() for name in names}
    films = [entries[name] for name in (split_of or entries)]
    notes = []
    if unknown:
        notes.append(f"{len(unknown):,} films of the lists are left out: the entry file has no row for them")
    if not parts and request.split == "official":
        notes.append(f"{folder} has no official lists: its films are divided by patient")
    return Entries(
        source="nih",
        folder=folder,
        findings=FINDINGS,
        names=tuple(film.name for film in films),
        files=tuple(film.name for film in films),
        labels=np.stack([film.labels for film in films]).astype(np.float32),
        patients=tuple(patient_number(film.patient) for film in films),
        sexes=tuple(film.sex for film in films),
        ages=np.array([film.age for film in films], np.int16),
        views=tuple(film.view for film in films),
        splits=tuple(split_of.get(film.name, "") for film in films),
        boxes={film.name: film.boxes for film in films if film.boxes},
        film_folders=FILM_FOLDERS,
        notes=tuple(notes),
    )
