"""The predictions CSV: one row per film, one number per finding; written, read, and joined with a table of labels.

It has the column `Image Index` and one per finding, named `Atelectasis` or `prob_Atelectasis`, in any order, gzipped or
not. Where there is no such column, one that is called like it (`image_id`, `filename`, pandas's unnamed index) is
taken, with a note. It may have `status` and `reasons`, which `chexjax.predict` writes; films that it refused are left
out and counted. Other columns (an index, `No Finding`, a count of models) are ignored, with a note. Numbers are
probabilities; if any lies outside 0 to 1, they are logits or other scores, of which only the order counts.

Spaces, underscores and capitals do not matter in the name of a finding, nor folder, suffix and capitals in that of a
film.
"""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from chexjax.data.labels import UNCERTAIN
from chexjax.data.sources import nih
from chexjax.data.sources.entries import names_alike
from chexjax.data.sources.nih import Entry, read_entry_file
from chexjax.data.sources.tables import csv_rows, parse_age, parse_label
from chexjax.data.verdict import COLUMNS
from chexjax.errors import DataError, first_ten, printable
from chexjax.files import cell, text_of
from chexjax.findings import FILM as NAME
from chexjax.findings import spelled

# What a table of labels may say of a film's patient, under any of these names, in lower case.
_OF_PATIENTS: Final = {
    "patient": ("patient id", "patient"),
    "age": ("patient age", "age"),
    "sex": ("patient sex", "patient gender", "sex"),
    "view": ("view position", "view"),
}
# Columns that are never findings, whatever they hold, in lower case.
_NO_FINDINGS: Final = {
    "", NAME.lower(), "finding labels", "no finding", "follow-up #", "split", "fold",
    *COLUMNS, *(name for names in _OF_PATIENTS.values() for name in names),
}  # fmt: skip
# What other tables call the column of film names, in lower case, likeliest first; pandas's index comes last.
_NAMES: Final = (
    NAME.lower(), "image_index", "image_id", "imageid", "image", "image_name", "filename", "file_name", "file",
    "image_path", "path", "img", "name", "id", "", "unnamed: 0",
)  # fmt: skip


@dataclass(frozen=True)
class PredictionFile:
    """A predictions CSV.

    `probabilities` is float64 (films, findings), as written: any finite numbers. `findings` are those that were asked
    for and have a column; `passed_over` are the ignored columns; `refused` counts rows without probabilities.
    `name_column` is the one that was taken for `Image Index`.
    """

    path: Path
    names: tuple[str, ...]
    findings: tuple[str, ...]
    probabilities: np.ndarray
    passed_over: tuple[str, ...] = ()
    refused: int = 0
    name_column: str = NAME

    @property
    def are_probabilities(self) -> bool:
        """Whether all numbers lie between 0 and 1."""
        return bool(((self.probabilities >= 0) & (self.probabilities <= 1)).all())

    def rows(self, names: Sequence[str], findings: Sequence[str]) -> np.ndarray:
        """The probabilities of `names` for `findings`."""
        row = {name: k for k, name in enumerate(self.names)}
        columns = [self.findings.index(finding) for finding in findings]
        return self.probabilities[[row[name] for name in names]][:, columns]


@dataclass(frozen=True)
class Matched:
    """The films to score: labels float32 (films, findings), NaN not known; each model's numbers; the label rows.

    `ranked_only` names the models whose numbers are not probabilities.
    """

    names: tuple[str, ...]
    findings: tuple[str, ...]
    labels: np.ndarray
    models: dict[str, np.ndarray]
    entries: tuple[Entry, ...]
    ranked_only: frozenset[str] = frozenset()

    @property
    def probabilities(self) -> dict[str, np.ndarray]:
        """The numbers of the models that give probabilities."""
        return {name: numbers for name, numbers in self.models.items() if name not in self.ranked_only}

    @property
    def patients(self) -> tuple[str, ...]:
        return tuple(entry.patient for entry in self.entries)


def write_predictions(path: Path, names: Sequence[str], probabilities: np.ndarray, findings: Sequence[str]) -> None:
    """Writes probabilities (films, findings) with enough digits to read the same float64 back.

    Probabilities from `models.probability.probability_of` so keep the order of the logits.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([NAME, *map(cell, findings)])
        for name, row in zip(names, np.asarray(probabilities, np.float64).tolist(), strict=True):
            table.writerow([cell(name), *map(repr, row)])


def columns_of(path: Path) -> tuple[str, ...]:
    """The column names of a predictions CSV that may be findings, in its order.

    Raises:
      DataError: as `read_predictions`; an empty file.
    """
    _, head = next(_lines(path), (0, None))
    if head is None:
        raise DataError(f"{path} is empty; it should have the column {NAME} and one a finding")
    _refuse_separator(path, head)
    names = [text_of(column).removeprefix("prob_") for column in head]
    named = (name for name in names if name.lower() not in _NO_FINDINGS and not name.startswith("Unnamed:"))
    return tuple(dict.fromkeys(named))


def read_predictions(path: Path, findings: Sequence[str]) -> PredictionFile:
    """Reads the columns of `findings` from a predictions CSV; findings without a column are left out.

    Raises:
      DataError: no such file or no UTF-8 text, separated by '|', no film, no column of a finding
        or one twice, a film twice, a row too short or too long, a value that is no finite number. Line and column are
        named.
    """
    lines = _lines(path)
    _, head = next(lines, (0, None))
    if head is None:
        raise DataError(f"{path} is empty; it should have the columns {NAME}, {', '.join(findings)}")
    columns, passed_over = _columns(path, head, findings)
    findings = tuple(finding for finding in findings if finding in columns)
    positions = [columns[finding] for finding in findings]
    status = head.index(COLUMNS[0]) if COLUMNS[0] in head else None
    refused = 0
    names: list[str] = []
    values: list[list[float]] = []
    for line, row in lines:
        if status is not None and row[status] == "refused" and not any(row[position].strip() for position in positions):
            refused += 1
            continue
        names.append(_name(path, line, row[columns[NAME]]))
        try:
            values.append([float(row[position]) for position in positions])
        except ValueError:
            values.append([_number(row[position]) for position in positions])
        if not all(map(math.isfinite, values[-1])):
            worst = next(k for k, value in enumerate(values[-1]) if not math.isfinite(value))
            raise DataError(
                f"{path}, line {line}, column {head[positions[worst]]}: {short(row[positions[worst]])} is no "
                "probability, nor any other finite number"
            )
    if not names:
        raise DataError(f"{path} has a header and no film" + (f" but {refused:,} refused ones" if refused else ""))
    _refuse_twice(path, names, "films")
    numbers = np.array(values, np.float64)
    return PredictionFile(path, tuple(names), findings, numbers, passed_over, refused, head[columns[NAME]])


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The non-blank rows of a CSV file with their line numbers; the first is the header, its names stripped.

    Raises:
      DataError: see `csv_rows`; a row has more or fewer cells than the header.
    """
    head = None
    for line, row in csv_rows(path):
        if not any(map(str.strip, row)):
            continue
        if head is None:
            row = head = [name.strip() for name in row]
        elif len(row) != len(head):
            raise DataError(f"{path}, line {line}: {len(row)} cells where the header has {len(head)}")
        yield line, row


def _columns(path: Path, head: list[str], findings: Sequence[str]) -> tuple[dict[str, int], tuple[str, ...]]:
    """The column index of `Image Index` and of each of `findings`, and the names of all other columns."""
    _refuse_separator(path, head)
    found: dict[str, int] = {}
    others, twice = [], []
    meant = {spelled(finding): finding for finding in findings}
    for position, column in enumerate(head):
        name = text_of(column)
        name = name if name in findings else name.removeprefix("prob_")
        name = name if name in findings else meant.get(spelled(name), name)
        if column != NAME and name not in findings:
            others += [] if column in COLUMNS else [column]
        elif name in found:
            twice.append(name)
        else:
            found[name] = position
    if twice:
        raise DataError(f"{path}, line 1: columns that stand more than once, {first_ten(twice)}")
    if NAME not in found:
        lower = [column.lower() for column in head]
        named = next((lower.index(name) for name in _NAMES if name in lower), None)
        if named is None:
            raise DataError(f"{path}, line 1: no column {NAME!r}; it has {first_ten(list(map(short, head)))}")
        found[NAME] = named
        others.remove(head[named])
    if len(found) < 2:
        has = f"; it has {first_ten(list(map(short, others)))}" if others else ""
        raise DataError(f"{path}, line 1: no column for any of the {len(findings)} findings{has}")
    return found, tuple(others)


def _refuse_separator(path: Path, head: list[str]) -> None:
    if len(head) == 1 and "|" in head[0]:
        raise DataError(f"{path}, line 1: columns are separated by '|'; save it with commas")


def _name(path: Path, line: int, text: str) -> str:
    name = text_of(text.strip())
    if not name or not name.isprintable():
        raise DataError(f"{path}, line {line}, column {NAME}: {short(name)} is no film name")
    return name


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


# Labels


class Labels(NamedTuple):
    """The reference labels: rows by film name, with labels of `findings`; `notes` are lines for the user."""

    entries: dict[str, Entry]
    findings: tuple[str, ...]
    notes: list[str]


def read_labels(path: Path, predicted: Sequence[str]) -> Labels:
    """The labels to score against.

    Either the NIH's entry file, with its column `Finding Labels`; or a table with the column `Image Index` and one for
    some of the findings that are `predicted`, whose cells are 0, 1, yes, no, a number between 0 and 1 (soft), empty or
    NaN (not known), or -1 (uncertain: not known). It may have `Patient ID` (else each film is a patient of its own),
    `Patient Age`, `Patient Sex`, `View Position`. Of a table with both kinds, the columns of the findings count.

    Raises:
      DataError: see `nih.read_entry_file`; a cell that is no label, with its line and column.
    """
    lines = _lines(path)
    _, head = next(lines, (0, None))
    labelled = {spelled(text_of(name).removeprefix("prob_")) for name in head or ()}
    findings = tuple(finding for finding in predicted if spelled(finding) in labelled)
    if head is None or not findings:
        return Labels(read_entry_file(path), nih.FINDINGS, [])
    labels = _read_label_table(path, head, lines, findings)
    if "Finding Labels" in head:
        columns = f"the columns of findings, {first_ten(findings)}"
        labels.notes.append(f"{printable(path.name)}: the labels are {columns}; 'Finding Labels' is passed over")
    return labels


def _read_label_table(
    path: Path, head: list[str], lines: Iterator[tuple[int, list[str]]], findings: tuple[str, ...]
) -> Labels:
    """A table with one column per finding; see `read_labels`."""
    columns, _ = _columns(path, head, findings)
    position = {name.lower(): column for column, name in reversed(list(enumerate(head)))}

    def text(row: list[str], what: str) -> str:
        names = (name for name in _OF_PATIENTS[what] if name in position)
        return next((printable(row[position[name]].strip()) for name in names), "")

    entries: dict[str, Entry] = {}
    names: list[str] = []
    uncertain = 0
    for line, row in lines:
        name = _name(path, line, row[columns[NAME]])
        if ".." in name.replace("\\", "/").split("/"):
            raise DataError(f"{path}, line {line}, column {NAME}: {short(name)} is no film name")
        labels = np.full(len(findings), np.nan, np.float32)
        for k, finding in enumerate(findings):
            written = row[columns[finding]]
            value = parse_label(written, words=True)
            if value is None:
                raise DataError(
                    f"{path}, line {line}, column {finding}: {short(written)} is no label; a label is 0, 1, a number "
                    "between, -1 (uncertain), or empty (not known)"
                )
            if value == UNCERTAIN:
                uncertain += 1
            else:
                labels[k] = value
        age, sex, view = parse_age(text(row, "age")), text(row, "sex"), text(row, "view")
        entries[name] = Entry(name, labels, text(row, "patient") or f"film {name}", age, sex, view)
        names.append(name)
    _refuse_twice(path, names, "films")
    if not any(((entry.labels == 0) | (entry.labels == 1)).any() for entry in entries.values()):
        raise DataError(f"{path} has no column 'Finding Labels', and no label of 0 or 1 in a column of a finding")
    shown = printable(path.name)
    notes = [f"{shown}: {uncertain:,} uncertain labels (-1) are taken as not known"] if uncertain else []
    if not position.keys() & set(_OF_PATIENTS["patient"]):
        notes.append(f"{shown} has no column 'Patient ID': each film is taken for a patient of its own")
    return Labels(entries, findings, notes)


def short(text: str) -> str:
    """A cell for a message: on one line, and shortened."""
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def _refuse_twice(path: Path, names: Sequence[str], what: str) -> None:
    seen: set[str] = set()
    twice = [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
    if twice:
        raise DataError(f"{path} has {what} more than once, {first_ten(list(dict.fromkeys(twice)))}")


def match(
    entries: dict[str, Entry], tables: Sequence[PredictionFile], labelled: Sequence[str]
) -> tuple[Matched, list[str]]:
    """The films that are in the labels and in every predictions table, and notes with the counts.

    Args:
      labelled: the findings of the entries' labels, in their order.

    Raises:
      DataError: there are none, or the tables have no finding in common.
    """
    notes = list(filter(None, map(_note, tables)))
    tables, renamed = zip(*(_as_in_entries(table, entries) for table in tables), strict=True)
    notes += filter(None, renamed)
    first = tables[0]
    names = [name for name in first.names if name in entries]
    notes.append(f"{printable(first.path.name)}: {len(names):,} of {len(first.names):,} rows match the entry file")
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
    if len(findings) < len(labelled):
        missing = [finding for finding in labelled if finding not in findings]
        notes.append(f"not predicted, and left out of every mean: {', '.join(missing)}")
    columns = [labelled.index(finding) for finding in findings]
    labels = np.stack([entries[name].labels for name in names])[:, columns]
    titles = _titles(tables)
    models = {name: table.rows(names, findings) for name, table in zip(titles, tables, strict=True)}
    ranked_only = frozenset(name for name, table in zip(titles, tables, strict=True) if not table.are_probabilities)
    rows = tuple(entries[name] for name in names)
    return Matched(tuple(names), findings, labels, models, rows, ranked_only), notes


def _as_in_entries(table: PredictionFile, entries: Mapping[str, Entry]) -> tuple[PredictionFile, str]:
    """The table with the entries' names of its films, where they differ in folder, suffix or case alone; a note of it.

    Raises:
      DataError: two of its rows are one film then.
    """
    alike = names_alike((name for name in table.names if name not in entries), entries)
    if not alike:
        return table, ""
    name = min(alike)
    names = tuple(alike.get(name, name) for name in table.names)
    _refuse_twice(table.path, names, "films")
    where = printable(table.path.name)
    said = f"{len(alike):,} film names differ from the entry file's in folder, suffix or case, such as {short(name)}"
    return replace(table, names=names), f"{where}: {said} for {short(alike[name])}"


def _note(table: PredictionFile) -> str:
    """A note on one table: ignored columns, numbers that are not probabilities."""
    notes = []
    if table.name_column != NAME:
        notes.append(f"no column {NAME!r}: {short(table.name_column)} is taken for it")
    if table.refused:
        notes.append(f"{table.refused:,} films without probabilities are left out: they were refused")
    if table.passed_over:
        notes.append(f"columns that are no finding are passed over, {first_ten(list(map(short, table.passed_over)))}")
    if not table.are_probabilities:
        low, high = table.probabilities.min(), table.probabilities.max()
        notes.append(
            f"numbers from {low:g} to {high:g} are no probabilities: they are ranked as written, without calibration"
        )
    return f"{printable(table.path.name)}: {'; '.join(notes)}" if notes else ""


def _titles(tables: Sequence[PredictionFile]) -> list[str]:
    """A title for each table: its file name, with the folder's if two are equal."""
    stems = [printable(table.path.name.removesuffix(".gz").removesuffix(".csv")) for table in tables]
    if len(set(stems)) < len(stems):
        stems = [f"{printable(table.path.parent.name)}/{stem}" for table, stem in zip(tables, stems, strict=True)]
    return stems if len(set(stems)) == len(stems) else ["predictions", "against"][: len(stems)]
