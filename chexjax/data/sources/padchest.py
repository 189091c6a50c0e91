"""PadChest (Bustos et al., Medical Image Analysis 2020): 160,861 films of 67,000 patients, 193 terms of findings.

Files, as BIMCV gives them:

| file | what it gives |
|---|---|
| `PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv` | `ImageID`, `PatientID`, `Labels` and more; .gz, too |
| `0/`, `1/` ... `54/`, or one folder | the films, PNG of 16 bits; `images-224/` in the resized set |

`Labels` is the text of a Python list, `['pleural effusion', 'scoliosis']`: the terms in it are present, all others
absent. It is parsed, never evaluated. Left out are films with the term `exclude`, without a list, or with no other term
than `unchanged` (since an earlier film) and `suboptimal study`, which say nothing of the findings. Empty terms are
ignored. The terms `normal`, `unchanged` and `suboptimal study` are not findings. `chexjax.data.labels` maps narrower
terms ("laminar atelectasis") onto wider ones.
"""

import re
from collections import Counter
from typing import Final

import numpy as np

from chexjax.data.sources.entries import UNKNOWN_AGE, Entries, Request, check_folder, need
from chexjax.data.sources.tables import (
    check_unique,
    film_names,
    parse_age,
    printable,
    read_table,
    require,
    sexes,
    texts,
)
from chexjax.errors import DataError

FILE: Final = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
NO_FINDINGS: Final = frozenset(("", "normal", "unchanged", "suboptimal study", "exclude"))
_SILENT: Final = frozenset(("unchanged", "suboptimal study"))
_TERM: Final = r"'[^'\\]*'|\"[^\"\\]*\""
_LIST: Final = re.compile(rf"\[\s*(?:(?:{_TERM})\s*(?:,\s*(?:{_TERM})\s*)*)?\]")
_VIEWS: Final = {"AP_horizontal": "AP", "UNK": ""}


def read(request: Request) -> Entries:
    """The films whose labels are known.

    Raises:
      DataError: the table is missing or broken, or a cell of `Labels` is not a list.
    """
    folder = request.folder
    check_folder(folder, "padchest", "the unpacked PadChest")
    table = read_table(
        request.table or need(folder, "padchest", (FILE, "PADCHEST.csv")),
        ("ImageID", "PatientID", "Labels"),
        ("PatientSex_DICOM", "PatientBirth", "StudyDate_DICOM", "Projection"),
    )
    names = film_names(table, "ImageID")
    check_unique(table, names)
    terms_of: dict[str, tuple[str, ...]] = {"": ("exclude",), "nan": ("exclude",)}
    for row, text in enumerate(table["Labels"]):
        if text not in terms_of:
            if not _LIST.fullmatch(text):
                raise table.error(row, f"column 'Labels' is not a list of terms: {printable(text[:80])!r}")
            terms_of[text] = tuple(term[1:-1].strip() for term in re.findall(_TERM, text))
    lists = [terms_of[text] for text in table["Labels"]]
    silent = {terms for terms in set(lists) if "exclude" in terms or set() < set(terms) - {""} <= _SILENT}
    kept = [row for row, terms in enumerate(lists) if terms not in silent]
    counts = Counter(term for row in kept for term in lists[row] if term not in NO_FINDINGS)
    findings = tuple(sorted(counts))
    if not findings:
        raise DataError(f"{printable(table.path)} lists no finding")
    column = {term: k for k, term in enumerate(findings)}
    labels = np.zeros((len(kept), len(findings)), np.float32)
    pairs = [(k, column[term]) for k, row in enumerate(kept) for term in lists[row] if term in column]
    labels[tuple(np.array(pairs).T)] = 1.0
    patients, sex, views = (
        require(table, "PatientID"),
        sexes(table.get("PatientSex_DICOM")),
        texts(table.get("Projection")),
    )
    left_out = len(names) - len(kept)
    return Entries(
        source="padchest",
        folder=folder,
        findings=tuple(map(printable, findings)),
        names=tuple(names[row] for row in kept),
        files=tuple(names[row] for row in kept),
        labels=labels,
        patients=tuple(patients[row] for row in kept),
        sexes=tuple(sex[row] for row in kept),
        ages=_ages(table.get("StudyDate_DICOM"), table.get("PatientBirth"))[kept],
        views=tuple(_VIEWS.get(views[row], views[row]) for row in kept),
        film_folders=("[0-9]", "[0-9][0-9]", "images*", ""),
        notes=(f"{left_out} films marked 'exclude', or without labels of findings, are left out",) if left_out else (),
    )


def _ages(dates: list[str], births: list[str]) -> np.ndarray:
    """Years from the year of birth to the year of the study, int16; -1 if either is unknown."""
    years = []
    for date, birth in zip(dates, births, strict=True):
        studied, born = re.match(r"(?:19|20)\d\d", date, re.ASCII), re.match(r"(?:19|20)\d\d", birth, re.ASCII)
        years.append(parse_age(str(int(studied[0]) - int(born[0]))) if studied and born else UNKNOWN_AGE)
    return np.array(years, np.int16)
