"""Any folder of films with a CSV file: `--config.data.source=table --config.data.table=FILE.csv`.

| column | what it gives |
|---|---|
| `path` or `Image Index` | the film's path below the folder; an `Image Index` may lie in `images/`, too |
| `patient` or `Patient ID` | the patient; without it, each film counts as a patient of its own |
| `split` or `fold` | train, val (valid, validation, validate) or test; without it, patients are divided by seed |
| `sex` or `Patient Gender`, `age` or `Patient Age`, `view` or `View Position` | optional |
| `labels` or `Finding Labels` | the findings that are present, joined by `|`; or: |
| a column for each finding | 0 absent, 1 present, a number between, -1 uncertain, empty not known |

`data.findings` says which columns are findings; without it, every column whose cells are all such numbers is one. In a
column `labels`, an empty cell means that nothing is known of the film, and `No Finding` that it has no finding. Films
may be PNG, JPEG or DICOM. Column names are not case-sensitive. Columns may also be separated by
semicolons or tabs; numbers may then have decimal commas.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from chexjax.data.labels import match_findings
from chexjax.data.sources.entries import LEFT_OUT, TRAIN_VAL, Entries, Request, check_folder
from chexjax.data.sources.tables import (
    Table,
    ages,
    check_unique,
    film_paths,
    label_columns,
    parse_label,
    printable,
    read_table,
    require,
    sexes,
    texts,
)
from chexjax.errors import ConfigError, DataError, first_ten
from chexjax.findings import NO_FINDING

_ROLES: Final = {
    "path": ("path", "Image Index"),
    "patient": ("patient", "Patient ID"),
    "split": ("split", "fold"),
    "sex": ("sex", "Patient Gender", "Patient Sex"),
    "age": ("age", "Patient Age"),
    "view": ("view", "View Position"),
    "labels": ("labels", "Finding Labels"),
}
_SPLITS: Final = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "validate": "val",
    "test": "test",
    "none": LEFT_OUT,
}
_NONE: Final = frozenset((NO_FINDING.lower(), "no_finding", "normal", "none"))


def read(request: Request) -> Entries:
    """The films of the table.

    Raises:
      ConfigError: no table is named.
      DataError: the table is broken, or has no findings.
    """
    if request.table is None:
        raise ConfigError("data.source is table, but no table is named; add --config.data.table=FILE.csv (--table)")
    check_folder(request.folder, "table", "the folder of the films")
    table = read_table(request.table, also=None)
    column = {role: _column_of(table, names) for role, names in _ROLES.items()}
    path = column["path"]
    if path is None:
        shown = first_ten([name[:40] for name in table.columns])
        raise DataError(f"{printable(table.path)} has no column 'path' or 'Image Index'; it has {shown}")
    files = film_paths(table, path, request.folder)
    check_unique(table, files)
    findings, labels, notes = _labels(table, column, request.findings)
    if column["patient"] is None:
        notes = ["the table has no patients (column 'patient'): each film counts as one", *notes]
    return Entries(
        source="table",
        folder=request.folder,
        findings=tuple(map(printable, findings)),
        names=tuple(files),
        files=tuple(files),
        labels=labels,
        patients=tuple(files) if column["patient"] is None else require(table, column["patient"]),
        sexes=sexes(table.get(column["sex"])),
        ages=ages(table.get(column["age"])),
        views=texts(table.get(column["view"])),
        splits=_splits(table, column["split"]),
        film_folders=("", "images*/images", "images*") if _lies_in_images(request.folder, files, path) else (),
        notes=tuple(notes),
    )


def _column_of(table: Table, names: Sequence[str]) -> str | None:
    known = {column.lower(): column for column in table.columns}
    return next((known[name.lower()] for name in names if name.lower() in known), None)


def _lies_in_images(folder: Path, files: Sequence[str], path: str) -> bool:
    return path.lower() == "image index" and not any("/" in file for file in files)


def _labels(
    table: Table, column: dict[str, str | None], wanted: tuple[str, ...]
) -> tuple[tuple[str, ...], np.ndarray, list[str]]:  # fmt: skip
    """The findings, their labels, float32 (films, findings), and notes."""
    free = [name for name in table.columns if name not in column.values()]
    if wanted:
        named = dict.fromkeys(name for names in match_findings(free, wanted).values() for name in names)
        if named:
            return tuple(named), label_columns(table, tuple(named), words=True), []
    joined = column["labels"]
    if joined is not None:
        findings, labels = _joined(table, joined)
        unused = [name for names in match_findings(free, findings).values() for name in names]
        note = (
            f"labels are taken from the column {joined!r}, and not from those of findings, {first_ten(unused)}; "
            "to use these, name them: --config.data.findings=A,B,C (--findings)"
        )
        return findings, labels, [note] if unused else []
    if wanted:
        raise DataError(f"{printable(table.path)} has no column {' or '.join(map(repr, wanted))[:200]}; it has "
                        f"{first_ten([name[:40] for name in free])}")  # fmt: skip
    found = tuple(name for name in free if _is_finding(table[name]))
    if not found:
        raise DataError(
            f"{printable(table.path)} has no column of labels (0, 1, -1, empty or a number between, not all empty)\n"
            "name those that are meant: --config.data.findings=A,B,C (--findings)"
        )
    notes = [note for name in free if name not in found and (note := _note_on_stray_cell(table, name))]
    return found, label_columns(table, found), notes


def _is_finding(cells: Sequence[str]) -> bool:
    values = [parse_label(cell) for cell in set(cells)]
    return None not in values and any(value == value for value in values)


def _note_on_stray_cell(table: Table, column: str) -> str:
    """Names the first cell that keeps a column from being a finding, if most of the others are labels; else empty."""
    not_labels = {cell for cell in set(table[column]) if parse_label(cell) is None}
    rows = [row for row, cell in enumerate(table[column]) if cell in not_labels]
    if not 0 < len(rows) < len(table) / 2:
        return ""
    where = f"line {table.lines[rows[0]]} has {printable(table[column][rows[0]][:40])!r}"
    return f"column {printable(column)[:80]!r} is not used: {where}, which is not a label"


def _joined(table: Table, column: str) -> tuple[tuple[str, ...], np.ndarray]:
    terms = [[term for part in cell.split("|") if (term := part.strip())] for cell in table[column]]
    present = [[term for term in row if term.lower() not in _NONE] for row in terms]
    findings = tuple(sorted({term for row in present for term in row}))
    if not findings:
        raise DataError(f"{printable(table.path)}: column {column!r} names no finding")
    if len(findings) > 1000:
        raise DataError(
            f"{printable(table.path)}: column {column!r} names {len(findings)} findings; is it one of labels?"
        )
    column_of = {finding: k for k, finding in enumerate(findings)}
    labels = np.zeros((len(table), len(findings)), np.float32)
    for row, names in enumerate(present):
        if not terms[row]:
            labels[row] = np.nan
        elif names and len(names) < len(terms[row]):
            raise table.error(row, f"{printable(table[column][row][:200])!r} has findings and says that there are none")
        labels[row, [column_of[name] for name in names]] = 1.0
    return findings, labels


def _splits(table: Table, column: str | None) -> tuple[str, ...]:
    """The part of each film; if none is "val", validation films are later taken from "train"."""
    if column is None:
        return ()
    found = []
    for row, cell in enumerate(table[column]):
        if (split := _SPLITS.get(cell.strip().lower())) is None:
            raise table.error(row, f"{column} {printable(cell[:80])!r} is none of train, val, test")
        found.append(split)
    return tuple(found) if "val" in found else tuple(TRAIN_VAL if split == "train" else split for split in found)
