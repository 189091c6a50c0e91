"""Writes DICOM films for the tests, as a hospital's archive would give them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian

SECRET = "Lastnamington^Firstnamia"


def write_dicom(
    path: Path, pixels: np.ndarray, syntax: Any = ExplicitVRLittleEndian, encoded: bytes | None = None, **fields: Any
) -> Path:
    """A film as a hospital's archive would give it, patient and all; `fields` are set last.

    `encoded` is the film as a codestream of a compressed `syntax`; without it pydicom encodes `pixels`.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3.4.5"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax.is_compressed and encoded is None else syntax
    little = meta.TransferSyntaxUID.is_little_endian
    film = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128, is_little_endian=little)
    film.SOPClassUID, film.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    film.PatientName, film.PatientID, film.PatientBirthDate = SECRET, "PATIENT-471147", "19700101"
    film.Rows, film.Columns = pixels.shape[-2:]
    film.SamplesPerPixel, film.PhotometricInterpretation = 1, "MONOCHROME2"
    film.BitsAllocated = pixels.dtype.itemsize * 8
    film.BitsStored = fields.pop("BitsStored", film.BitsAllocated)
    film.HighBit = film.BitsStored - 1
    film.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in fields.items():
        setattr(film, name, value)
    film.PixelData = pixels.tobytes()
    film["PixelData"].VR = "OW"
    if encoded is not None:
        film.PixelData = encapsulate([encoded])
        film["PixelData"].is_undefined_length = True
    elif syntax.is_compressed:
        film.compress(syntax)
    film.save_as(path, enforce_file_format=True)
    return path


def jpeg(pixels: np.ndarray) -> bytes:
    """uint8 (height, width) as baseline JPEG, by Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg", quality=90)
    return buffer.getvalue()


def jpeg_2000(pixels: np.ndarray, boxes: bool = False) -> bytes:
    """uint16 (height, width) as lossless JPEG 2000, by Pillow; a bare codestream, or in the boxes of a JP2 file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg2000", irreversible=False, no_jp2=not boxes)
    return buffer.getvalue()


def lossless_jpeg(pixels: np.ndarray, bits: int) -> bytes:
    """uint (height, width) of `bits` bits as lossless JPEG, each pixel told by its left neighbour (selection value 1).

    Differences come as the number of their bits, all numbers in codes of five bits, and then those bits. Source: ITU-T
    T.81, annex H.
    """
    values = pixels.astype(np.int64)
    guess = np.empty_like(values)
    guess[:, 1:], guess[1:, 0], guess[0, 0] = values[:, :-1], values[:-1, 0], 1 << (bits - 1)
    code = ""
    for difference in ((values - guess + 0x7FFF) % 0x10000 - 0x7FFF).ravel().tolist():  # told modulo 2^16
        size = abs(difference).bit_length()
        bits_of = difference if difference > 0 else difference + (1 << size) - 1
        code += f"{size:05b}" + (f"{bits_of:0{size}b}" if 0 < size < 16 else "")
    code += "1" * (-len(code) % 8)
    scan = int(code, 2).to_bytes(len(code) // 8, "big").replace(b"\xff", b"\xff\x00")

    def segment(marker: int, content: bytes) -> bytes:
        return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content

    height, width = (extent.to_bytes(2, "big") for extent in pixels.shape)
    table = segment(0xC4, bytes([0, 0, 0, 0, 0, 17] + [0] * 11 + [*range(17)]))
    frame = segment(0xC3, bytes([bits]) + height + width + bytes([1, 1, 0x11, 0]))
    start = segment(0xDA, bytes([1, 1, 0, 1, 0, 0]))
    return b"\xff\xd8" + frame + table + start + scan + b"\xff\xd9"


def extended_jpeg(blocks: np.ndarray) -> bytes:
    """uint16 (rows, columns) of 12 bits as extended sequential JPEG, each value a block of 8 x 8 pixels.

    A flat block is its first coefficient alone, 8 times its value less 2048; quantised by 8 nothing is lost. All other
    coefficients are one code, "end of block". Source: ITU-T T.81, A.3, F.1 and B.2.
    """
    values = blocks.astype(np.int64) - 2048
    code = ""
    for difference in np.diff(values.ravel(), prepend=0).tolist():
        size = abs(difference).bit_length()
        bits_of = difference if difference > 0 else difference + (1 << size) - 1
        code += f"{size:05b}" + (f"{bits_of:0{size}b}" if size else "") + "0"
    code += "1" * (-len(code) % 8)
    scan = int(code, 2).to_bytes(len(code) // 8, "big").replace(b"\xff", b"\xff\x00")

    def segment(marker: int, content: bytes) -> bytes:
        return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content

    height, width = ((8 * extent).to_bytes(2, "big") for extent in blocks.shape)
    quantisation = segment(0xDB, bytes([0] + [8] * 64))
    first = segment(0xC4, bytes([0x00, 0, 0, 0, 0, 16] + [0] * 11 + [*range(16)]))
    others = segment(0xC4, bytes([0x10, 1] + [0] * 15 + [0]))
    frame = segment(0xC1, bytes([12]) + height + width + bytes([1, 1, 0x11, 0]))
    start = segment(0xDA, bytes([1, 1, 0x00, 0, 63, 0]))
    return b"\xff\xd8" + quantisation + frame + first + others + start + scan + b"\xff\xd9"


def without_meta(whole: bytes) -> bytes:
    """A file as `write_dicom` makes it, without preamble, magic word and file meta."""
    return whole[144 + int.from_bytes(whole[140:144], "little") :]


def without_syntax(whole: bytes) -> bytes:
    """The same, but only the transfer syntax is missing from the file meta."""
    start = whole.index(b"\x02\0\x10\0UI")
    end = start + 8 + int.from_bytes(whole[start + 6 : start + 8], "little")
    length = int.from_bytes(whole[140:144], "little") - (end - start)
    return whole[:140] + length.to_bytes(4, "little") + whole[144:start] + whole[end:]
