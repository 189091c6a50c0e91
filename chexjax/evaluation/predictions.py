"""The predictions CSV: a film a row, a probability a finding; written, read, and joined with the entry file.

It has the column `Image Index` and one a finding, named `Atelectasis` or `prob_Atelectasis`, in any order.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from chexjax import files
from chexjax.data.sources.nih import Entry
from chexjax.errors import DataError, first_ten, printable
from chexjax.findings import FINDINGS

NAME: Final = "Image Index"


@dataclass(frozen=True)
class PredictionFile:
    """A predictions CSV. `probabilities` is float64 (films, findings), in the order of FINDINGS."""

    path: Path
    names: tuple[str, ...]
    findings: tuple[str, ...]
    probabilities: np.ndarray

    def rows(self, names: Sequence[str], findings: Sequence[str]) -> np.ndarray:
        """The probabilities of `names` for `findings`."""
        place = {name: k for k, name in enumerate(self.names)}
        columns = [self.findings.index(finding) for finding in findings]
        return self.probabilities[[place[name] for name in names]][:, columns]


@dataclass(frozen=True)
class Matched:
    """The films that are scored: labels uint8 (films, findings), each model's probabilities, what is known of them."""

    names: tuple[str, ...]
    findings: tuple[str, ...]
    labels: np.ndarray
    models: dict[str, np.ndarray]
    entries: tuple[Entry, ...]

    @property
    def patients(self) -> tuple[str, ...]:
        return tuple(entry.patient for entry in self.entries)


def write_predictions(
    path: Path, names: Sequence[str], probabilities: np.ndarray, findings: Sequence[str] = FINDINGS
) -> None:
    """Writes probabilities (films, findings), with enough digits that nothing is lost to rounding."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([NAME, *findings])
        for name, row in zip(names, probabilities, strict=True):
            table.writerow([files.cell(name), *(f"{p:.9g}" for p in row)])


def read_predictions(path: Path) -> PredictionFile:
    """Reads a predictions CSV.

    Raises:
      DataError: no such file or no UTF-8 text, separated by something else than commas, no film, an unknown or doubled
        column, a film twice, a row too short or too long, a value that is no probability. Line and column are named.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _read(path, file)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from None


def _read(path: Path, file: Any) -> PredictionFile:
    reader = csv.reader(file)
    rows = ((reader.line_num, row) for row in reader if any(map(str.strip, row)))
    head = next(rows, None)
    if head is None:
        raise DataError(f"{path} is empty; it should have the columns {NAME}, {', '.join(FINDINGS)}")
    columns = _columns(path, [name.strip() for name in head[1]])
    findings = tuple(finding for finding in FINDINGS if finding in columns)
    places = [columns[finding] for finding in findings]
    names: list[str] = []
    values: list[list[float]] = []
    for line, row in rows:
        if len(row) != len(head[1]):
            raise DataError(f"{path}, line {line}: {len(row)} cells where the header has {len(head[1])}")
        name = files.text_of(row[columns[NAME]].strip())
        if not name or not name.isprintable():
            raise DataError(f"{path}, line {line}, column {NAME}: {short(name)} is no film name")
        names.append(name)
        try:
            values.append([float(row[place]) for place in places])
        except ValueError:
            values.append([_number(row[place]) for place in places])
        if not all(0.0 <= value <= 1.0 for value in values[-1]):
            worst = next(k for k, value in enumerate(values[-1]) if not 0.0 <= value <= 1.0)
            raise DataError(
                f"{path}, line {line}, column {head[1][places[worst]].strip()}: {short(row[places[worst]])} is no "
                "probability between 0 and 1"
            )
    if not names:
        raise DataError(f"{path} has a header and no film")
    _refuse_twice(path, names, "films")
    return PredictionFile(path, tuple(names), findings, np.array(values, np.float64))


def _columns(path: Path, head: list[str]) -> dict[str, int]:
    """The place of `Image Index` and of each finding."""
    if len(head) == 1 and (separators := [s for s in (";", "\t", "|") if s in head[0]]):
        raise DataError(f"{path}, line 1: columns are separated by {separators[0]!r}; save it with commas")
    found: dict[str, int] = {}
    unknown, twice = [], []
    for place, column in enumerate(head):
        name = column.removeprefix("prob_")
        if column != NAME and name not in FINDINGS:
            unknown.append(short(column))
        elif name in found:
            twice.append(name)
        found.setdefault(name, place)
    if unknown:
        raise DataError(f"{path}, line 1: unknown columns, {first_ten(unknown)}; known are {NAME} and the 14 findings")
    if twice:
        raise DataError(f"{path}, line 1: columns that stand more than once, {first_ten(twice)}")
    if NAME not in found:
        raise DataError(f"{path}, line 1: no column {NAME!r}")
    if len(found) < 2:
        raise DataError(f"{path}, line 1: no column for any of the 14 findings")
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def short(text: str) -> str:
    """A cell as a message shows it: on one line, and not all of a long one."""
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def _refuse_twice(path: Path, names: Sequence[str], what: str) -> None:
    seen: set[str] = set()
    twice = [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
    if twice:
        raise DataError(f"{path} has {what} more than once, {first_ten(list(dict.fromkeys(twice)))}")


def match(entries: dict[str, Entry], tables: Sequence[PredictionFile]) -> tuple[Matched, list[str]]:
    """The films that the entry file and every table know, and lines that say how many there were.

    Raises:
      DataError: there is none, or the tables have no finding in common.
    """
    first = tables[0]
    names = [name for name in first.names if name in entries]
    notes = [f"{printable(first.path.name)}: {len(names):,} of {len(first.names):,} rows match the entry file"]
    if len(names) < len(first.names):
        strangers = [name for name in first.names if name not in entries]
        notes.append(f"left out, for the entry file does not know them, {first_ten(strangers)}")
    for table in tables[1:]:
        known = set(table.names)
        shared = [name for name in names if name in known]
        alone = len(names) - len(shared), len(known & entries.keys()) - len(shared)
        both = printable(table.path.name), printable(first.path.name)
        notes.append(f"{both[0]}: {len(shared):,} films in common with {both[1]}")
        if any(alone):
            notes.append(f"left out, because only one of the two has them: {alone[0]:,} and {alone[1]:,} films")
        names = shared
    findings = tuple(finding for finding in first.findings if all(finding in table.findings for table in tables))
    if not names:
        raise DataError(
            f"{' and '.join(str(table.path) for table in tables)}: no film is also in the entry file"
            + ("" if len(tables) == 1 else " and in the other")
            + f"; the first row is {short(first.names[0])}, the entry file begins with {short(next(iter(entries)))}"
        )
    if not findings:
        raise DataError(f"{' and '.join(str(table.path) for table in tables)} have no finding in common")
    if len(findings) < len(FINDINGS):
        missing = [finding for finding in FINDINGS if finding not in findings]
        notes.append(f"not predicted, and left out of every mean: {', '.join(missing)}")
    columns = [FINDINGS.index(finding) for finding in findings]
    labels = np.stack([entries[name].labels for name in names])[:, columns]
    models = {name: table.rows(names, findings) for name, table in zip(_titles(tables), tables, strict=True)}
    return Matched(tuple(names), findings, labels, models, tuple(entries[name] for name in names)), notes


def _titles(tables: Sequence[PredictionFile]) -> list[str]:
    """What each table is called: its file's name, with its folder's where two are alike."""
    stems = [printable(table.path.stem) for table in tables]
    if len(set(stems)) < len(stems):
        stems = [printable(f"{table.path.parent.name}/{table.path.stem}") for table in tables]
    return stems if len(set(stems)) == len(stems) else ["predictions", "against"][: len(stems)]
