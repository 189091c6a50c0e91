"""DICOM films as grey levels: what the header says of the pixels is applied, what it says of the patient is not read.

Needs pydicom (the extra `dicom`); compressed films need pylibjpeg with its plugins too.
"""

import functools
import io
import logging
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np

from chexjax.data.images import check_size, read_file, read_grey
from chexjax.errors import DataError, printable

SUFFIXES: Final = (".dcm", ".dicom")
_DEFLATED: Final = b"1.2.840.10008.1.2.1.99"
_FRAME_MARKERS: Final = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7}  # SOF0 ... SOF15, and JPEG-LS's
# Nothing else of the header is loaded, so nothing else can come out in a table, a picture or a message.
_TAGS: Final = [
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
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
]


def is_dicom(path: Path) -> bool:
    """By the magic word at byte 128, or by the suffix. Only plain files are opened: a pipe would wait for ever."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM" or path.suffix.lower() in SUFFIXES
    except (OSError, ValueError):
        return False  # whoever reads it will say why


def read_film(path: Path) -> np.ndarray:
    """A film file of any kind that is read here, DICOM, PNG or JPEG, as uint8 (height, width).

    Raises:
      DataError: see `read_dicom` and `images.read_grey`.
    """
    return read_dicom(path) if is_dicom(path) else read_grey(path)


def read_dicom(path: Path) -> np.ndarray:
    """A DICOM film as uint8 (height, width), dark where little was absorbed, as films are shown.

    In the standard's order: rescale slope and intercept, or the modality table; the VOI table or the first window
    (without one, the range of the pixels that are no padding); MONOCHROME1 inverted; 8 bits. Padding becomes black.
    Source: DICOM PS3.3, sections C.11.1, C.11.2.1.2 and C.7.6.3.1.2.

    Raises:
      DataError: pydicom is absent, the file is no DICOM film of one frame or too large, or its pixels do not decode.
    """
    where = printable(path)
    try:
        pydicom = _silent_pydicom()
    except ImportError:
        raise DataError(f"{where}: DICOM films need pydicom; pip install 'chexjax[dicom]'") from None
    data = read_file(path)
    if _DEFLATED in data:  # pydicom would inflate it whole, whatever comes out
        raise DataError(f"{where}: a deflated DICOM file; save it with another transfer syntax")
    # The texts of pydicom's exceptions are not passed on: they may quote the header.
    try:
        header = pydicom.dcmread(io.BytesIO(data), specific_tags=_TAGS)
        kind, frames = str(header.get("PhotometricInterpretation", "")), int(header.get("NumberOfFrames") or 1)
        rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
        inverted = kind == "MONOCHROME1" or header.get("PresentationLUTShape") == "INVERSE"
        with_pixels = "PixelData" in header
    except Exception as error:
        raise DataError(f"{where}: cannot be read as DICOM ({type(error).__name__})") from None
    if not with_pixels:
        raise DataError(f"{where}: a DICOM file without pixels")
    if frames != 1 or kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise DataError(f"{where}: a film is one grey frame; this file has {frames} of kind {kind[:16]!r}")
    check_size(path, columns, rows)
    try:
        _check_codestream(pydicom, header, rows, columns)
        stored = header.pixel_array
        if stored.shape != (rows, columns):
            raise ValueError("other pixels than the header says")
        outside = _padding(stored, header)
        with np.errstate(all="ignore"):  # a NaN is found below
            grey = _windowed(np.asarray(pydicom.pixels.apply_modality_lut(stored, header), np.float64), outside, header)
        if not np.isfinite(grey).all():
            raise ValueError("a slope or a window that gives no numbers")
    except Exception as error:
        syntax = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", None)
        raise DataError(
            f"{where}: its pixels cannot be decoded ({type(error).__name__}; "
            f"transfer syntax {printable(getattr(syntax, 'name', 'absent'))[:64]})\n"
            "compressed films need pylibjpeg, pylibjpeg-libjpeg and pylibjpeg-openjpeg"
        ) from None
    film = np.rint(255.0 * (1.0 - grey if inverted else grey)).astype(np.uint8)
    film[outside] = 0
    return film


def _check_codestream(pydicom: Any, header: Any, rows: int, columns: int) -> None:
    """A JPEG inside says its own size, and its decoder believes that rather than the header's.

    Raises:
      ValueError: it is another, or stands nowhere.
    """
    syntax = header.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated or syntax == pydicom.uid.RLELossless:  # RLE holds no size
        return
    frame = pydicom.encaps.get_frame(header.PixelData, 0, number_of_frames=1)
    if codestream_size(frame) != (rows, columns, 1):
        raise ValueError("the compressed pixels are of another size")


def codestream_size(data: bytes) -> tuple[int, int, int] | None:
    """(height, width, channels) that a JPEG, JPEG-LS or JPEG 2000 codestream gives itself; None where it gives none.

    Source: ITU-T T.81, B.2.2 (SOF); T.87, C.2.2; T.800, A.5.1 (SIZ; the image's extent less its offset).
    """
    if data.startswith(b"\xff\x4f\xff\x51"):  # SOC and SIZ
        right, bottom, left, top = (int.from_bytes(data[place : place + 4]) for place in (8, 12, 16, 20))
        return bottom - top, right - left, int.from_bytes(data[40:42])
    place = 2
    while data.startswith(b"\xff\xd8") and place + 10 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker in _FRAME_MARKERS:
            height, width = (int.from_bytes(data[place + k : place + k + 2]) for k in (5, 7))
            return height, width, data[place + 9]
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return None


def apply_window(values: np.ndarray, center: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Grey levels 0..1 out of `values`. Source: DICOM PS3.3, sections C.11.2.1.2.1 and C.11.2.1.3."""
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(-4.0 * (values - center) / width))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0.0, 1.0)
    # A window one wide is a step; the formula divides by width - 1.
    return np.clip((values - (center - 0.5)) / max(width - 1.0, 1e-9) + 0.5, 0.0, 1.0)


@functools.cache
def _silent_pydicom() -> Any:
    """pydicom; its warnings quote values of the header, so nobody hears them."""
    import pydicom
    import pydicom.pixels

    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    return pydicom


def _windowed(values: np.ndarray, padding: np.ndarray, header: Any) -> np.ndarray:
    """Grey levels 0..1 by the header's table or window, or by the pixels' own range."""
    if "VOILUTSequence" in header and header.VOILUTSequence:
        from pydicom.pixels import apply_voi

        bits = int(header.VOILUTSequence[0].LUTDescriptor[2])
        return np.clip(apply_voi(values.astype(np.int64), header) / (2.0**bits - 1.0), 0.0, 1.0)
    center, width = (_first(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if center is not None and width is not None and width > 0:
        return apply_window(values, center, width, str(header.get("VOILUTFunction") or "LINEAR"))
    seen = values[~padding] if not padding.all() else values
    low, high = float(seen.min()), float(seen.max())
    return np.clip((values - low) / max(high - low, 1e-9), 0.0, 1.0)


def _padding(stored: np.ndarray, header: Any) -> np.ndarray:
    """Which stored pixels lie outside the film."""
    first = header.get("PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, bool)
    last = header.get("PixelPaddingRangeLimit")
    ends = int(first), int(first if last is None else last)
    return (stored >= min(ends)) & (stored <= max(ends))


def _first(value: Any) -> float | None:
    """The first of several windows; None where there is none."""
    values = value if hasattr(value, "__len__") and not isinstance(value, str) else [value]
    return float(values[0]) if len(values) and values[0] is not None else None
