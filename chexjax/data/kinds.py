"""What the files of a folder are: films, other things, or unreadable. Their content says so, not their names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from chexjax.data import dicom, images
from chexjax.data.dicom_header import SIZES, begins_as_dicom, read_start, silent_pydicom
from chexjax.errors import DataError

Kind = Literal["film", "no film", "unreadable"]
_STARTS: Final = ((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"))
SUFFIXES: Final = (*images.SUFFIXES, *dicom.SUFFIXES)  # of films
_CLASSES: Final = "1.2.840.10008.5.1.4.1.1."
# SOP classes without a picture that could be a film, by how they begin. Source: DICOM PS3.4, B.5, and PS3.6, A.
_NO_FILMS: Final = {
    "1.2.840.10008.1.3.10": "DICOMDIR",
    f"{_CLASSES}88.": "structured report",
    f"{_CLASSES}11.": "presentation state",
    f"{_CLASSES}104.1": "PDF",
    f"{_CLASSES}104.": "document",
    f"{_CLASSES}9.": "waveform",
    f"{_CLASSES}66": "segmentation or raw data",
    f"{_CLASSES}481.": "radiotherapy",
}


@dataclass(frozen=True)
class FileKind:
    """What a file is.

    Attributes:
      kind: `film`, if it is worth reading; `no film`; `unreadable`, if it should have been a film.
      what: a short phrase of ours: PNG, structured report, DICOM without pixels, ...
    """

    kind: Kind
    what: str


def classify(path: Path) -> FileKind:
    """What a file is, by its first bytes and, of a DICOM file, by its header. Never raises; only opens plain files.

    A film may turn out to be broken when it is read; of a DICOM file the pixels are not looked at.
    """
    ours = path.suffix.lower() in SUFFIXES
    try:
        if not path.is_file():
            return FileKind("no film", "no file")
        with path.open("rb") as file:
            start = file.read(132)
    except (OSError, ValueError):
        return FileKind("unreadable", "cannot be opened")
    for magic, what in _STARTS:
        if start.startswith(magic):
            return FileKind("film", what)
    if not begins_as_dicom(start):
        return FileKind("unreadable", "no film, though its name says so") if ours else FileKind("no film", "no picture")
    try:
        silent_pydicom()
    except ImportError:
        return FileKind("film", "DICOM")  # reading it says what to install
    try:
        header = read_start(path)
    except DataError:
        return FileKind("unreadable", "a broken DICOM header")
    for beginning, what in _NO_FILMS.items():
        if header.sop_class.startswith(beginning):
            return FileKind("no film", what)
    if not any(header.word(name) for name in SIZES):  # of a film that lacks some, reading names what it lacks
        return FileKind("no film", "DICOM without pixels")
    return FileKind("film", "DICOM")
