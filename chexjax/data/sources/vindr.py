"""VinDr-CXR (Nguyen et al., Scientific Data 2022): 18,000 films, boxes of 17 radiologists; Kaggle's VinBigData, too.

Files, as Kaggle gives them:

| file | what it gives |
|---|---|
| `train.csv` | `image_id`, `class_name`, `rad_id`, `x_min`, `y_min`, `x_max`, `y_max`: a row a box, or "No finding" |
| `train/IMAGE_ID.dicom` | the films; or PNG or JPEG of the same name |
| `train_meta.csv` | for resized copies: `image_id`, `dim0` (height), `dim1` (width) of the original |

and as PhysioNet gives them:

| file | what it gives |
|---|---|
| `annotations/annotations_train.csv` | as `train.csv` |
| `annotations/annotations_test.csv` | the same, without `rad_id`: a consensus of five radiologists; the part "test" |
| `train/IMAGE_ID.dicom`, `test/IMAGE_ID.dicom` | the films |

Three radiologists read each training film. A label is the SHARE of them that marked the finding: 0, 1/3, 2/3 or 1. It
is a soft label in training; above 0.5 it is a majority. The class `No finding` is not a finding; `Other lesion` is.
Boxes are in pixels of the original and keep their reader. The set has no patients: each film counts as a patient of its
own.
"""

from pathlib import Path
from typing import Final

import numpy as np

from chexjax.data.sources.entries import TRAIN_VAL, Box, Entries, Request, check_folder, look_for, need
from chexjax.data.sources.tables import (
    Table,
    box,
    film_names,
    numbers,
    printable,
    read_table,
    require,
    texts,
)
from chexjax.errors import DataError

NO_FINDING: Final = "No finding"
_CORNERS: Final = ("x_min", "y_min", "x_max", "y_max")
_SUFFIXES: Final = (".dicom", ".dcm", ".png", ".jpg", ".jpeg")


def read(request: Request) -> Entries:
    """The films of the training table and, in PhysioNet's layout, of the test table.

    Raises:
      DataError: a table is missing or broken.
    """
    folder = request.folder
    check_folder(folder, "vindr", "the unpacked VinDr-CXR or VinBigData")
    first = request.table or need(folder, "vindr", ("train.csv", "annotations/annotations_train.csv"))
    test = look_for(folder, ("annotations/annotations_test.csv",))
    tables = [(TRAIN_VAL if test else "", _read_table(first))]
    if test:
        tables.append(("test", _read_table(test)))
    findings = tuple(
        sorted({finding for _, table in tables for finding in texts(table["class_name"])} - {NO_FINDING, ""})
    )
    if not findings:
        raise DataError(f"{printable(first)} names no finding")
    frames = _frames(folder)
    names: list[str] = []
    labels, splits = [], []
    boxes: dict[str, tuple[Box, ...]] = {}
    for split, table in tables:
        films, found, marked = _read_marks(table, findings, frames)
        if common := set(films) & set(names):
            raise DataError(f"{printable(table.path)}: {len(common)} films are in the training table, too")
        names += films
        labels.append(found)
        boxes |= marked
        splits += [split] * len(films)
    return Entries(
        source="vindr",
        folder=folder,
        findings=findings,
        names=tuple(names),
        files=tuple(names),
        labels=np.concatenate(labels),
        patients=tuple(names),
        views=("PA",) * len(names),
        splits=tuple(splits),
        boxes=boxes,
        film_folders=("train", "test", "images", ""),
        suffixes=_SUFFIXES,
        notes=(
            "a label is the share of a film's readers that marked the finding",
            "the set has no patients: each film counts as one",
        ),
    )


def _read_table(path: Path) -> Table:
    return read_table(path, ("image_id", "class_name", *_CORNERS), ("rad_id", "width", "height"))


def _read_marks(
    table: Table, findings: tuple[str, ...], frames: dict[str, tuple[float, float]]
) -> tuple[list[str], np.ndarray, dict[str, tuple[Box, ...]]]:
    """Films in the table's order, the shares of readers, float32 (films, findings), and the boxes."""
    names, classes = film_names(table, "image_id"), require(table, "class_name")
    readers = texts(table.get("rad_id"))
    films = list(dict.fromkeys(names))
    row_of = {name: row for row, name in enumerate(films)}
    column_of = {finding: k for k, finding in enumerate(findings)}
    marks = {
        (row_of[name], column_of[label], reader)
        for name, label, reader in zip(names, classes, readers, strict=True)
        if label != NO_FINDING
    }
    labels = np.zeros((len(films), len(findings)), np.float32)
    where = np.array([(row, column) for row, column, _ in marks]).reshape(-1, 2)
    np.add.at(labels, (where[:, 0], where[:, 1]), 1.0)
    count = np.zeros(len(films), np.float32)
    for name, _ in set(zip(names, readers, strict=True)):
        count[row_of[name]] += 1.0
    rows = [row for row, label in enumerate(classes) if label != NO_FINDING and table["x_min"][row].strip()]
    if "width" in table and "height" in table:  # copies whose rows have the original's size
        sizes = numbers(table, ("width", "height"), rows)
        frames = frames | {names[row]: (size[0], size[1]) for row, size in zip(rows, sizes.tolist(), strict=True)}
    found: dict[str, list[Box]] = {}
    for row, (left, top, right, bottom) in zip(rows, numbers(table, _CORNERS, rows).tolist(), strict=True):
        size = (right - left, bottom - top)
        one = box(table, row, classes[row], (left, top), size, frames.get(names[row]), readers[row])
        found.setdefault(names[row], []).append(one)
    return films, labels / count[:, None], {name: tuple(marked) for name, marked in found.items()}


def _frames(folder: Path) -> dict[str, tuple[float, float]]:
    """Width and height of the originals by film, if the folder has them."""
    path = look_for(folder, ("train_meta.csv",))
    if path is None:
        return {}
    table = read_table(path, ("image_id", "dim0", "dim1"))
    sizes = numbers(table, ("dim1", "dim0"), range(len(table)))
    if (sizes < 1).any():
        raise table.error(int((sizes < 1).any(axis=1).argmax()), "a film without pixels")
    return dict(zip(table["image_id"], map(tuple, sizes.tolist()), strict=True))
