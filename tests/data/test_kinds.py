"""Files of a folder told by their content: films under any name, and what is none."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chexjax.data.kinds import classify

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian  # noqa: E402

from tests.dicom_files import without_meta, write_dicom  # noqa: E402

PIXELS = np.random.default_rng(0).integers(0, 4096, (70, 80)).astype(np.uint16)


def write_object(path: Path, sop_class: str) -> Path:
    """A DICOM file of that class, without pixels."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    made.PatientName, made.Modality = "Lastnamington", "SR"
    if "1.3.10" not in sop_class:  # a DICOMDIR has its class in the meta alone
        made.SOPClassUID, made.SOPInstanceUID = sop_class, "1.2.3"
    made.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize(
    "name", ["DX.1.2.826.0.1.77.9", "a.img", "a.IMA", "a.ima.0001", "IM0001", "a.dcm", "a.png", "a.txt"]
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_a_dicom_film_under_any_name(tmp_path: Path, name: str, syntax: str) -> None:
    path = write_dicom(tmp_path / name, PIXELS, syntax)
    assert (classify(path).kind, classify(path).what) == ("film", "DICOM")
    if syntax != DeflatedExplicitVRLittleEndian:
        path.write_bytes(without_meta(path.read_bytes()))
        assert (classify(path).kind, classify(path).what) == ("film", "DICOM")


@pytest.mark.parametrize(
    ("sop_class", "what"),
    [
        ("1.2.840.10008.1.3.10", "DICOMDIR"),
        ("1.2.840.10008.5.1.4.1.1.88.11", "structured report"),
        ("1.2.840.10008.5.1.4.1.1.11.1", "presentation state"),
        ("1.2.840.10008.5.1.4.1.1.104.1", "PDF"),
        ("1.2.840.10008.5.1.4.1.1.9.1.1", "waveform"),
        ("1.2.840.10008.5.1.4.1.1.1", "DICOM without pixels"),
    ],
)
@pytest.mark.parametrize("name", ["DICOMDIR", "SR000000.dcm"])
def test_dicom_that_is_no_film(tmp_path: Path, sop_class: str, what: str, name: str) -> None:
    found = classify(write_object(tmp_path / name, sop_class))
    assert (found.kind, found.what) == ("no film", what)


def test_pictures_and_all_else(tmp_path: Path) -> None:
    grey = Image.fromarray((PIXELS // 16).astype(np.uint8))
    grey.save(tmp_path / "scan", "png")
    grey.save(tmp_path / "scan.bin", "jpeg")
    (tmp_path / "notes.txt").write_text("a note")
    (tmp_path / "empty").touch()
    (tmp_path / "broken.png").write_text("an error page")
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.dcm")
    expected = {
        "scan": ("film", "PNG"),
        "scan.bin": ("film", "JPEG"),
        "notes.txt": ("no film", "no picture"),
        "empty": ("no film", "no picture"),
        "broken.png": ("unreadable", "no film, though its name says so"),
        "empty.dcm": ("unreadable", "no film, though its name says so"),
        "folder.png": ("no film", "no file"),
        "pipe.dcm": ("no film", "no file"),
        "absent.dcm": ("no film", "no file"),
    }
    for name, kind in expected.items():
        found = classify(tmp_path / name)
        assert (found.kind, found.what) == kind, name
    bare = tmp_path / "SR0"
    bare.write_bytes(b"\0" * 128 + b"DICM")
    assert classify(bare).what == "DICOM without pixels"
