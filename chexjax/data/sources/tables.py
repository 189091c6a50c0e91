"""Reads CSV files by column, plain, gzipped or zipped: hundreds of thousands of rows in a second or two."""

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Final

import numpy as np

from chexjax.data.labels import UNCERTAIN
from chexjax.data.sources.entries import UNKNOWN_AGE, Box, path_below, refuse_twice
from chexjax.errors import DataError, first_ten, printable
from chexjax.files import read_text

_NOT_KNOWN: Final = frozenset(("", "nan", "na"))
_WORDS: Final = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
_SEXES: Final = {"m": "M", "male": "M", "f": "F", "female": "F"}
_DECIMAL_COMMA: Final = re.compile(r"^(\s*[+-]?\d*),(\d+(?:[eE][+-]?\d+)?\s*)$")


@dataclass(frozen=True)
class Table:
    """The columns of a CSV file as text; `lines` has the line of the file on which each row ends."""

    path: Path
    columns: dict[str, list[str]]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, column: str) -> list[str]:
        return self.columns[column]

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    def get(self, column: str | None) -> list[str]:
        """The column, or empty cells if the table lacks it."""
        return self.columns[column] if column in self.columns else [""] * len(self)

    def error(self, row: int, what: str) -> DataError:
        """An error that names the file and the line of a row."""
        return DataError(f"{printable(self.path)}, line {self.lines[row]}: {what}")


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file, the header first, each with the line of the file on which it ends.

    Cells are separated by commas or, if the first line has none, by semicolons or tabs. Numbers may then have decimal
    commas, as spreadsheets write them in much of Europe; they are given points.

    Raises:
      DataError: the file is missing, not UTF-8 text, larger than 1 GiB, or no CSV.
    """
    text = read_text(path)
    first, _, _ = text.lstrip("\r\n").partition("\n")
    delimiter = next((sign for sign in (",", ";", "\t") if sign in first), ",")
    # Strictly: a quote that is never closed would take all rows below it into its cell.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            yield reader.line_num, row if delimiter == "," else [_DECIMAL_COMMA.sub(r"\1.\2", cell) for cell in row]
    except csv.Error as error:
        raise DataError(f"{printable(path)}, line {reader.line_num}, cannot be read as CSV: {error}") from None


def read_table(path: Path, needed: Sequence[str] = (), also: Sequence[str] | None = ()) -> Table:
    """Reads the columns `needed`, and those of `also` that exist; with `also` None, all columns.

    Raises:
      DataError: see `csv_rows`; the table lacks a needed column, or has a row with more or fewer cells than its header.
    """
    where = printable(path)
    source = csv_rows(path)
    header = [name.strip() for name in next(source, (0, []))[1]]
    if missing := [name for name in needed if name not in header]:
        shown = first_ten([name[:40] for name in header])
        raise DataError(f"{where} has no column {', '.join(map(repr, missing))}; it has {shown}")
    kept = [k for k, name in enumerate(header) if name and (also is None or name in needed or name in also)]
    if twice := sorted({header[k] for k in kept if header.count(header[k]) > 1}):
        raise DataError(f"{where} has two columns {', '.join(map(repr, twice))[:200]}")
    pick: Callable[[list[str]], tuple[str, ...]]
    pick = itemgetter(*kept) if len(kept) > 1 else lambda row: tuple(row[k] for k in kept)
    rows, lines = [], []
    for line, row in source:
        if len(row) != len(header):
            if not row:
                continue
            if len(row) < len(header) or any(row[len(header) :]):
                raise DataError(f"{where}, line {line}: {len(row)} cells, where the header has {len(header)}")
        rows.append(pick(row))
        lines.append(line)
    if not rows:
        raise DataError(f"{where} has no rows")
    names = [header[k] for k in kept]
    return Table(path, dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)), lines)


# The cells


def label_columns(table: Table, columns: Sequence[str], words: bool = False) -> np.ndarray:
    """The columns as labels, float32 (rows, columns): 0 to 1, NaN where a cell is empty, -1 uncertain.

    With `words`, yes, no, true and false are labels, too.

    Raises:
      DataError: a cell holds something else; the message names the file, line, column and text.
    """
    labels = np.empty((len(table), len(columns)), np.float32)
    for k, column in enumerate(columns):
        values = {cell: parse_label(cell, words) for cell in set(table[column])}
        bad = {cell for cell, value in values.items() if value is None}
        if bad:
            row = next(row for row, cell in enumerate(table[column]) if cell in bad)
            raise table.error(
                row,
                f"{printable(table[column][row][:80])!r} in column {printable(column[:80])!r} is not a label; "
                "labels are 0, 1, a number between, -1 (uncertain) or empty (not known)",
            )
        labels[:, k] = [values[cell] for cell in table[column]]
    return labels


def parse_label(cell: str, words: bool = False) -> float | None:
    """A label as a number: 0 to 1, -1 or NaN; None if the text is not a label."""
    text = cell.strip().lower()
    if text in _NOT_KNOWN:
        return math.nan
    if words and text in _WORDS:
        return _WORDS[text]
    if not text.isascii() or "_" in text:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0.0 <= value <= 1.0 or value == UNCERTAIN else None


def numbers(table: Table, columns: Sequence[str], rows: Iterable[int]) -> np.ndarray:
    """Cells as finite numbers, float64 (rows, columns).

    Raises:
      DataError: a cell is not a number.
    """
    found = []
    for row in rows:
        try:
            values = [float(table[column][row]) for column in columns]
        except ValueError:
            values = [math.nan]
        if not np.isfinite(values).all():
            cells = ",".join(printable(table[column][row][:40]) for column in columns)
            raise table.error(row, f"no finite numbers in {', '.join(columns)}: {cells!r}")
        found.append(values)
    return np.array(found, np.float64).reshape(-1, len(columns))


def box(
    table: Table, row: int, finding: str, corner: Sequence[float], size: Sequence[float],
    frame: Sequence[float] | None = None, reader: str = "",
) -> Box:  # fmt: skip
    """The box of a row, as fractions of `frame` (width, height) or, if that is None, in the film's own pixels.

    Raises:
      DataError: the box has no area on the film.
    """
    (left, top), (width, height) = corner, size
    across, down = frame or (math.inf, math.inf)
    if not (max(left, 0) < min(left + width, across) and max(top, 0) < min(top + height, down)):
        raise table.error(row, f"a box of {finding!r} without area on the film: {left}, {top}, {width} x {height}")
    if frame is None:
        return Box(finding, left, top, width, height, reader, in_pixels=True)
    return Box(finding, left / across, top / down, width / across, height / down, reader)


def film_paths(table: Table, column: str, folder: Path, strip: Callable[[str], str] = str) -> list[str]:
    """The column as paths relative to the folder; `strip` removes the part of a path that leads to it.

    Raises:
      DataError: a path leaves the folder.
    """
    found = []
    for row, text in enumerate(table[column]):
        try:
            found.append(path_below(folder, strip(text)))
        except ValueError as error:
            raise table.error(row, f"{error}: {printable(text[:200])!r}") from None
    return found


def film_names(table: Table, column: str) -> list[str]:
    """The column as file names, without folders.

    Raises:
      DataError: a cell is not a file name.
    """
    names = [text.strip() for text in table[column]]
    checked = {name for name in set(names) if is_film_name(name)}
    for row, name in enumerate(names):
        if name not in checked:
            raise table.error(row, f"no usable name of a film: {printable(name[:80])!r}")
    return names


def is_film_name(name: str) -> bool:
    """Whether it is a plain file name, without folders and control characters."""
    return bool(name) and name.isprintable() and not {"/", "\\"} & set(name) and name not in (".", "..")


def check_unique(table: Table, names: Sequence[str]) -> None:
    """Refuses a table in which a film has two rows.

    Raises:
      DataError: names the first ten such films, with their lines.
    """
    if len(set(names)) == len(names):
        return
    first: dict[str, int] = {}
    twice = []
    for row, name in enumerate(names):
        if first.setdefault(name, row) != row:
            twice.append(f"{name} (lines {table.lines[first[name]]} and {table.lines[row]})")
    refuse_twice(printable(table.path), twice)


def texts(cells: Iterable[str]) -> tuple[str, ...]:
    """The cells stripped, with control characters made visible."""
    known: dict[str, str] = {}
    return tuple(known.get(cell) or known.setdefault(cell, printable(cell.strip())) for cell in cells)


def sexes(cells: Iterable[str]) -> tuple[str, ...]:
    """M, F, or the text itself if it is neither."""
    return tuple(_SEXES.get(cell.lower(), cell) for cell in texts(cells))


def ages(cells: Iterable[str]) -> np.ndarray:
    """Ages in years, int16; -1 if unknown. See `parse_age`."""
    cells = list(cells)
    known = {cell: parse_age(cell) for cell in set(cells)}
    return np.array([known[cell] for cell in cells], np.int16)


def parse_age(text: str) -> int:
    """An age such as `58`, `58.0`, `058Y`, `010M` or `005D`, in years; -1 if it is missing or above 120.

    The 2017 edition of the NIH's table has ages of 400.
    """
    match = re.fullmatch(r"\s*(\d{1,9})(?:\.\d*)?\s*([YMD]?)\s*", text, re.ASCII)
    if not match:
        return UNKNOWN_AGE
    years = int(match[1]) // {"D": 365, "M": 12}.get(match[2], 1)
    return years if years <= 120 else UNKNOWN_AGE


def require(table: Table, column: str) -> tuple[str, ...]:
    """A column of text in which no cell may be empty, such as the patients.

    Raises:
      DataError: a cell is empty.
    """
    found = texts(table[column])
    if not all(found):
        raise table.error(found.index(""), f"column {column!r} is empty")
    return found
