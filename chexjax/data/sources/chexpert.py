"""CheXpert (Irvin et al., AAAI 2019): 224,316 films of 65,240 patients, 14 observations extracted from reports.

Files, as Stanford and Kaggle give them (`CheXpert-v1.0` or `CheXpert-v1.0-small`, or the folder above it):

| file | what it gives |
|---|---|
| `train.csv` | `Path`, `Sex`, `Age`, `Frontal/Lateral`, `AP/PA`, then the observations: 1, 0, -1 (uncertain) or empty |
| `valid.csv` | the same for the 234 films that three radiologists read; the part "test" where there is no test table |
| `test.csv`, `test_labels.csv` | the test films, without sex, age and view; optional |
| `train/patient00001/study1/view1_frontal.jpg` | the films |

An empty cell means that the report does not mention the observation: it is not known (NaN). If `No Finding` is 1, the
other observations are absent (0), as the labeller defines it (section "Labeler"), except `Support Devices`, which it
ignores. `No Finding` itself is not a finding here. A film is named by its path: `train/patient00001/...`.
"""

import re
from typing import Final

import numpy as np

from chexjax.data.sources.entries import TRAIN_VAL, Entries, Request, check_folder, look_for, need
from chexjax.data.sources.tables import (
    Table,
    ages,
    check_unique,
    film_paths,
    label_columns,
    printable,
    read_table,
    sexes,
    texts,
)
from chexjax.errors import DataError

NO_FINDING: Final = "No Finding"
DEVICES: Final = "Support Devices"
OBSERVATIONS: Final = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    DEVICES,
)
_INNER: Final = ("", "CheXpert-v1.0", "CheXpert-v1.0-small")
_PATIENT: Final = re.compile(r"patient\d+", re.ASCII)
_AHEAD: Final = re.compile(r"^/*CheXpert[^/]*/")


def read(request: Request) -> Entries:
    """The films of all three tables.

    Raises:
      DataError: `train.csv` is missing, or a table is broken.
    """
    check_folder(request.folder, "chexpert", "the unpacked CheXpert-v1.0 or CheXpert-v1.0-small")
    folders = [request.folder / name for name in _INNER if look_for(request.folder / name, ("train.csv",))]
    folder = folders[0] if folders else request.folder
    tables = [(TRAIN_VAL, request.table or need(folder, "chexpert", ("train.csv",)))]
    test, valid = look_for(folder, ("test.csv", "test_labels.csv")), look_for(folder, ("valid.csv",))
    if valid:
        tables.append(("val" if test else "test", valid))
    if test:
        tables.append(("test", test))
        tables[0] = ("train" if valid else TRAIN_VAL, tables[0][1])
    parts = [(split, read_table(path, ("Path", *OBSERVATIONS), _ALSO)) for split, path in tables]
    paths = [film_paths(table, "Path", folder, lambda text: _AHEAD.sub("", text)) for _, table in parts]
    names: list[str] = []
    for (_, table), found in zip(parts, paths, strict=True):
        check_unique(table, found)
        names += found
    if len(set(names)) < len(names):
        raise DataError(f"{printable(folder)}: the tables of CheXpert list one film in two of them")
    return Entries(
        source="chexpert",
        folder=folder,
        findings=OBSERVATIONS,
        names=tuple(names),
        files=tuple(names),
        labels=np.concatenate([observations(table) for _, table in parts]),
        patients=tuple(
            patient for (_, table), found in zip(parts, paths, strict=True) for patient in _patients(table, found)
        ),
        sexes=sum((sexes(table.get("Sex")) for _, table in parts), ()),
        ages=np.concatenate([_ages(table) for _, table in parts]),
        views=sum((_views(table) for _, table in parts), ()),
        splits=sum(((split,) * len(table) for split, table in parts), ()),
    )


_ALSO: Final = (NO_FINDING, "Sex", "Age", "Frontal/Lateral", "AP/PA")


def observations(table: Table) -> np.ndarray:
    """The table's 13 observations, float32 (films, 13), absent where `No Finding` is 1."""
    labels = label_columns(table, OBSERVATIONS)
    if NO_FINDING in table:
        healthy = label_columns(table, (NO_FINDING,))[:, 0] == 1
        labels[np.ix_(healthy, [name != DEVICES for name in OBSERVATIONS])] = 0.0
    return labels


def _patients(table: Table, paths: list[str]) -> list[str]:
    found = [_PATIENT.search(path) for path in paths]
    for row, match in enumerate(found):
        if match is None:
            raise table.error(row, f"the path names no patient: {printable(paths[row][:200])!r}")
    return [match[0] for match in found if match]


def _ages(table: Table) -> np.ndarray:
    years = ages(table.get("Age"))
    years[years == 0] = -1  # all patients are adults; one film has no age, written 0
    return years


def _views(table: Table) -> tuple[str, ...]:
    """AP, PA, LL or RL; L for lateral films; from the film's name if the table has no such column."""
    if "Frontal/Lateral" not in table:
        return tuple("L" if "lateral" in path else "" for path in table["Path"])
    frontal, kinds = texts(table["Frontal/Lateral"]), texts(table.get("AP/PA"))
    return tuple("L" if side == "Lateral" else kind for side, kind in zip(frontal, kinds, strict=True))
