"""The RSNA's Pneumonia Detection Challenge (Shih et al., Radiology: AI 2019): lung opacities on 26,684 NIH films.

Files, as Kaggle gives them:

| file | what it gives |
|---|---|
| `stage_2_train_labels.csv` | `patientId`, `x`, `y`, `width`, `height`, `Target`: a row for each box, or one without |
| `stage_2_detailed_class_info.csv` | `patientId`, `class`; optional: it is only compared with the other table |
| `stage_2_train_images/PATIENT_ID.dcm` | the films, 1024 x 1024; or PNG or JPEG of the same name |

or, under the names of the NIH's films:

| file | what it gives |
|---|---|
| `rsna_classes.csv` | `Image Index`, `class`, `target` |
| `rsna_boxes.csv` | beside it: `Image Index`, `x`, `y`, `width`, `height` |
| `images/00000061_012.png` | the films, in any layout that `nih` reads |

The finding is `Lung Opacity`: an opacity that the radiologists found suggestive of pneumonia. "No Lung Opacity / Not
Normal" means that it is absent. Boxes are in pixels of 1024 x 1024 films. The films are the NIH's: a network trained on
ChestX-ray14 may have been trained on them. Kaggle's names do not identify patients, so each film counts as one; NIH
names do, and the patients are then those of `nih`.
"""

from pathlib import Path
from typing import Final

import numpy as np

from chexjax.data.sources.entries import Box, Entries, Request, check_folder, look_for, need
from chexjax.data.sources.tables import Table, box, check_unique, film_names, label_columns, numbers, read_table, texts
from chexjax.errors import DataError, printable

FINDING: Final = "Lung Opacity"
FRAME: Final = (1024.0, 1024.0)
_LABELS: Final = "stage_2_train_labels.csv"
_DETAILS: Final = "stage_2_detailed_class_info.csv"
_CORNER: Final = ("x", "y", "width", "height")
_NIH: Final = "Image Index"


def read(request: Request) -> Entries:
    """The films of the label table.

    Raises:
      DataError: a table is missing or broken, or the two tables contradict each other.
    """
    folder = request.folder
    check_folder(folder, "rsna", "the unpacked RSNA challenge, or the NIH's films")
    path = request.table or need(folder, "rsna", (_LABELS, "rsna_classes.csv"))
    table = read_table(path, (), (_NIH, "target", "class", "patientId", *_CORNER, "Target"))
    return _read_nih(folder, table) if _NIH in table else _read_kaggle(folder, table)


def _read_kaggle(folder: Path, table: Table) -> Entries:
    _need_columns(table, ("patientId", "Target", *_CORNER))
    rows, targets = film_names(table, "patientId"), _targets(table, "Target")
    names = list(dict.fromkeys(rows))
    target_of: dict[str, float] = {}
    for row, (name, target) in enumerate(zip(rows, targets.tolist(), strict=True)):
        if target_of.setdefault(name, target) != target:
            raise table.error(row, f"film {printable(name)!r} has the targets 0 and 1")
    if details := look_for(folder, (_DETAILS,)):
        _compare(target_of, read_table(details, ("patientId", "class")))
    boxes = _boxes(table, rows, [row for row, target in enumerate(targets) if target])
    return Entries(
        source="rsna",
        folder=folder,
        findings=(FINDING,),
        names=tuple(names),
        files=tuple(names),
        labels=np.array([[target_of[name]] for name in names], np.float32),
        patients=tuple(names),
        boxes=boxes,
        film_folders=("stage_2_train_images", "images", ""),
        suffixes=(".dcm", ".png", ".jpg", ".jpeg"),
        notes=("the names do not identify patients: each film counts as one", "the films are part of ChestX-ray14"),
    )


def _read_nih(folder: Path, table: Table) -> Entries:
    _need_columns(table, (_NIH, "target"))
    names = film_names(table, _NIH)
    check_unique(table, names)
    targets = _targets(table, "target")
    boxes: dict[str, tuple[Box, ...]] = {}
    if beside := look_for(table.path.parent, ("rsna_boxes.csv",)):
        marked = read_table(beside, (_NIH, *_CORNER))
        boxes = _boxes(marked, film_names(marked, _NIH), range(len(marked)))
        if strangers := sorted(boxes.keys() - {name for name, target in zip(names, targets, strict=True) if target}):
            raise DataError(f"{printable(beside)} has boxes on films without {FINDING!r}, such as {strangers[0]}")
    return Entries(
        source="rsna",
        folder=folder,
        findings=(FINDING,),
        names=tuple(names),
        files=tuple(names),
        labels=targets[:, None],
        patients=tuple(name.partition("_")[0].lstrip("0") or "0" for name in names),
        population="nih",
        boxes=boxes,
        film_folders=("images*/images", "images*", ""),
        notes=("the films are part of ChestX-ray14",),
    )


def _need_columns(table: Table, needed: tuple[str, ...]) -> None:
    if missing := [column for column in needed if column not in table]:
        raise DataError(f"{printable(table.path)} has no column {', '.join(map(repr, missing))}")


def _targets(table: Table, column: str) -> np.ndarray:
    """float32 (rows,), 0 or 1."""
    targets = label_columns(table, (column,))[:, 0]
    if not np.isin(targets, (0.0, 1.0)).all():
        row = int((~np.isin(targets, (0.0, 1.0))).argmax())
        raise table.error(row, f"target {printable(table[column][row][:40])!r} is neither 0 nor 1")
    return targets


def _boxes(table: Table, names: list[str], rows: "list[int] | range") -> dict[str, tuple[Box, ...]]:
    found: dict[str, list[Box]] = {}
    for row, (left, top, width, height) in zip(rows, numbers(table, _CORNER, rows).tolist(), strict=True):
        found.setdefault(names[row], []).append(box(table, row, FINDING, (left, top), (width, height), FRAME))
    return {name: tuple(boxes) for name, boxes in found.items()}


def _compare(target_of: dict[str, float], details: Table) -> None:
    for row, (name, kind) in enumerate(zip(texts(details["patientId"]), texts(details["class"]), strict=True)):
        if name in target_of and (kind == FINDING) != bool(target_of[name]):
            raise details.error(row, f"film {name!r} is {kind!r}, but its target in {_LABELS} is {target_of[name]:.0f}")
