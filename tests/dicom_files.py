"""Writes DICOM films for the tests, as a hospital's archive would give them."""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

SECRET = "Lastnamington^Firstnamia"


def write_dicom(path: Path, pixels: np.ndarray, syntax: Any = ExplicitVRLittleEndian, **fields: Any) -> Path:
    """A film as a hospital's archive would give it, patient and all; `fields` are set last."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3.4.5"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax.is_compressed else syntax
    film = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
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
    if syntax.is_compressed:
        film.compress(syntax)
    film.save_as(path, enforce_file_format=True)
    return path
