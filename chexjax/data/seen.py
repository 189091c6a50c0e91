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
from chexjax.data.sources.gather import named_sources
from chexjax.data.sources.merge import Collection
from chexjax.data.sources.splits import FOLDS
from chexjax.data.sources.tables import read_table
from chexjax.errors import ConfigError
from chexjax.files import text_of
from chexjax.findings import FILM

TABLE: Final = "films.csv"  # of a prepared set
_FACTS: Final = ("sex", "age", "view")
_UNKNOWN: Final = ("", "-1")
_YEARS: Final = 1
_AGREEMENT: Final = 0.9  # views of one film, too, differ in a few rows between the editions of the NIH's table


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
        patients=dict(zip(names, map(_number, map(text_of, table["Patient ID"])), strict=True)),
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
    if named and len(agreeing) < _AGREEMENT * len(named):
        notes = [
            f"{len(named):,} films have the names of films of the run, but by sex, age and view they show other "
            "patients: they are kept"
        ]
        return [], notes
    populations = {entries.population for entries in films.parts.values()}
    if not named and not populations & seen.populations:
        return [], []
    learned = seen.learned
    patients = {seen.patients[name] for name in learned}
    out = []
    for row, key in zip(rows, own, strict=True):
        is_own_patient = films.patients[row] == films.names[row]  # a table without patients
        known = not is_own_patient and _number(films.patients[row]) in patients
        if known or theirs.get(key) in learned:
            out.append(row)
    if not out:
        return [], []
    return out, [
        f"{len(out):,} films are left out: they show patients whose films trained the run or chose its best checkpoint"
    ]


def _keys(names: Sequence[str]) -> dict[str, str] | None:
    """The names by file name without folders, in order; None if two files in different folders share one."""
    keys = {PurePosixPath(name).name: name for name in names}
    return keys if len(keys) == len(names) else None


def _number(patient: str) -> str:
    """A patient's number without its population and leading zeros."""
    return patient.rpartition(":")[2].lstrip("0") or "0"


def _agrees(seen: Seen, name: str, films: Collection, row: int) -> bool:
    """Whether nothing that both tables know of a film differs, save its age by a year."""
    ours = (films.sexes[row], str(int(films.ages[row])), films.views[row])
    pairs = dict(zip(_FACTS, zip(seen.facts.get(name, ()), ours, strict=False), strict=False))
    if films.patients[row] != films.names[row]:
        pairs["patient"] = (seen.patients[name], _number(films.patients[row]))
    known = {fact: pair for fact, pair in pairs.items() if not set(pair) & set(_UNKNOWN)}
    return all(a == b or (fact == "age" and _near(a, b)) for fact, (a, b) in known.items())


def _near(age: str, other: str) -> bool:
    return age.isdecimal() and other.isdecimal() and abs(int(age) - int(other)) <= _YEARS
