"""DICOM films as grey levels: what the header says of the pixels is applied, what it says of the patient is not read.

Needs pydicom (the extra `dicom`); compressed films need pylibjpeg with its plugins too.
"""

import functools
import logging
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np

from chexjax.errors import DataError

SUFFIXES: Final = (".dcm", ".dicom")
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
    """By the magic word at byte 128, or by the suffix."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM" or path.suffix.lower() in SUFFIXES
    except OSError:
        return False  # whoever reads it will say why


def read_dicom(path: Path) -> np.ndarray:
    """A DICOM film as uint8 (height, width), dark where little was absorbed, as films are shown.

    In the standard's order: rescale slope and intercept, or the modality table; the VOI table or the first window
    (without one, the range of the pixels that are no padding); MONOCHROME1 inverted; 8 bits. Padding becomes black.
    Source: DICOM PS3.3, sections C.11.1, C.11.2.1.2 and C.7.6.3.1.2.

    Raises:
      DataError: pydicom is absent, the file is no DICOM film of one frame, or its pixels cannot be decoded.
    """
    try:
        pydicom = _silent_pydicom()
    except ImportError:
        raise DataError(f"{path}: DICOM films need pydicom; pip install 'chexjax[dicom]'") from None
    # The texts of pydicom's exceptions are not passed on: they may quote the header.
    try:
        header = pydicom.dcmread(path, specific_tags=_TAGS)
        kind, frames = str(header.get("PhotometricInterpretation", "")), int(header.get("NumberOfFrames") or 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or type(error).__name__})") from None
    except Exception as error:
        raise DataError(f"{path}: cannot be read as DICOM ({type(error).__name__})") from None
    if "PixelData" not in header:
        raise DataError(f"{path}: a DICOM file without pixels")
    if frames != 1 or kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise DataError(f"{path}: a film is one grey frame; this file has {frames} of kind {kind[:16]!r}")
    try:
        stored = header.pixel_array
        outside = _padding(stored, header)
        values = np.asarray(pydicom.pixels.apply_modality_lut(stored, header), np.float64)
        grey = _windowed(values, outside, header)
    except Exception as error:
        syntax = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", None)
        raise DataError(
            f"{path}: its pixels cannot be decoded ({type(error).__name__}; "
            f"transfer syntax {getattr(syntax, 'name', 'absent')})\n"
            "compressed films need pylibjpeg, pylibjpeg-libjpeg and pylibjpeg-openjpeg"
        ) from None
    inverted = kind == "MONOCHROME1" or header.get("PresentationLUTShape") == "INVERSE"
    film = np.rint(255.0 * (1.0 - grey if inverted else grey)).astype(np.uint8)
    film[outside] = 0
    return film


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
