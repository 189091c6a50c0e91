"""MIMIC-CXR-JPG (Johnson et al., 2019; PhysioNet): 377,110 films of 65,379 patients, CheXpert's observations.

Files, as PhysioNet gives them (versions 2.0.0 and 2.1.0 use the same names):

| file | what it gives |
|---|---|
| `mimic-cxr-2.0.0-chexpert.csv.gz` | `subject_id`, `study_id`, then the observations: 1, 0, -1 (uncertain) or empty |
| `mimic-cxr-2.0.0-metadata.csv.gz` | `dicom_id`, `subject_id`, `study_id`, `ViewPosition` |
| `mimic-cxr-2.0.0-split.csv.gz` | `dicom_id`, `split`: train, validate or test |
| `files/p10/p10000032/s50414267/02aa804e-....jpg` | the films; `files` itself may be the folder, too |

The labels of NegBio (`mimic-cxr-2.0.0-negbio.csv.gz`), of the same form, are read with `data.table`. Labels belong to
studies; each film of a study has them. Empty cells and `No Finding` are read as in `chexpert`. Films of the few
studies without a row are left out. A film is named `DICOM_ID.jpg`.
"""

import re
from typing import Final

from chexjax.data.sources.chexpert import NO_FINDING, OBSERVATIONS, observations
from chexjax.data.sources.entries import Entries, Request, check_folder, need
from chexjax.data.sources.tables import Table, check_unique, film_names, printable, read_table, texts
from chexjax.errors import DataError

_FILE: Final = "mimic-cxr-2.0.0-{}.csv"
_SPLITS: Final = {"train": "train", "validate": "val", "test": "test"}
_NUMBER: Final = re.compile(r"\d{1,12}", re.ASCII)


def read(request: Request) -> Entries:
    """The films in the metadata table whose study has labels.

    Raises:
      DataError: one of the three tables is missing or broken, or lacks a film that another lists.
    """
    folder = request.folder
    check_folder(folder, "mimic", "the unpacked MIMIC-CXR-JPG")
    labels = read_table(
        request.table or need(folder, "mimic", (_FILE.format("chexpert"),)),
        ("subject_id", "study_id", *OBSERVATIONS),
        (NO_FINDING,),
    )
    films = read_table(
        need(folder, "mimic", (_FILE.format("metadata"),)), ("dicom_id", "subject_id", "study_id"), ("ViewPosition",)
    )
    splits = read_table(need(folder, "mimic", (_FILE.format("split"),)), ("dicom_id", "split"))
    for table in (labels, films):
        _check_numbers(table)
    check_unique(labels, labels["study_id"])
    names = film_names(films, "dicom_id")
    check_unique(films, names)
    row_of = {study: row for row, study in enumerate(labels["study_id"])}
    kept = [row for row, study in enumerate(films["study_id"]) if study in row_of]
    if not kept:
        raise DataError(f"{printable(films.path)} and {printable(labels.path)} have no study in common")
    parts = _parts(splits)
    for row in kept:
        if names[row] not in parts:
            raise films.error(row, f"{printable(splits.path)} does not have the film {printable(names[row][:80])!r}")
    subjects, studies = films["subject_id"], films["study_id"]
    root = "" if (folder / f"p{subjects[kept[0]][:2]}").is_dir() else "files/"
    left_out = len(names) - len(kept)
    views = texts(films.get("ViewPosition"))
    return Entries(
        source="mimic",
        folder=folder,
        findings=OBSERVATIONS,
        names=tuple(f"{names[row]}.jpg" for row in kept),
        files=tuple(f"{root}p{subjects[k][:2]}/p{subjects[k]}/s{studies[k]}/{names[k]}.jpg" for k in kept),
        labels=observations(labels)[[row_of[studies[row]] for row in kept]],
        patients=tuple(subjects[row] for row in kept),
        views=tuple(views[row] for row in kept),
        splits=tuple(parts[names[row]] for row in kept),
        notes=(f"{left_out} films of studies without labels are left out",) if left_out else (),
    )


def _check_numbers(table: Table) -> None:
    """Refuses subjects and studies that are not numbers: paths are built from them."""
    for column in ("subject_id", "study_id"):
        good = {text for text in set(table[column]) if _NUMBER.fullmatch(text)}
        for row, text in enumerate(table[column]):
            if text not in good:
                raise table.error(row, f"{printable(text[:80])!r} in column {column!r} is not a number")


def _parts(splits: Table) -> dict[str, str]:
    for row, split in enumerate(splits["split"]):
        if split not in _SPLITS:
            raise splits.error(row, f"split {printable(split[:80])!r} is none of {', '.join(_SPLITS)}")
    return dict(zip(splits["dicom_id"], (_SPLITS[split] for split in splits["split"]), strict=True))
