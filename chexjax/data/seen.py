"""Films that a run was trained on: it is not tested on them, whichever data set they appear in.

The RSNA's and Google's films are part of the NIH's. But every hospital numbers its patients from 1, and simulated films
have names like the NIH's: two films count as one if their names agree, and so does all else that both tables know. Ages
may differ by a year: the two editions of the NIH's table do, for two films in five.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from ml_collections import ConfigDict

from chexjax.data.recipe import find_prepared
from chexjax.data.sources.entries import AGREEMENT, is_same_film, patient_number
from chexjax.data.sources.gather import named_sources
from chexjax.data.sources.merge import Collection
from chexjax.data.sources.splits import FOLDS
from chexjax.data.sources.tables import read_table
from chexjax.errors import ConfigError
from chexjax.files import text_of
from chexjax.findings import FILM

TABLE: Final = "films.csv"  # of a prepared set
_FACTS: Final = ("sex", "age", "view")


@dataclass(frozen=True)
class Seen:
    """The films of a run: for each, by name, its patient, its part of the split, and its sex, age and view.

    `populations` says whose patient numbers they are; see `entries.Entries`.
    """

    patients: Mapping[str, str]
    parts: Mapping[str, str]
    facts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    populations: frozenset[str] = frozenset()

    @property
    def learned(self) -> frozenset[str]:
        """The films that trained the run or chose its best checkpoint."""
        return frozenset(name for name, part in self.parts.items() if part in ("train", "val"))


def read_seen(workdir: Path, config: ConfigDict, digest: str) -> Seen | None:
    """The films of the run in `workdir`, from its prepared set or its `folds.csv`; None if neither exists any more.

    Args:
      config: the run's `config.data`.
      digest: that of its films, from the checkpoint; "" if it has none.

    Raises:
      DataError: the table is broken.
    """
    tables = [path / TABLE for path in (find_prepared(config, digest) if digest else [])] + [workdir / FOLDS]
    path = next((path for path in tables if path.is_file()), None)
    if path is None:
        return None
    table = read_table(path, (FILM, "Patient ID"), ("split", "fold", *_FACTS))
    names = [text_of(name) for name in table[FILM]]
    facts = zip(*(table.get(fact) for fact in _FACTS), strict=True)
    return Seen(
        patients=dict(zip(names, map(patient_number, map(text_of, table["Patient ID"])), strict=True)),
        parts=dict(zip(names, table["split" if "split" in table else "fold"], strict=True)),
        facts=dict(zip(names, (tuple(map(text_of, row)) for row in facts), strict=True)),
        populations=_populations(config),
    )


def _populations(config: ConfigDict) -> frozenset[str]:
    """Those of real films; simulated films share no patient with any source."""
    try:
        names = {name for name, _, _ in named_sources(config).values()}
    except (AttributeError, ConfigError):  # imported weights have no such fields
        return frozenset()
    return frozenset("nih" if name == "chestxray14" else name for name in names - {"phantom"})


def find_seen(films: Collection, rows: Sequence[int], seen: Seen) -> tuple[list[int], list[str]]:
    """Which of `rows` show a patient that the run was trained on, and notes for the reader."""
    own, theirs = _keys([films.names[row] for row in rows]), _keys(list(seen.patients))
    if own is None or theirs is None:  # files of one name in different folders
        own, theirs = {films.names[row]: films.names[row] for row in rows}, {name: name for name in seen.patients}
    named = {theirs[key]: row for row, key in zip(rows, own, strict=True) if key in theirs}
    agreeing = [name for name, row in named.items() if _agrees(seen, name, films, row)]
    if named and len(agreeing) < AGREEMENT * len(named):
        notes = [
            f"{len(named):,} films have the names of films of the run, but by sex, age and view they show other "
            "patients: they are kept"
        ]
        return [], notes
    learned = seen.learned
    patients = {seen.patients[name] for name in learned}
    shared = {entries.population for entries in films.parts.values()} & seen.populations
    by_number_alone = not named and shared <= {"table"}  # two tables may be two hospitals', which both count from 1
    if by_number_alone and not (shared and _have_their_sexes(seen, films, rows)):
        return [], []
    out = []
    for row, key in zip(rows, own, strict=True):
        is_own_patient = films.patients[row] == films.names[row]  # a table without patients
        known = not is_own_patient and patient_number(films.patients[row]) in patients
        if known or theirs.get(key) in learned:
            out.append(row)
    if not out:
        return [], []
    if by_number_alone:
        why = (
            "their patients have the numbers of patients whose films trained the run or chose its best checkpoint; "
            "if they are other people, give them other numbers in the table, such as B-12"
        )
    else:
        why = "they show patients whose films trained the run or chose its best checkpoint"
    return out, [f"{len(out):,} films are left out: {why}"]


def _have_their_sexes(seen: Seen, films: Collection, rows: Sequence[int]) -> bool:
    """Whether patients that have the number of one of the run's are of the same sex, as far as both are known."""
    sex_of = {seen.patients[name]: facts[0] for name, facts in seen.facts.items() if facts and facts[0]}
    pairs = [(sex_of.get(patient_number(films.patients[row]), ""), films.sexes[row]) for row in rows]
    known = [(theirs, ours) for theirs, ours in pairs if theirs and ours]
    return sum(theirs == ours for theirs, ours in known) >= AGREEMENT * len(known)


def _keys(names: Sequence[str]) -> dict[str, str] | None:
    """The names by file name without folders, in order; None if two files in different folders share one."""
    keys = {PurePosixPath(name).name: name for name in names}
    return keys if len(keys) == len(names) else None


def _agrees(seen: Seen, name: str, films: Collection, row: int) -> bool:
    """Whether a film of the run and one to be tested are the same; see `entries.is_same_film`."""
    ours = (films.sexes[row], str(int(films.ages[row])), films.views[row])
    pairs = dict(zip(_FACTS, zip(seen.facts.get(name, ()), ours, strict=False), strict=False))
    if films.patients[row] != films.names[row]:
        pairs["patient"] = (seen.patients[name], patient_number(films.patients[row]))
    return is_same_film(pairs)
