"""Open-i, the Indiana University collection (Demner-Fushman et al., JAMIA 2016): 7,470 films of 3,955 reports.

Files, as the National Library of Medicine gives them:

| file | what it gives |
|---|---|
| `NLMCXR_reports.tgz`, or unpacked: `ecgen-radiology/1.xml` ... `3999.xml` | a report with its films and terms |
| `NLMCXR_png/CXR1_1_IM-0001-3001.png`, or beside the reports | the films |
| `nlmcxr_dicom_metadata.csv` | optional, as torchxrayvision ships it: `imageid`, `View Position` |

The findings are the terms that the Medical Text Indexer found in the report (`MeSH/automatic`), in lower case, as
torchxrayvision reads them: present if the report has the term, absent otherwise. Each report counts as one patient.
"""

import tarfile
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from chexjax.data.sources.entries import Entries, Request, check_folder, elsewhere, look_for, refuse_twice
from chexjax.data.sources.tables import is_film_name, read_table, texts
from chexjax.errors import DataError, printable, reason_of

ARCHIVE: Final = "NLMCXR_reports.tgz"
FOLDERS: Final = ("ecgen-radiology", "NLMCXR_reports/ecgen-radiology", "reports")
_VIEWS: Final = "nlmcxr_dicom_metadata.csv"
_MAX_REPORT: Final = 2**20  # bytes; the largest has 2 % of that
_MAX_REPORTS: Final = 100_000


def read(request: Request) -> Entries:
    """The films of all reports.

    Raises:
      DataError: there are no reports, or one cannot be read.
    """
    folder = request.folder
    check_folder(folder, "openi", "the unpacked Open-i films with NLMCXR_reports.tgz")
    names: list[str] = []
    patients: list[str] = []
    terms_of: list[tuple[str, ...]] = []
    source = request.table or _reports(folder)
    for where, text in _texts(source):
        uid, terms, films = _parse(where, text)
        names += films
        patients += [uid] * len(films)
        terms_of += [terms] * len(films)
    if len(set(names)) < len(names):
        refuse_twice(printable(source), sorted({name for name in names if names.count(name) > 1}))
    findings = tuple(sorted({term for terms in terms_of for term in terms}))
    if not findings:
        raise DataError(f"{printable(source)}: the reports name no films or no findings")
    column_of = {finding: k for k, finding in enumerate(findings)}
    labels = np.zeros((len(names), len(findings)), np.float32)
    for row, terms in enumerate(terms_of):
        labels[row, [column_of[term] for term in terms]] = 1.0
    views: dict[str, str] = {}
    if path := look_for(folder, (_VIEWS,)):
        table = read_table(path, ("imageid", "View Position"))
        views = dict(zip(table["imageid"], texts(table["View Position"]), strict=True))
    return Entries(
        source="openi",
        folder=folder,
        findings=findings,
        names=tuple(f"{name}.png" for name in names),
        files=tuple(names),
        labels=labels,
        patients=tuple(patients),
        views=tuple(views.get(name, "") for name in names),
        film_folders=("NLMCXR_png", "images", "", "NLMCXR_reports"),
        suffixes=(".png", ".jpg", ".jpeg", ".dcm"),
        notes=() if views else (f"lateral films are among them, and cannot be told apart without {_VIEWS}",),
    )


def _reports(folder: Path) -> Path:
    for name in FOLDERS:
        if (folder / name).is_dir():
            return folder / name
    if (folder / ARCHIVE).is_file():
        return folder / ARCHIVE
    way = elsewhere(folder, (ARCHIVE, FOLDERS[0]))
    raise DataError(f"{folder} lacks {ARCHIVE} or {FOLDERS[0]}/, which the source 'openi' reads{way}")


def _texts(source: Path) -> Iterator[tuple[str, bytes]]:
    """The name and text of each report in a folder or a tar file; nothing is unpacked to disk."""
    where = printable(source)
    try:
        if source.is_dir():
            paths = sorted(source.glob("*.xml"))
            for path in paths[:_MAX_REPORTS]:
                with path.open("rb") as file:
                    yield printable(path), file.read(_MAX_REPORT + 1)
            return
        with tarfile.open(source, "r:*") as archive:
            for count, member in enumerate(archive):
                if count > _MAX_REPORTS:
                    raise DataError(f"{where} holds more than {_MAX_REPORTS} files")
                if member.name.endswith(".xml") and (report := archive.extractfile(member)):
                    yield f"{where}, {printable(member.name[:80])}", report.read(_MAX_REPORT + 1)
    except FileNotFoundError:
        raise DataError(f"{where} does not exist") from None
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{where} cannot be read: {reason_of(error)}") from None


def _parse(where: str, text: bytes) -> tuple[str, tuple[str, ...], list[str]]:
    """The report's number, its terms and its films.

    Raises:
      DataError: the text is not a report.
    """
    if len(text) > _MAX_REPORT or b"<!DOCTYPE" in text or b"<!ENTITY" in text:  # an entity may expand to gigabytes
        raise DataError(f"{where}: not a report of the collection")
    try:
        root = ET.fromstring(text)
    except (ET.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{where}: not XML: {reason_of(error)}") from None
    uid = root.find("uId")
    number = "" if uid is None else printable(uid.get("id", "").strip())
    if not number:
        raise DataError(f"{where}: a report without a number (uId)")
    films = [image.get("id", "").strip() for image in root.iterfind(".//parentImage")]
    if bad := [film for film in films if not is_film_name(film)]:
        raise DataError(f"{where}: no usable name of a film: {printable(bad[0][:80])!r}")
    found = {printable((term.text or "").strip().lower()) for term in root.iterfind(".//MeSH/automatic")}
    return number, tuple(sorted(found - {""})), films
