"""A DICOM file's header: the elements that a film needs, also from files that violate the standard in common ways.

| in the file | becomes |
|---|---|
| no preamble, no file meta, no transfer syntax | the encoding that the first element and the pixels imply |
| an empty number, or text in its place | absent; the film's verdict tells of text |
| a decimal comma | a decimal point |
| deflated | inflated, up to the size of the largest film |

Values are read from the raw bytes, element by element: a broken one does not affect the others, and no library's
message quotes it.
"""

import functools
import io
import logging
import math
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np

from chexjax.data.images import BYTES_A_PIXEL, max_pixels
from chexjax.errors import DataError, printable

MAGIC: Final = b"DICM"  # at byte 128
SIZES: Final = ("Rows", "Columns", "BitsAllocated")  # what every object with pixels has
EXPLICIT: Final = "1.2.840.10008.1.2.1"
BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_VRS: Final = "AE AS AT CS DA DS DT FL FD IS LO LT OB OD OF OL OW PN SH SL SQ SS ST TM UI UL UN US UT"
_UNDEFINED: Final = 0xFFFFFFFF
# No other element is loaded, so none can leak into a table, a picture or a message.
_TAGS: Final = (
    "SOPClassUID",
    "Modality",
    "PresentationIntentType",
    "AnatomicRegionSequence",
    "BodyPartExamined",
    "ViewPosition",
    "ViewCodeSequence",
    "PatientOrientation",
    "BurnedInAnnotation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PixelAspectRatio",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelIntensityRelationship",
    "PixelIntensityRelationshipSign",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "PresentationLUTShape",
    "PixelData",
)
_UIDS: Final = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


@functools.cache
def silence(modules: str) -> None:
    """Silences the warnings of the modules that a regular expression matches, for the rest of the process.

    Not by `warnings.catch_warnings`: of two threads that enter it, one puts the other's filters back. Nor anew in each
    call, which takes the filter away for a moment; only if someone has put one for all modules before it.
    """
    for action, _, category, module, _ in warnings.filters:
        if getattr(module, "pattern", module) == modules:
            return
        if module is None and action != "ignore" and issubclass(UserWarning, category):
            break
    warnings.filterwarnings("ignore", module=modules)


def silent_pydicom() -> Any:
    """pydicom, with its warnings silenced: they quote values of the header.

    Raises:
      ImportError: it is not installed.
    """
    import pydicom
    import pydicom.filereader
    import pydicom.pixels

    silence(r"pydicom(\.|$)")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    return pydicom


def begins_as_dicom(start: bytes) -> bool:
    """Whether a file's first 132 bytes are DICOM: they have the magic word or, without it, a header's first element."""
    if start[128:132] == MAGIC or start[:4] == MAGIC:
        return True
    if len(start) < 12 or start[:2] not in (b"\x02\0", b"\x08\0", b"\0\x08"):
        return False
    little = start[0] != 0
    element, length = (int.from_bytes(start[a:b], "little" if little else "big") for a, b in ((2, 4), (4, 8)))
    return element <= 0x0100 and (_is_vr(start[4:6]) or (little and length <= 128))


def _is_vr(two: bytes) -> bool:
    return two.isalpha() and two.decode("latin-1") in _VRS.split()


@dataclass(frozen=True)
class Header:
    """The elements of a film, or of one item of a sequence, as stored in the file.

    Attributes:
      elements: pydicom's raw elements by their tags.
      syntax: the transfer syntax's UID as the file meta states it; "" if it states none, or one that does not exist.
      stated_class: the SOP class that the file meta states.
    """

    elements: dict[int, Any]
    syntax: str = ""
    stated_class: str = ""

    @property
    def sop_class(self) -> str:
        """The SOP class UID; that of the file meta if the header has none."""
        return self.text("SOPClassUID") or self.stated_class

    def _element(self, keyword: str) -> Any:
        from pydicom.datadict import tag_for_keyword

        return self.elements.get(tag_for_keyword(keyword) or 0)

    def raw(self, keyword: str) -> bytes:
        """An element's bytes as stored in the file; b"" if it is absent or empty."""
        element = self._element(keyword)
        value = None if element is None else element.value
        return value if isinstance(value, bytes) else b""

    def texts(self, keyword: str) -> list[str]:
        """An element's values in capitals, without padding."""
        return [text.strip(" \0").upper() for text in self.raw(keyword).decode("latin-1").split("\\")]

    def text(self, keyword: str) -> str:
        """The first value; "" if there is none."""
        return self.texts(keyword)[0]

    def numbers(self, keyword: str) -> list[float]:
        """The values of an element stored as text (DS, IS), up to the first that is not a finite number."""
        found: list[float] = []
        for text in self.texts(keyword):
            try:
                found.append(float(text.replace(",", ".")))
            except ValueError:
                break
        return found[: next((k for k, value in enumerate(found) if not math.isfinite(value)), len(found))]

    def number(self, keyword: str) -> float | None:
        """The first of them; None where there is none."""
        return next(iter(self.numbers(keyword)), None)

    def words(self, keyword: str, signed: bool = False) -> list[int]:
        """The values of an element of 16-bit words (US, SS)."""
        raw = self.raw(keyword)
        kind = ("<" if self.is_little(keyword) else ">") + ("i2" if signed else "u2")
        return np.frombuffer(raw[: len(raw) // 2 * 2], kind).tolist()

    def word(self, keyword: str, signed: bool = False) -> int | None:
        """The first of them; None where there is none."""
        return next(iter(self.words(keyword, signed)), None)

    def is_little(self, keyword: str) -> bool:
        """Whether an element is little endian."""
        return bool(getattr(self._element(keyword), "is_little_endian", True))

    def vr(self, keyword: str) -> str:
        """The value representation that the file states; "" in implicit ones."""
        return getattr(self._element(keyword), "VR", None) or ""

    def is_encapsulated(self) -> bool:
        """Whether the pixels are stored in fragments, as compressed ones are: their length is undefined."""
        element = self._element("PixelData")
        return getattr(element, "length", 0) == _UNDEFINED or bool(getattr(element, "is_undefined_length", False))

    def items(self, keyword: str) -> list["Header"]:
        """The items of a sequence; [] if it is absent or broken."""
        from pydicom.dataelem import RawDataElement, convert_raw_data_element

        element = self._element(keyword)
        try:
            value = convert_raw_data_element(element).value if isinstance(element, RawDataElement) else element.value
            return [Header(_raw(item)) for item in value or []]
        except Exception:  # pydicom parses it only now, and has no family of exceptions
            return []


def _raw(dataset: Any) -> dict[int, Any]:
    tags = dataset.keys()  # the elements themselves would be converted
    return {int(tag): dataset.get_item(tag) for tag in tags}


def read_header(data: bytes, where: str) -> Header:
    """A DICOM file's header with its pixels; `where` names it in messages.

    Raises:
      DataError: it is no DICOM file, its elements cannot be told apart, or it inflates to more than any film has.
    """
    return _read(io.BytesIO(data), where, _TAGS, with_pixels=True)


def read_start(path: Path) -> Header:
    """The elements that say what kind of object a DICOM file is; the rest of the file is not read.

    Raises:
      DataError: see `read_header`; or the file cannot be opened.
    """
    return _read_path(path, ("SOPClassUID", *SIZES))


def read_uid_texts(path: Path) -> list[str]:
    """The UIDs of study, series and instance; "" for one that is absent or malformed.

    Raises:
      DataError: see `read_start`.
    """
    header = _read_path(path, _UIDS)
    return [_uid_of(header.text(name)) for name in _UIDS]


def _uid_of(text: str) -> str:
    return text if len(text) <= 64 and not text.strip("0123456789.") else ""


class Identity(NamedTuple):
    """The UIDs by which others refer to an object: of its class and of itself; "" where it has none."""

    sop_class: str = ""
    instance: str = ""


def read_identity(data: bytes, where: str) -> Identity:
    """The identity of a DICOM file's content; `where` names it in messages.

    Raises:
      DataError: see `read_header`.
    """
    header = _read(io.BytesIO(data), where, ("SOPClassUID", "SOPInstanceUID"), with_pixels=False)
    return Identity(_uid_of(header.sop_class), _uid_of(header.text("SOPInstanceUID")))


def _read_path(path: Path, keywords: tuple[str, ...]) -> Header:
    where = printable(path)
    try:
        with path.open("rb") as file:
            return _read(file, where, keywords, with_pixels=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: cannot be read ({getattr(error, 'strerror', '') or type(error).__name__})") from None


def _read(file: BinaryIO, where: str, keywords: tuple[str, ...], with_pixels: bool) -> Header:
    pydicom = silent_pydicom()
    start = file.read(132)
    if not begins_as_dicom(start):
        raise DataError(f"{where}: cannot be read as DICOM (no magic word, and no header in its place)")
    # The texts of pydicom's exceptions are not passed on: they may quote the header.
    try:
        file.seek(132 if start[128:] == MAGIC else 4 if start[:4] == MAGIC else 0)
        meta = Header(_elements(pydicom, file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2))
        syntax = meta.text("TransferSyntaxUID")
        if syntax == _DEFLATED:
            file, syntax = io.BytesIO(_inflated(file, where)), EXPLICIT
        first = file.read(8)
        file.seek(-len(first), io.SEEK_CUR)
        implicit, little = _encoding(first)
        found = _elements(
            pydicom,
            file,
            implicit,
            little,
            stop_when=None if with_pixels else lambda tag, vr, length: tag >= 0x7FE00000,
            specific_tags=[pydicom.tag.Tag(keyword) for keyword in keywords],
        )
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{where}: cannot be read as DICOM ({type(error).__name__})") from None
    if syntax not in pydicom.uid.UID_dictionary or not pydicom.uid.UID(syntax).is_transfer_syntax:
        syntax = ""
    return Header(found, syntax, meta.text("MediaStorageSOPClassUID"))


def _elements(pydicom: Any, file: BinaryIO, implicit: bool, little: bool, **options: Any) -> dict[int, Any]:
    return _raw(pydicom.filereader.read_dataset(file, implicit, little, **options))


def _encoding(first: bytes) -> tuple[bool, bool]:
    """(implicit, little endian), deduced from a dataset's first element: its group is small, its VR two letters."""
    little = int.from_bytes(first[:2], "little") <= int.from_bytes(first[:2], "big")
    return not _is_vr(first[4:6]), little


def _inflated(file: BinaryIO, where: str) -> bytes:
    limit = BYTES_A_PIXEL * max_pixels()
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    found = inflate.decompress(file.read(limit), limit)
    if inflate.unconsumed_tail:
        raise DataError(f"{where}: inflates to more than {limit} bytes; no film of {max_pixels()} pixels has so many")
    return found
