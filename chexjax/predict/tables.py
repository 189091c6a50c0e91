"""The CSV files and the page of a prediction, made from the journals of its shards, one film at a time.

| file | holds |
|---|---|
| `predictions.csv` | `Image Index`, a probability per finding (empty if the film is refused), `status` and `reasons` |
| `boxes.csv` | the boxes of each called finding, in pixels of the film; a row without figures if its map is flat |
| `errors.csv` | films that could not be read, and why |
| `uids.csv`, `paths.csv` | on request: the DICOM identifiers, and the path, of each film |
| `index.html`, `page-2.html`, ... | films with their maps, `PER_PAGE` a page, at most `PAGES` pages |
"""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

from chexjax.data.verdict import COLUMNS
from chexjax.explain.gallery import Card, gallery
from chexjax.files import cell, whole, write_whole
from chexjax.findings import FILM, RADIOLOGY
from chexjax.predict.journal import Record, read_head, read_records

OVERLAYS: Final = "overlays"
PER_PAGE: Final = 200
PAGES: Final = 50
_BOXES: Final = ("Finding Label", "x", "y", "w", "h", "probability", "threshold")
_PICTURES: Final = (".png", ".jpg")


@dataclass
class Summary:
    """Counts of films scored, refused and not read (with reasons), and of called findings whose map is flat."""

    scored: int = 0
    doubtful: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    errors: dict[str, str] = field(default_factory=dict)
    called: int = 0
    flat: int = 0

    @property
    def films(self) -> int:
        return self.scored + self.refused.total() + len(self.errors)

    @property
    def status(self) -> int:
        """The exit status: 0 if all films were scored, 1 if some were not, 2 if none was."""
        if not self.scored:
            return 2
        return int(self.scored < self.films)

    def count(self, record: Record) -> None:
        """Adds a film of a journal."""
        if "error" in record:
            self.errors[record["name"]] = record["error"]
        elif record["probabilities"] is None:
            self.refused["; ".join(record["reasons"])] += 1
        else:
            self.scored += 1
            self.doubtful += record["status"] == "doubtful"
            self.called += len(record["called"])
            self.flat += len(record.get("flat", ()))


def summarize(journals: Sequence[Path]) -> Summary:
    """Counts the films of the journals."""
    summary = Summary()
    for record in chain.from_iterable(map(read_records, journals)):
        summary.count(record)
    return summary


def write_tables(out: Path, journals: Sequence[Path]) -> Summary:
    """Writes the tables and the page, each whole or not at all, and removes files of earlier runs."""
    head = read_head(journals[0])
    summary, pictures = Summary(), set()
    tables: dict[str, Sequence[str]] = {"predictions.csv": (FILM, *map(cell, head["findings"]), *COLUMNS)}
    if head["overlays"]:
        tables["boxes.csv"] = (FILM, *_BOXES)
    if head["uids"]:
        tables["uids.csv"] = (FILM, "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    if head["paths"]:
        tables["paths.csv"] = (FILM, "path")
    tables["errors.csv"] = (FILM, "error")
    with ExitStack() as stack:
        partials = {name: stack.enter_context(whole(out / name)) for name in tables}
        files = {
            name: stack.enter_context(partial.open("w", newline="", encoding="utf-8"))
            for name, partial in partials.items()
        }
        writers = {name: csv.writer(file) for name, file in files.items()}
        for name, columns in tables.items():
            writers[name].writerow(columns)
        for record in chain.from_iterable(map(read_records, journals)):
            summary.count(record)
            pictures |= {Path(path).name for _, path in record.get("pictures", ())}
            for name, rows in _rows(record, head).items():
                writers[name].writerows(rows)
    for name in {"boxes.csv", "uids.csv", "paths.csv"} - tables.keys():
        (out / name).unlink(missing_ok=True)
    if not summary.errors:
        (out / "errors.csv").unlink()
    pages = _write_pages(out, head, journals, summary) if head["overlays"] else []
    _remove_old(out, pages, pictures)
    return summary


def _rows(record: Record, head: Record) -> dict[str, list[list[Any]]]:
    """The rows that a film adds to each table."""
    name = cell(record["name"])
    rows: dict[str, list[list[Any]]] = {}
    if head["paths"]:
        rows["paths.csv"] = [[name, cell(record["path"])]]
    if "error" in record:
        return rows | {"errors.csv": [[name, cell(record["error"])]]}
    found = record["probabilities"]
    figures = ["" if found is None else repr(found[finding]) for finding in head["findings"]]
    rows["predictions.csv"] = [[name, *figures, record["status"], cell("; ".join(record["reasons"]))]]
    if head["overlays"]:
        rows["boxes.csv"] = [
            [name, cell(finding), *box, f"{found[finding]:.9g}", f"{_threshold(head, finding):.9g}"]
            for finding, *box in record["boxes"]
        ]
    if head["uids"]:
        rows["uids.csv"] = [[name, *map(cell, record["uids"])]]
    return rows


def _threshold(head: Record, finding: str) -> float:
    return head["thresholds"][head["findings"].index(finding)]


def _write_pages(out: Path, head: Record, journals: Sequence[Path], summary: Summary) -> list[str]:
    """Writes the pages and returns their names."""
    count = summary.films - len(summary.errors)
    shown = min(count, PER_PAGE * PAGES)
    names = ["index.html", *(f"page-{number}.html" for number in range(2, -(-shown // PER_PAGE) + 1))]
    cards = _cards(head, journals)
    noted = head["map_notes"]
    hints = {f: ". ".join(filter(None, (RADIOLOGY.get(f), noted.get(f)))) for f in head["findings"]}
    for name in names:
        page = gallery(
            list(islice(cards, PER_PAGE)),
            head["findings"],
            "chexjax: findings and their places",
            _note(head, summary, shown),
            hints,
            pages=names,
            page=name,
        )
        write_whole(out / name, page)
    return names


def _note(head: Record, summary: Summary, shown: int) -> str:
    """The heading of each page."""
    parts = [f"{summary.scored:,} films, checkpoint of step {head['step']}, maps: {head['maps']}."]
    if summary.refused:
        parts.append(f"{summary.refused.total():,} refused.")
    if summary.doubtful:
        parts.append(f"{summary.doubtful:,} doubtful.")
    if summary.errors:
        parts.append(f"{len(summary.errors):,} not read: errors.csv.")
    if shown < summary.scored + summary.refused.total():
        parts.append(f"The first {shown:,} are shown; all are in predictions.csv.")
    if summary.flat:
        parts.append(f"{summary.flat:,} of {summary.called:,} called findings have a flat map, which shows no place.")
    if head["map_notes"]:
        parts.append(
            f"{len(head['map_notes'])} findings have maps whose place is unproven; sorted by one, the page says why."
        )
    if not any(threshold is not None for threshold in head["thresholds"]):
        parts.append("No thresholds are known: the evaluation of a run finds them.")
    return " ".join([*parts, "Not a medical device."])


def _cards(head: Record, journals: Sequence[Path]) -> Iterator[Card]:
    thresholds = tuple(head["thresholds"])
    for record in chain.from_iterable(map(read_records, journals)):
        if "error" in record:
            continue
        found = record["probabilities"]
        yield Card(
            record["name"],
            tuple((finding, path) for finding, path in record["pictures"]),
            () if found is None else tuple(found[finding] for finding in head["findings"]),
            () if found is None else thresholds,
            record["status"],
            tuple(record["reasons"]),
            tuple(record["flat"]),
        )


def _remove_old(out: Path, pages: Sequence[str], pictures: set[str]) -> None:
    """Removes pictures and pages of earlier runs, so that only those named in the tables remain."""
    folder = out / OVERLAYS
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.suffix in _PICTURES and path.name not in pictures:
            path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    for path in (out / "index.html", *out.glob("page-*.html")):
        if path.name not in pages:
            path.unlink(missing_ok=True)
