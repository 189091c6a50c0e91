"""DICOM films: written here, value by value, and read against the standard's formulas and pydicom's own windowing."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chexjax.data import dicom
from chexjax.data.dicom import is_dicom, read_dicom
from chexjax.data.dicom_grey import apply_window
from chexjax.data.kinds import classify
from chexjax.errors import DataError

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.uid import (  # noqa: E402
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.dicom_files import extended_jpeg, jpeg, jpeg_2000, lossless_jpeg, write_dicom  # noqa: E402

PIXELS = np.random.default_rng(0).integers(0, 4096, (40, 64)).astype(np.uint16)


def grey(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(255 * np.clip((values.astype(float) - low) / (high - low), 0, 1)).astype(np.uint8)


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_without_a_window_the_pixels_own_range_is_shown(tmp_path: Path, syntax: Any, bits: int) -> None:
    pixels = (PIXELS * (16 if bits == 16 else 1)).astype(np.uint16)
    path = write_dicom(tmp_path / "film.dcm", pixels, syntax, BitsStored=bits)
    assert is_dicom(path)
    found = read_dicom(path)
    assert (found.dtype, found.shape) == (np.uint8, (40, 64))
    np.testing.assert_array_equal(found, grey(pixels, pixels.min(), pixels.max()))


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    straight = read_dicom(write_dicom(tmp_path / "a.dcm", PIXELS, BitsStored=12, WindowCenter=2048, WindowWidth=4096))
    options = {"BitsStored": 12, "WindowCenter": 2048, "WindowWidth": 4096, "PhotometricInterpretation": "MONOCHROME1"}
    inverted = read_dicom(write_dicom(tmp_path / "b.dcm", PIXELS, **options))
    assert np.ptp(straight) > 200
    # 255 minus a half rounds to an even number on either side: one level of slack there
    assert np.abs(inverted.astype(int) + straight - 255).max() <= 1
    again = read_dicom(write_dicom(tmp_path / "c.dcm", PIXELS, **options, PresentationLUTShape="INVERSE"))
    np.testing.assert_array_equal(again, inverted)


def test_rescaling_comes_before_the_window(tmp_path: Path) -> None:
    fields = {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 3000, "WindowWidth": 2000}
    found = read_dicom(write_dicom(tmp_path / "film.dcm", PIXELS, BitsStored=12, **fields))
    expected = np.zeros(PIXELS.shape)
    for pixel, stored in np.ndenumerate(PIXELS.astype(float)):
        value = 2 * stored - 1000
        if value <= 3000 - 0.5 - 1999 / 2:
            expected[pixel] = 0
        elif value > 3000 - 0.5 + 1999 / 2:
            expected[pixel] = 255
        else:
            expected[pixel] = ((value - 2999.5) / 1999 + 0.5) * 255
    np.testing.assert_array_equal(found, np.rint(expected))
    assert 0.2 < (found == 0).mean() < 0.8


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(2000, 1500), (100, 30), (2047.5, 4096)])
def test_windows_are_pydicoms(function: str, center: float, width: float) -> None:
    header = Dataset()
    header.BitsStored, header.PixelRepresentation, header.PhotometricInterpretation = 12, 0, "MONOCHROME2"
    header.WindowCenter, header.WindowWidth, header.VOILUTFunction = center, width, function
    expected = pydicom.pixels.apply_windowing(PIXELS, header) / 4095
    np.testing.assert_allclose(apply_window(PIXELS.astype(float), center, width, function), expected, atol=1e-9)


def test_the_first_of_several_windows(tmp_path: Path) -> None:
    several = read_dicom(write_dicom(tmp_path / "a.dcm", PIXELS, WindowCenter=[900, 3000], WindowWidth=[600, 100]))
    one = read_dicom(write_dicom(tmp_path / "b.dcm", PIXELS, WindowCenter=900, WindowWidth=600))
    np.testing.assert_array_equal(several, one)


def test_a_voi_table(tmp_path: Path) -> None:
    table = Dataset()
    values = np.linspace(1023, 0, 4096).astype(np.uint16)  # falling: it inverts the film
    table.add_new("LUTDescriptor", "US", [4096, 0, 10])
    table.add_new("LUTData", "OW", values.tobytes())
    found = read_dicom(write_dicom(tmp_path / "a.dcm", PIXELS, BitsStored=12, VOILUTSequence=[table]))
    np.testing.assert_array_equal(found, np.rint(values[PIXELS] / 1023 * 255))


def test_signed_pixels_and_padding(tmp_path: Path) -> None:
    pixels = (PIXELS.astype(np.int16) - 2000).copy()
    pixels[:, :10] = -30000
    path = write_dicom(tmp_path / "a.dcm", pixels, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=-30000)
    found = read_dicom(path)
    inside = pixels[:, 10:].astype(float)
    assert not found[:, :10].any()
    expected = 255 * (1 - (inside - inside.min()) / (inside.max() - inside.min()))
    np.testing.assert_allclose(found[:, 10:], expected, atol=0.51)


@pytest.fixture(params=["imagecodecs", "pydicom's"])
def decoders(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the decoders: imagecodecs, and those that pydicom finds where it is not installed."""
    if request.param == "imagecodecs":
        pytest.importorskip("imagecodecs")
    else:
        monkeypatch.setattr(dicom, "_codec", lambda syntax, kind: None)
    return request.param


def need_decoder(syntax: Any, decoders: str) -> None:
    if decoders != "imagecodecs" and not pydicom.pixels.get_decoder(syntax).is_available:
        pytest.skip(f"pydicom finds no decoder of {syntax.name}")


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_compressed_films(tmp_path: Path, syntax: Any, kind: type, decoders: str) -> None:
    need_decoder(syntax, decoders)
    pixels = PIXELS.astype(np.int16) - 2000 if kind is np.int16 else PIXELS
    encoded = jpeg_2000(pixels.view(np.uint16)) if syntax == JPEG2000Lossless else None
    path = write_dicom(tmp_path / "a.dcm", pixels, syntax, encoded, BitsStored=16)
    np.testing.assert_array_equal(read_dicom(path), grey(pixels, pixels.min(), pixels.max()))


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_jpeg(tmp_path: Path, syntax: Any, bits: int, decoders: str) -> None:
    """What most archives send; encoded in the tests, as nothing at hand writes it."""
    need_decoder(syntax, decoders)
    pixels = (PIXELS << 4 >> (16 - bits)).astype(np.uint8 if bits == 8 else np.uint16)
    encoded = lossless_jpeg(pixels, bits)
    fields = {"BitsStored": bits, "PhotometricInterpretation": "MONOCHROME1"}
    found = read_dicom(write_dicom(tmp_path / "a.dcm", pixels, syntax, encoded, **fields))
    plain = read_dicom(write_dicom(tmp_path / "b.dcm", pixels, **fields))
    np.testing.assert_array_equal(found, plain)
    assert np.ptp(found) == 255


def test_baseline_jpeg(tmp_path: Path, decoders: str) -> None:
    """Against Pillow's decoder of the same bytes; two decoders round a level or two apart."""
    need_decoder(JPEGBaseline8Bit, decoders)
    x, y = np.meshgrid(np.arange(64), np.arange(40))
    encoded = jpeg((128 + 100 * np.sin(x / 9) * np.cos(y / 7)).astype(np.uint8))
    expected = np.asarray(Image.open(io.BytesIO(encoded)))
    window = {"WindowCenter": 128, "WindowWidth": 256}
    found = read_dicom(write_dicom(tmp_path / "a.dcm", expected, JPEGBaseline8Bit, encoded, **window))
    assert np.abs(found.astype(int) - expected).max() <= 2
    assert np.ptp(found) > 150


def test_extended_jpeg_of_12_bits(tmp_path: Path, decoders: str) -> None:
    need_decoder(JPEGExtended12Bit, decoders)
    if decoders != "imagecodecs":
        pytest.importorskip("libjpeg", reason="Pillow, which pydicom then takes, decodes 8 bits alone")
    blocks = np.random.default_rng(2).integers(0, 4096, (9, 10)).astype(np.uint16)
    pixels = np.kron(blocks, np.ones((8, 8), np.uint16))
    fields = {"BitsStored": 12, "WindowCenter": 2048, "WindowWidth": 4096}
    found = read_dicom(write_dicom(tmp_path / "a.dcm", pixels, JPEGExtended12Bit, extended_jpeg(blocks), **fields))
    np.testing.assert_array_equal(found, np.rint(pixels / 4095 * 255))


def test_a_syntax_without_a_decoder_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dicom(tmp_path / "a.dcm", PIXELS, JPEGLSLossless, b"\xff\xd8 whatever", BitsStored=12)
    monkeypatch.setattr(dicom, "_codec", lambda syntax, kind: None)
    decoder = type(pydicom.pixels.get_decoder(JPEGLSLossless))
    monkeypatch.setattr(decoder, "is_available", property(lambda self: False))
    with pytest.raises(DataError, match=r"JPEG-LS.*not installed; pip install 'chexjax\[dicom\]'"):
        read_dicom(path)


def test_what_cannot_be_decoded_says_what_is_needed(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", PIXELS)
    film = pydicom.dcmread(path)
    film.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8 this is no JPEG"])
    film["PixelData"].is_undefined_length = True
    film.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    film.save_as(path)
    with pytest.raises(DataError, match=r"cannot be decoded.*JPEG Lossless"):
        read_dicom(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"NumberOfFrames": 2}, "2 of kind 'MONOCHROME2'"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE"),
    ],
)
def test_what_is_no_film(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.stack([PIXELS, PIXELS]), **change)
    with pytest.raises(DataError, match=message):
        read_dicom(path)


def test_broken_files(tmp_path: Path) -> None:
    whole = write_dicom(tmp_path / "whole.dcm", PIXELS).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:-500])
    (tmp_path / "text.dcm").write_text("no film")
    (tmp_path / "header.dcm").write_bytes(whole[: whole.index(b"\xe0\x7f\x10\x00")])
    for name, message in (
        ("cut", "cut short: 4620 bytes, not 5120"),
        ("text", "as DICOM"),
        ("header", "without pixels"),
        ("no", "No such"),
    ):
        with pytest.raises(DataError, match=message):
            read_dicom(tmp_path / f"{name}.dcm")


@pytest.mark.parametrize("lacking", ["Rows", "Columns"])
def test_a_film_that_lacks_a_size_is_read_and_says_which(tmp_path: Path, lacking: str) -> None:
    path = write_dicom(tmp_path / "a.dcm", PIXELS)
    film = pydicom.dcmread(path)
    del film[lacking]
    film.save_as(path)
    assert classify(path).kind == "film"
    with pytest.raises(DataError, match=rf"a film whose size is not known \({lacking} missing\)"):
        read_dicom(path)


def test_nothing_of_the_patient_is_heard(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_dicom(tmp_path / "a.dcm", PIXELS)
    raw = path.read_bytes().replace(b"19700101", b"Jane1970")  # an invalid date, which pydicom warns about
    path.write_bytes(raw)
    read_dicom(path)
    path.write_bytes(raw[:-300])
    with pytest.raises(DataError) as caught:
        read_dicom(path)
    heard = "".join(capfd.readouterr()) + str(caught.value)
    for word in ("Jane1970", "Lastnamington", "Firstnamia", "471147"):
        assert word not in heard
