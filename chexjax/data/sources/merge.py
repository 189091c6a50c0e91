"""One or several sources as one set of films, with common findings, labels, names and patients."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np

from chexjax.data.labels import (
    Uncertain,
    align,
    choose_findings,
    describe_mapping,
    match_findings,
    preferred_name,
)
from chexjax.data.sources.entries import AGREEMENT, Box, Entries, is_same_film, patient_number
from chexjax.errors import ConfigError, DataError, first_ten, printable
from chexjax.findings import spelled

MANY: Final = 64  # the most findings that are taken unasked; open vocabularies have hundreds, most of them rare
_FRONTAL: Final = re.compile(r"(|PA|AP|frontal|(PA|AP)[ _](supine|erect|portable|horizontal))", re.IGNORECASE)


@dataclass(frozen=True)
class Collection:
    """Films of one or several sources with one set of findings; each sequence has one item per film.

    Attributes:
      findings: the run's.
      names: no two are the same.
      labels: float32 (films, findings): 0 to 1, NaN where not known.
      patients: the patient of each film; populations never share one.
      sources: the label of the source, such as "chexpert".
      sexes, ages, views, splits: as `Entries` has them.
      boxes: by film name, of the run's findings only.
      parts: the entries by the label of their source; `rows` gives each film's row in them.
      mapping: which of the sources' names count for each finding, as text.
      notes: lines for the reader.
    """

    findings: tuple[str, ...]
    names: tuple[str, ...]
    labels: np.ndarray = field(repr=False, compare=False)
    patients: tuple[str, ...]
    sources: tuple[str, ...]
    sexes: tuple[str, ...]
    ages: np.ndarray = field(repr=False, compare=False)
    views: tuple[str, ...]
    splits: tuple[str, ...]
    boxes: Mapping[str, tuple[Box, ...]] = field(repr=False, compare=False)
    parts: Mapping[str, Entries] = field(repr=False, compare=False)
    rows: tuple[int, ...] = field(repr=False, compare=False)
    mapping: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def find(self, rows: Sequence[int]) -> list[Path | None]:
        """The path of each film of these rows; None for a film that is missing."""
        found: dict[int, Path | None] = {}
        for label, entries in self.parts.items():
            own = [row for row in rows if self.sources[row] == label]
            found |= dict(zip(own, entries.find([self.rows[row] for row in own]), strict=True))
        return [found[row] for row in rows]

    def about(self) -> str:
        """The mapping and the notes, as text."""
        return "\n".join(filter(None, (self.mapping, *self.notes)))


@dataclass(frozen=True)
class Counts:
    """The counts of one source: films, patients and, int (findings,), known labels and positive ones."""

    films: int
    patients: int
    known: np.ndarray
    positives: np.ndarray


def count_by_source(sources: Sequence[str], patients: Sequence[str], labels: np.ndarray) -> dict[str, Counts]:
    """The counts by source; `sources` and `patients` have one item per film, `labels` is float32 (films, findings)."""
    counts = {}
    for source in dict.fromkeys(sources):
        rows = [row for row, name in enumerate(sources) if name == source]
        own = labels[rows]
        people = len({patients[row] for row in rows})
        counts[source] = Counts(len(rows), people, (~np.isnan(own)).sum(axis=0), (own == 1).sum(axis=0))
    return counts


def combine(
    sources: Mapping[str, Entries], findings: Sequence[str] = (), uncertain: Uncertain | None = None,
    frontal: bool = True,
) -> Collection:  # fmt: skip
    """Combines the films of all sources into one set with common findings.

    Args:
      sources: entries by the label of their source.
      findings: the run's findings, in order; empty: see `labels.choose_findings`.
      uncertain: what -1 means.
      frontal: whether to leave out films whose view is known and neither PA nor AP.

    Raises:
      ConfigError: a finding is named twice, or none is named and the sources have more than 64.
      DataError: a source labels none of the findings, or no source labels one of them; or see `labels.align`.
    """
    findings = _check_findings(findings, list(sources.values()))
    notes: list[str] = []
    kept: dict[str, Entries] = {}
    for label, entries in sources.items():
        if not any(match_findings(entries.findings, findings).values()):
            raise DataError(
                f"{label} labels none of the findings {first_ten(findings)}; it has {first_ten(entries.findings)}"
            )
        notes += [f"{label}: {note}" for note in entries.notes]
        kept[label] = _frontal(label, entries, notes) if frontal else entries
    kept = _with_shared_patients(kept, notes)
    for finding in findings:
        if not any(match_findings(entries.findings, (finding,))[finding] for entries in kept.values()):
            known = choose_findings([entries.findings for entries in kept.values()])
            raise DataError(f"no source labels {printable(finding)[:80]!r}; there are {first_ten(known)}")
    counts = Counter(name for entries in kept.values() for name in entries.names)
    names = {
        label: tuple(name if counts[name] == 1 else f"{label}/{name}" for name in entries.names)
        for label, entries in kept.items()
    }
    several = len({entries.population for entries in kept.values()}) > 1
    labels = np.concatenate([align(entries, findings, uncertain) for entries in kept.values()])
    notes += _one_class(findings, labels)
    return Collection(
        findings=findings,
        names=tuple(name for own in names.values() for name in own),
        labels=labels,
        patients=tuple(
            f"{entries.population}:{patient}" if several else patient
            for entries in kept.values()
            for patient in entries.patients
        ),
        sources=tuple(label for label, entries in kept.items() for _ in entries.names),
        sexes=tuple(sex for entries in kept.values() for sex in entries.sexes),
        ages=np.concatenate([entries.ages for entries in kept.values()]),
        views=tuple(view for entries in kept.values() for view in entries.views),
        splits=tuple(split for entries in kept.values() for split in entries.splits),
        boxes=_boxes(kept, names, findings),
        parts=kept,
        rows=tuple(row for entries in kept.values() for row in range(len(entries))),
        mapping=describe_mapping({label: entries.findings for label, entries in kept.items()}, findings),
        notes=tuple(notes),
    )


def _check_findings(findings: Sequence[str], sources: Sequence[Entries]) -> tuple[str, ...]:
    if not findings:
        findings = choose_findings([entries.findings for entries in sources])
        if len(findings) > MANY:
            raise ConfigError(
                f"{sources[0].source} has {len(findings)} findings of its own; name the ones that are meant\n"
                f"such as --config.data.findings=Atelectasis,Effusion (--findings); it has {first_ten(findings)}"
            )
    by_meaning: dict[str, str] = {}
    for finding in findings:
        if (other := by_meaning.setdefault(spelled(preferred_name(finding)), finding)) is not finding:
            raise ConfigError(f"two findings are one: {printable(other)[:80]!r} and {printable(finding)[:80]!r}")
    return tuple(findings)


def _frontal(label: str, entries: Entries, notes: list[str]) -> Entries:
    frontal = {view for view in set(entries.views) if _FRONTAL.fullmatch(view)}
    rows = [row for row, view in enumerate(entries.views) if view in frontal]
    if len(rows) == len(entries):
        return entries
    if not rows:
        raise DataError(f"{label} has no frontal film; its views are {first_ten(sorted(set(entries.views)))}")
    others = len(entries) - len(rows)
    notes.append(f"{label}: {others} films of other views than PA and AP are left out (data.films=all keeps them)")
    return entries.take(rows)


def _with_shared_patients(sources: Mapping[str, Entries], notes: list[str]) -> dict[str, Entries]:
    """The sources, a table of another's films with the patients of that other: none may be on both sides of a split."""
    found = dict(sources)
    for label, entries in sources.items():
        for other, its in sources.items():
            if entries.source == "table" and its.source != "table" and (same := _with_patients_of(entries, its)):
                found[label] = same
                notes.append(
                    f"{label}: its films are films of {other}, too, so their patients are taken to be the same"
                )
                break
    return found


def _with_patients_of(table: Entries, other: Entries) -> Entries | None:
    """The table's films with the other source's patients, if films of one name show the same person; else None."""
    row_of = {PurePosixPath(name).name: row for row, name in enumerate(other.names)}
    common = {row: row_of[key] for row, name in enumerate(table.names) if (key := PurePosixPath(name).name) in row_of}

    def is_same(row: int, its: int) -> bool:
        facts = {
            "sex": (table.sexes[row], other.sexes[its]),
            "age": (str(int(table.ages[row])), str(int(other.ages[its]))),
            "view": (table.views[row], other.views[its]),
        }
        if table.patients[row] != table.names[row]:  # a table without patients has film names there
            facts["patient"] = (patient_number(table.patients[row]), patient_number(other.patients[its]))
        return is_same_film(facts)

    same = {row: its for row, its in common.items() if is_same(row, its)}
    if not common or len(same) < AGREEMENT * len(common):
        return None
    by_number = {patient_number(patient): patient for patient in other.patients}
    patients = [by_number.get(patient_number(patient), patient) for patient in table.patients]
    for row, its in same.items():
        patients[row] = other.patients[its]
    return replace(table, patients=tuple(patients), population=other.population)


def _one_class(findings: Sequence[str], labels: np.ndarray) -> list[str]:
    """Notes on findings with one class only, which can be neither learned nor evaluated."""
    notes = []
    for k, finding in enumerate(findings):
        known = labels[~np.isnan(labels[:, k]), k]
        if not len(known):
            notes.append(f"{printable(finding)}: not one label is known")
        elif (known > 0.5).all() or (known <= 0.5).all():
            notes.append(f"{printable(finding)}: all {len(known)} known labels are {'1' if known[0] > 0.5 else '0'}")
    return notes


def _boxes(
    parts: Mapping[str, Entries], names: Mapping[str, tuple[str, ...]], findings: Sequence[str]
) -> dict[str, tuple[Box, ...]]:
    """The boxes by film name, each under the first of `findings` that its name means; other boxes are dropped."""
    found: dict[str, tuple[Box, ...]] = {}
    for label, entries in parts.items():
        own = {box.finding for boxes in entries.boxes.values() for box in boxes}
        meaning = {name: finding for finding, all_ in match_findings(sorted(own), findings).items() for name in all_}
        for name, new in zip(entries.names, names[label], strict=True):
            boxes = entries.boxes.get(name, ())
            kept = tuple(replace(box, finding=meaning[box.finding]) for box in boxes if box.finding in meaning)
            if kept:
                found[new] = kept
    return found
