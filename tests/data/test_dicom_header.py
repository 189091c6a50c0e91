"""DICOM files that break the rules as archives do: read where they are plain, else the missing field is named."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chexjax.data.dicom import is_dicom, read_dicom, read_judged, read_uids
from chexjax.errors import DataError

pydicom = pytest.importorskip("pydicom")
from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)

from tests.dicom_files import jpeg_2000, lossless_jpeg, without_meta, without_syntax, write_dicom  # noqa: E402

PIXELS = np.random.default_rng(0).integers(0, 4096, (40, 64)).astype(np.uint16)
WINDOW = {"BitsStored": 12, "WindowCenter": 2048, "WindowWidth": 4096}
EXPECTED = np.rint(PIXELS.astype(float) / 4095 * 255)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize(
    "damage",
    [lambda whole: whole, lambda whole: whole[132:], lambda whole: whole[128:], without_meta, without_syntax],
    ids=["whole", "no preamble", "no empty preamble", "no meta", "no syntax"],
)
def test_what_is_plain_is_read(tmp_path: Path, syntax: Any, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "IM0001"
    pixels = PIXELS.astype(">u2") if syntax == ExplicitVRBigEndian else PIXELS
    path.write_bytes(damage(write_dicom(path, pixels, syntax, **WINDOW).read_bytes()))
    assert is_dicom(path)
    np.testing.assert_array_equal(read_dicom(path), EXPECTED)


@pytest.mark.parametrize("damage", [without_syntax, without_meta])
def test_a_codestream_says_what_it_is(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write_dicom(tmp_path / "a.dcm", PIXELS, JPEG2000Lossless, jpeg_2000(PIXELS), **WINDOW)
    path.write_bytes(damage(path.read_bytes()))
    np.testing.assert_array_equal(read_dicom(path), EXPECTED)
    pytest.importorskip("imagecodecs")
    path = write_dicom(tmp_path / "b.dcm", PIXELS, JPEGLosslessSV1, lossless_jpeg(PIXELS, 12), **WINDOW)
    path.write_bytes(damage(path.read_bytes()))
    np.testing.assert_array_equal(read_dicom(path), EXPECTED)


def test_what_is_not_plain_is_named(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", PIXELS, RLELossless, **WINDOW)  # run lengths say nothing of themselves
    path.write_bytes(without_syntax(path.read_bytes()))
    with pytest.raises(DataError, match="compressed, and the header has no TransferSyntaxUID"):
        read_dicom(path)
    whole = write_dicom(tmp_path / "a.dcm", PIXELS, **WINDOW).read_bytes()
    tags = {"Rows": b"\x28\0\x10\0", "BitsAllocated": b"\x28\0\0\1", "PhotometricInterpretation": b"\x28\0\4\0"}
    for name, tag in tags.items():
        path.write_bytes(whole.replace(tag + (b"CS" if name[0] == "P" else b"US"), b"\x27\0" + tag[2:] + b"US"))
        with pytest.raises(DataError, match=name):
            read_dicom(path)
    path.write_bytes(whole[:-500])
    with pytest.raises(DataError, match="cut short: 4620 bytes, not 5120") as caught:
        read_dicom(path)
    assert "pip" not in str(caught.value)  # no decoder is at fault


@pytest.mark.parametrize(
    "fields",
    [
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"RescaleSlope": "", "RescaleIntercept": 0},
        {"RescaleIntercept": 0},
        {"PixelPaddingValue": None, "NumberOfFrames": None, "VOILUTFunction": "", "PresentationLUTShape": ""},
    ],
)
def test_what_is_empty_is_absent(tmp_path: Path, fields: dict[str, Any]) -> None:
    np.testing.assert_array_equal(read_dicom(write_dicom(tmp_path / "a.dcm", PIXELS, **WINDOW, **fields)), EXPECTED)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_decimal_commas(tmp_path: Path, syntax: Any) -> None:
    numbers = {
        "WindowCenter": "2048.5",
        "WindowWidth": ["3000.5", "1.5"],
        "RescaleSlope": "1.25",
        "RescaleIntercept": "3.5",
    }
    path = write_dicom(tmp_path / "a.dcm", PIXELS, syntax, BitsStored=12, **numbers)
    expected = read_dicom(path)
    raw = path.read_bytes()
    for number in (b"2048.5", b"3000.5", b"1.25", b"3.5"):
        assert number in raw
        raw = raw.replace(number, number.replace(b".", b","))
    path.write_bytes(raw)
    np.testing.assert_array_equal(read_dicom(path), expected)


def test_a_window_that_is_no_number_is_passed_over(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", PIXELS, BitsStored=12, WindowCenter="123456", WindowWidth="4096")
    path.write_bytes(path.read_bytes().replace(b"123456", b"middle"))
    plain = write_dicom(tmp_path / "b.dcm", PIXELS, BitsStored=12)
    np.testing.assert_array_equal(read_dicom(path), read_dicom(plain))


def test_boxes_around_jpeg_2000(tmp_path: Path) -> None:
    inside = jpeg_2000(PIXELS, boxes=True)
    assert inside[4:8] == b"jP  "
    found = read_dicom(write_dicom(tmp_path / "b.dcm", PIXELS, JPEG2000Lossless, inside, **WINDOW))
    np.testing.assert_array_equal(found, EXPECTED)
    wrong = inside.replace(b"\0\0\0\x40\0\0\0\x28", b"\0\0\x40\0\0\0\x40\0")
    assert wrong != inside
    with pytest.raises(DataError, match="cannot be decoded"):  # before its decoder makes room for it
        read_dicom(write_dicom(tmp_path / "c.dcm", PIXELS, JPEG2000Lossless, wrong, **WINDOW))


def test_deflated_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dicom(tmp_path / "a.dcm", PIXELS, DeflatedExplicitVRLittleEndian, **WINDOW)
    assert zlib.decompressobj(-15).decompress(without_meta(path.read_bytes()))[:2] == b"\x08\0"
    np.testing.assert_array_equal(read_dicom(path), EXPECTED)
    bomb = write_dicom(tmp_path / "b.dcm", np.zeros((3000, 3000), np.uint16), DeflatedExplicitVRLittleEndian)
    monkeypatch.setenv("CHEXJAX_MAX_PIXELS", "3000")
    assert bomb.stat().st_size < 24000
    with pytest.raises(DataError, match="inflates to more than 24000 bytes"):
        read_dicom(bomb)


def test_uids_are_read_alone(tmp_path: Path) -> None:
    uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4"}
    path = write_dicom(tmp_path / "a.dcm", PIXELS, **uids, **WINDOW)
    assert read_uids(path) == ("1.2.3", "1.2.3.4", "1.2.3.4.5")
    path.write_bytes(path.read_bytes().replace(b"1.2.3.4\0", b"Jane Doe"))
    assert read_uids(path).series == ""
    assert read_judged(path).verdict.status == "doubtful"  # 40 pixels high
