"""DICOM films as grey levels, upright, with a verdict: what the header says about pixels and view is applied,
or named in the verdict.

What it says about the patient is not read. Needs pydicom (the extra `dicom`); compressed films need its decoders too.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image

from chexjax.data.dicom_gate import is_inverted, judge_header
from chexjax.data.dicom_grey import find_padding, grey_levels
from chexjax.data.dicom_header import (
    BIG_ENDIAN,
    EXPLICIT,
    Header,
    begins_as_dicom,
    read_header,
    read_uid_texts,
    silent_pydicom,
)
from chexjax.data.images import (
    MAX_SIDE,
    JudgedFilm,
    Placement,
    check_size,
    judge_colour,
    judge_picture,
    judge_size,
    max_pixels,
    read_file,
    read_judged_picture,
)
from chexjax.data.verdict import Verdict
from chexjax.errors import DataError, printable

SUFFIXES: Final = (".dcm", ".dicom")
READER: Final = 2  # goes up when a film's grey levels change, so that prepared films are prepared again
_FRAME_MARKERS: Final = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7}  # SOF0 ... SOF15, and JPEG-LS's
# Where the transfer syntax is missing, the marker of the frame says how a single frame is encoded.
_SYNTAX_OF_MARKER: Final = {
    0xC0: "1.2.840.10008.1.2.4.50",
    0xC1: "1.2.840.10008.1.2.4.51",
    0xC3: "1.2.840.10008.1.2.4.57",
    0xF7: "1.2.840.10008.1.2.4.81",
}
_SIZ: Final = b"\xff\x4f\xff\x51"  # how a JPEG 2000 codestream begins: SOC and SIZ
_JPEG_2000: Final = "1.2.840.10008.1.2.4.91"
_RLE: Final = "1.2.840.10008.1.2.5"
_GREY: Final = ("MONOCHROME1", "MONOCHROME2")
_COLOUR: Final = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
_MAX_LEVELS: Final = 2**24  # distinct stored values; 16 bits have 2**16
_ROWS: Final = 256  # counted at a time
_SQUARE: Final = 0.01  # relative difference of the sides up to which pixels count as square
_MAX_ASPECT: Final = 4.0  # of a pixel's sides; no detector has longer ones


class Uids(NamedTuple):
    """The UIDs of a film's study, series and instance; "" where the file has none."""

    study: str = ""
    series: str = ""
    instance: str = ""


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its first bytes or its suffix. Only plain files are opened: a pipe would block."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return begins_as_dicom(file.read(132)) or path.suffix.lower() in SUFFIXES
    except (OSError, ValueError):
        return False  # whoever reads it will say why


def read_film(path: Path) -> np.ndarray:
    """A film file of any kind that is read here, DICOM, PNG or JPEG, as uint8 (height, width).

    Raises:
      DataError: see `read_dicom` and `images.read_grey`.
    """
    return read_judged(path).pixels


def read_judged(path: Path) -> JudgedFilm:
    """The same, with the reader's verdict. A refused film has pixels, too; the caller decides.

    Raises:
      DataError: there are no pixels to be had.
    """
    return _read_judged_dicom(path) if is_dicom(path) else read_judged_picture(path)


def judge_file(data: bytes, where: str) -> JudgedFilm:
    """The same for a file's content, whose kind its first bytes show; `where` names it in messages.

    Raises:
      DataError: there are no pixels to be had.
    """
    return _judge_dicom(data, where) if begins_as_dicom(data[:132]) else judge_picture(data, where)


def read_uids(path: Path) -> Uids:
    """The UIDs of a DICOM film; of any other film, none.

    Raises:
      DataError: the file cannot be read.
    """
    if not is_dicom(path):
        return Uids()
    _need_pydicom(printable(path))
    return Uids(*read_uid_texts(path))


def read_dicom(path: Path) -> np.ndarray:
    """A DICOM film as uint8 (height, width), dark where little was absorbed, upright, as films are shown.

    In the standard's order: rescale slope and intercept, or the modality table; the VOI table or the first window
    (without one, the range of the film's own pixels, less outliers); MONOCHROME1 inverted; 8 bits. Padding becomes
    black. Then it is set upright, and its pixels square. A capture in grey RGB or YBR is read as it stands.
    Source: DICOM PS3.3, sections C.11.1, C.11.2.1.2, C.7.6.3.1 and C.7.6.1.1.1.

    Raises:
      DataError: pydicom is absent, the file is no DICOM film of one frame or too large, or its pixels do not decode.
    """
    return _read_judged_dicom(path).pixels


def _need_pydicom(where: str) -> Any:
    try:
        return silent_pydicom()
    except ImportError:
        raise DataError(f"{where}: DICOM films need pydicom; pip install 'chexjax[dicom]'") from None


def _read_judged_dicom(path: Path) -> JudgedFilm:
    return _judge_dicom(read_file(path), printable(path))


def _judge_dicom(data: bytes, where: str) -> JudgedFilm:
    _need_pydicom(where)
    header = read_header(data, where)
    layout = _layout(header, where)
    check_size(where, layout.columns, layout.rows)
    verdict = judge_header(header) + judge_size(layout.rows, layout.columns)
    pixels = _decode(header, layout, where)
    try:
        if layout.samples == 3:
            verdict += judge_colour(pixels)
            film = np.asarray(Image.fromarray(pixels).convert("L"))
        else:
            film, of_pixels = _film(pixels, layout, header)
            verdict += of_pixels
    except Exception as error:  # its text may quote the header
        raise DataError(f"{where}: its grey levels cannot be told ({type(error).__name__})") from None
    placement = Placement()
    for change in (_square, _upright):
        film, placement, seen = change(film, placement, header)
        verdict += seen
    return JudgedFilm(np.ascontiguousarray(film), verdict, placement)


class _Layout(NamedTuple):
    """How the pixels lie in the file."""

    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    high: int
    signed: bool
    kind: str


def _layout(header: Header, where: str) -> _Layout:
    """Raises DataError if an element is missing that cannot be inferred, or if this is not a film."""
    needed = ("Rows", "Columns", "PixelData")
    missing = [name for name in needed if not (header.raw(name) if name == "PixelData" else header.word(name))]
    if missing:
        found = "a DICOM file without pixels" if "PixelData" in missing else "a film whose size is not known"
        raise DataError(f"{where}: {found} ({', '.join(missing)} missing)")
    rows, columns, allocated = (header.word(name) or 0 for name in ("Rows", "Columns", "BitsAllocated"))
    samples, kind = header.word("SamplesPerPixel") or 1, header.text("PhotometricInterpretation")
    if not allocated or not kind:
        name = "PhotometricInterpretation" if allocated else "BitsAllocated"
        raise DataError(f"{where}: the header has no {name}")
    frames = header.number("NumberOfFrames") or 1
    if frames != 1 or (kind, samples) not in {*((k, 1) for k in _GREY), *((k, 3) for k in _COLOUR)}:
        shown = kind if kind in (*_GREY, *_COLOUR, "PALETTE COLOR") else "other"
        raise DataError(
            f"{where}: a film is one grey frame; this file has {frames:g} of kind {shown!r}, {samples} values a pixel"
        )
    if samples == 3 and allocated != 8:
        raise DataError(f"{where}: {allocated} bits a value, in colour; convert it to 8-bit grey first")
    stored = header.word("BitsStored") or allocated
    high = header.word("HighBit")
    high = stored - 1 if high is None else high
    if allocated not in (8, 16, 32) or not stored - 1 <= high < allocated:
        raise DataError(f"{where}: no valid layout of bits: {stored} stored, high bit {high}, {allocated} allocated")
    return _Layout(rows, columns, samples, allocated, stored, high, header.word("PixelRepresentation") == 1, kind)


# Stored values


def _decode(header: Header, layout: _Layout, where: str) -> np.ndarray:
    """The stored values, an array of integers (rows, columns); for colour, uint8 (rows, columns, 3).

    Raises:
      DataError: they are too few, or do not decode.
    """
    pydicom = silent_pydicom()
    raw, syntax = header.raw("PixelData"), header.syntax
    bits = layout.rows * layout.columns * layout.samples * layout.allocated
    if layout.kind == "YBR_FULL_422":
        bits = bits * 2 // 3
    need = bits // 8
    if header.is_encapsulated():
        if not syntax or not pydicom.uid.UID(syntax).is_encapsulated:
            syntax = _syntax_of(pydicom, raw)
            if not syntax:
                raise DataError(f"{where}: its pixels are compressed, and the header has no TransferSyntaxUID for them")
        return _decompress(pydicom, syntax, header, layout, where)
    if len(raw) < need:
        raise DataError(f"{where}: its pixels are cut short: {len(raw)} bytes, not {need}")
    if not syntax and len(raw) > need + 1:
        raise DataError(f"{where}: the header has no TransferSyntaxUID, and {len(raw)} bytes of pixels are not {need}")
    if layout.samples == 3:
        syntax = EXPLICIT if header.is_little("PixelData") else BIG_ENDIAN
        return _decompress(pydicom, syntax, header, layout, where)
    little = header.is_little("PixelData")
    if layout.allocated == 8 and not little and header.vr("PixelData") == "OW":  # two pixels in a word
        values = np.frombuffer(raw[: len(raw) // 2 * 2], ">u2").astype("<u2").view(np.uint8)
    else:
        values = np.frombuffer(raw[:need], f"{'<' if little else '>'}u{layout.allocated // 8}")
    values = values[: layout.rows * layout.columns].reshape(layout.rows, layout.columns)
    return _stored_bits(values, layout, layout.high - layout.stored + 1)


def _stored_bits(values: np.ndarray, layout: _Layout, shift: int) -> np.ndarray:
    """The stored value alone, without the bits above and below it, sign-extended; int32 or smaller."""
    if not layout.signed and not shift and layout.stored == layout.allocated:
        return values
    values = values >> shift & (2**layout.stored - 1)
    if not layout.signed:
        return values
    half = 2 ** (layout.stored - 1)
    return ((values.astype(np.int64) ^ half) - half).astype(np.int32)


def _decompress(pydicom: Any, syntax: str, header: Header, layout: _Layout, where: str) -> np.ndarray:
    """JPEGs by imagecodecs, if it is installed; all else by the decoders that pydicom finds.

    Raises:
      DataError: no decoder is installed, or none can read it.
    """
    name = pydicom.uid.UID(syntax).name
    codec = _codec(syntax, layout.kind)
    decoder = None
    if not codec:
        try:
            decoder = pydicom.pixels.get_decoder(syntax)
        except NotImplementedError:
            raise DataError(f"{where}: its pixels are in {name}, which is not read here") from None
        if not decoder.is_available:
            raise DataError(f"{where}: {name} needs a decoder that is not installed; pip install 'chexjax[dicom]'")
    try:
        frame = b""
        if header.is_encapsulated() and syntax != _RLE:  # RLE holds no size
            frame = pydicom.encaps.get_frame(header.raw("PixelData"), 0, number_of_frames=1)
            if codestream_size(frame) != (layout.rows, layout.columns, layout.samples):
                # A JPEG's decoder believes the size inside rather than the header's, however large.
                raise ValueError("the compressed pixels are of another size")
        if codec:
            found = codec(frame) if layout.samples == 3 else _in_bits(codec(frame), frame, layout)
        else:
            found = _clean_dataset(pydicom, syntax, header, layout).pixel_array
        if found.shape != (layout.rows, layout.columns, 3)[: 2 if layout.samples == 1 else 3]:
            raise ValueError("other pixels than the header says")
        return found
    except Exception as error:
        raise DataError(f"{where}: its pixels cannot be decoded ({type(error).__name__}; {name})") from None


def _codec(syntax: str, kind: str) -> Callable[[bytes], np.ndarray] | None:
    """imagecodecs' decoder of a JPEG; None where it is not installed, or where colours would have to be converted."""
    try:
        import imagecodecs
    except ImportError:
        return None
    names = dict.fromkeys(("57", "70"), "jpeg_decode") | dict.fromkeys(("80", "81"), "jpegls_decode")
    if kind in _GREY:
        names |= dict.fromkeys(("50", "51"), "jpeg_decode") | dict.fromkeys(("90", "91"), "jpeg2k_decode")
    elif kind != "RGB":
        return None
    name = names.get(syntax.removeprefix("1.2.840.10008.1.2.4."))
    return getattr(imagecodecs, name) if name else None


def _in_bits(values: np.ndarray, frame: bytes, layout: _Layout) -> np.ndarray:
    """Decoded values with the header's sign, whatever sign the codestream gave them.

    A JPEG 2000 codestream has its own number of bits, which may be fewer than the header's: its sign is the last of
    those.
    """
    data = _codestream(frame)
    bits = (data[42] & 0x7F) + 1 if data.startswith(_SIZ) else layout.stored
    values = values.astype(np.int64) & (2 ** min(bits, layout.stored) - 1)
    half = 2 ** (min(bits, layout.stored) - 1)
    return ((values ^ half) - half if layout.signed else values).astype(np.int32)


def _clean_dataset(pydicom: Any, syntax: str, header: Header, layout: _Layout) -> Any:
    """What pydicom's decoders need, and nothing that is broken."""
    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.set_original_encoding(False, syntax != BIG_ENDIAN)
    made.Rows, made.Columns, made.SamplesPerPixel = layout.rows, layout.columns, layout.samples
    made.BitsAllocated, made.BitsStored, made.HighBit = layout.allocated, layout.stored, layout.stored - 1
    made.PixelRepresentation, made.PhotometricInterpretation = int(layout.signed), layout.kind
    if layout.samples > 1:
        made.PlanarConfiguration = header.word("PlanarConfiguration") or 0
    encapsulated = header.is_encapsulated()
    made.add_new("PixelData", "OB" if encapsulated else header.vr("PixelData") or "OW", header.raw("PixelData"))
    made["PixelData"].is_undefined_length = encapsulated
    return made


def _syntax_of(pydicom: Any, encapsulated: bytes) -> str:
    """A compressed frame's transfer syntax by its own first bytes; "" where they do not say."""
    try:
        frame = pydicom.encaps.get_frame(encapsulated, 0, number_of_frames=1)
    except Exception:  # no fragments
        return ""
    if _codestream(frame).startswith(_SIZ):
        return _JPEG_2000
    marker, _ = _frame_marker(frame)
    return _SYNTAX_OF_MARKER.get(marker, "")


def _codestream(data: bytes) -> bytes:
    """The JPEG 2000 codestream in the boxes of a JP2 file; anything else as it is. Source: ITU-T T.800, annex I."""
    offset = 0
    while data.startswith(b"\0\0\0\x0cjP  ") and offset + 16 <= len(data):
        length, kind = int.from_bytes(data[offset : offset + 4]), data[offset + 4 : offset + 8]
        head = 16 if length == 1 else 8
        if kind == b"jp2c":
            return data[offset + head :]
        if length == 1:
            length = int.from_bytes(data[offset + 8 : offset + 16])
        if length < head:
            break
        offset += length
    return data


def _frame_marker(data: bytes) -> tuple[int, int]:
    """(the marker of a JPEG's frame, where it stands); (0, 0) where there is none. Source: ITU-T T.81, B.1.1.4."""
    offset = 2
    while data.startswith(b"\xff\xd8") and offset + 10 <= len(data) and data[offset] == 0xFF:
        marker = data[offset + 1]
        if marker == 0xFF:  # a fill byte
            offset += 1
        elif marker in _FRAME_MARKERS:
            return marker, offset
        else:
            offset += 2 + int.from_bytes(data[offset + 2 : offset + 4])
    return 0, 0


def codestream_size(data: bytes) -> tuple[int, int, int] | None:
    """(height, width, channels) that a JPEG, JPEG-LS or JPEG 2000 codestream gives itself; None where it gives none.

    Source: ITU-T T.81, B.2.2 (SOF); T.87, C.2.2; T.800, A.5.1 (SIZ; the image's extent less its offset).
    """
    data = _codestream(data)
    if data.startswith(_SIZ):
        right, bottom, left, top = (int.from_bytes(data[offset : offset + 4]) for offset in (8, 12, 16, 20))
        return bottom - top, right - left, int.from_bytes(data[40:42])
    marker, offset = _frame_marker(data)
    if not marker:
        return None
    height, width = (int.from_bytes(data[offset + k : offset + k + 2]) for k in (5, 7))
    return height, width, data[offset + 9]


# The film


def _film(stored: np.ndarray, layout: _Layout, header: Header) -> tuple[np.ndarray, Verdict]:
    """Grey levels out of stored values.

    Raises:
      ValueError: there are too many levels to tell apart, or a table is broken.
    """
    verdict = Verdict()
    if layout.high != layout.stored - 1:
        verdict += Verdict("ok", ("the high bit is not the last one stored: shifted",))
    low, high = int(stored.min()), int(stored.max())
    if high - low >= _MAX_LEVELS:
        raise ValueError("more levels than a film has")
    outside, of_padding = find_padding(stored, header)
    wide = stored.astype(np.int32) if stored.dtype.kind == "i" else stored  # its range needs more
    index = wide - low if low else wide
    counts = np.zeros(high - low + 1, np.int64)
    for row in range(0, layout.rows, _ROWS):  # bincount needs 8 bytes a pixel
        part = index[row : row + _ROWS]
        part = part.ravel() if outside is None else part[~outside[row : row + _ROWS]]
        counts += np.bincount(part, minlength=len(counts))
    with np.errstate(all="ignore"):  # values that are not finite are found below
        grey, of_levels = grey_levels(np.arange(low, high + 1), counts, header)
    if not np.isfinite(grey).all():
        raise ValueError("a slope or a window that gives no numbers")
    levels = np.rint(255.0 * (1.0 - grey if is_inverted(header) else grey)).astype(np.uint8)
    film = levels[index]
    if outside is not None:
        film[outside] = 0
    return film, verdict + of_padding + of_levels


_Placed = tuple[np.ndarray, Placement, Verdict]


def _upright(film: np.ndarray, placement: Placement, header: Header) -> _Placed:
    """The film with the patient's head up, and his left on the right, as PatientOrientation says how it lies.

    Source: DICOM PS3.3, C.7.6.1.1.1: the directions in which rows and columns run.
    """
    ways = [way[:1] for way in header.texts("PatientOrientation")]
    if not any(ways):
        return film, placement, Verdict()
    axes = [next((axis for axis in ("LR", "FH", "AP") if way and way in axis), "") for way in ways]
    if len(axes) != 2 or "" in axes or axes[0] == axes[1] or "FH" not in axes:
        return film, placement, Verdict("doubtful", ("its orientation cannot be told from the header",))
    transposed = axes[0] == "FH"
    if transposed:
        film, ways = film.T, ways[::-1]
    upside_down, mirrored = ways[1] == "H", ways[0] == "R"
    film = film[:: -1 if upside_down else 1, :: -1 if mirrored else 1]
    moved = replace(placement, transposed=transposed, upside_down=upside_down, mirrored=mirrored)
    if "AP" in axes:
        return film, moved, Verdict("doubtful", ("a lateral view",))
    if moved == placement:
        return film, moved, Verdict()
    return film, moved, Verdict("ok", ("set upright, as its orientation in the header says",))


def _square(film: np.ndarray, placement: Placement, header: Header) -> _Placed:
    """The film enlarged along the longer side of its pixels, as their spacing or aspect says, until they are square.

    Source: DICOM PS3.3, C.7.6.3.1.7 and 10.7.1.3: the distance of rows comes first, as does the vertical size.
    """
    names = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
    pairs = (header.numbers(name) for name in names)
    down, across = next((pair for pair in pairs if len(pair) == 2 and min(pair) > 0), (1.0, 1.0))
    aspect = down / across
    if abs(aspect - 1) < _SQUARE:
        return film, placement, Verdict()
    placement = replace(placement, down=max(aspect, 1.0), across=max(1 / aspect, 1.0))
    height, width = round(film.shape[0] * placement.down), round(film.shape[1] * placement.across)
    if not 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT or height * width > max_pixels() or max(height, width) > MAX_SIDE:
        return film, Placement(), Verdict("doubtful", ("its pixels are not square",))
    picture = Image.fromarray(film).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture), placement, Verdict("ok", ("its pixels were not square: resampled",))
