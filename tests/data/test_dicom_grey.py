"""Tables, ranges, padding and high bits of DICOM films, held against a scalar look-up and hand-made films."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chexjax.data.dicom import read_dicom, read_judged

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian  # noqa: E402

from chexjax.data.dicom_grey import own_range  # noqa: E402
from tests.dicom_files import write_dicom  # noqa: E402

PIXELS = np.random.default_rng(0).integers(0, 4096, (70, 80)).astype(np.uint16)
SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]


def table_of(entries: np.ndarray, first: int, bits: int, form: str, big: bool = False) -> Dataset:
    """A LUT's item: its entries as words (`US`, `OW`), or two 8-bit ones in a word (`packed`)."""
    table = Dataset()
    table.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    if form == "packed":
        packed = np.append(entries, 0)[: len(entries) + len(entries) % 2].astype(np.uint8)
        table.add_new("LUTData", "OW", (packed.view("<u2").astype(">u2") if big else packed).tobytes())
    elif form == "OW":
        table.add_new("LUTData", "OW", entries.astype(">u2" if big else "<u2").tobytes())
    else:
        table.add_new("LUTData", "US", entries.tolist())
    return table


def look_up(value: float, entries: np.ndarray, first: int) -> int:
    if value < first:
        return int(entries[0])
    if value > first + len(entries) - 1:
        return int(entries[-1])
    return int(entries[round(value) - first])


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("form", ["US", "OW", "packed"])
@pytest.mark.parametrize(("size", "first", "bits"), [(4096, 0, 8), (1001, 700, 8), (1001, -300, 8), (4096, 0, 12)])
def test_tables(tmp_path: Path, syntax: Any, form: str, size: int, first: int, bits: int) -> None:
    """VOI and modality alike; in all the forms that 8-bit entries come in, on 12-bit pixels."""
    if form == "packed" and bits > 8:
        return
    big = syntax == ExplicitVRBigEndian
    entries = np.rint((2**bits - 1) * np.linspace(0, 1, size) ** 2).astype(np.uint16)
    pixels = PIXELS.astype(">u2" if big else "<u2")
    fields: dict[str, Any] = {"BitsStored": 12, "WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
    if first < 0:
        pixels = (PIXELS.astype(np.int64) - 2000).astype(">i2" if big else "<i2")
        fields["BitsStored"] = 16
    expected = [round(look_up(int(v), entries, first) / (2**bits - 1) * 255) for v in pixels.ravel()]
    for sequence in ("VOILUTSequence", "ModalityLUTSequence"):
        table = table_of(entries, first, bits, form, big)
        path = write_dicom(tmp_path / "a.dcm", pixels, syntax, **fields, **{sequence: [table]})
        np.testing.assert_array_equal(read_dicom(path).ravel(), expected, sequence)
    assert np.ptp(expected) > 200


def test_a_table_on_rescaled_values(tmp_path: Path) -> None:
    """First the slope, then the table, whose first value may lie below 0."""
    entries = np.arange(256, dtype=np.uint16)
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [256, 65536 - 100, 8])  # -100, in a word without sign
    table.add_new("LUTData", "US", entries.tolist())
    fields = {"BitsStored": 12, "RescaleSlope": "0.0625", "RescaleIntercept": "-100", "VOILUTSequence": [table]}
    found = read_dicom(write_dicom(tmp_path / "a.dcm", PIXELS, **fields))
    np.testing.assert_allclose(found, np.minimum(PIXELS / 16, 255), atol=0.51)


def test_more_bits_in_a_table_than_it_says(tmp_path: Path) -> None:
    table = table_of(np.arange(4096), 0, 8, "US")
    found = read_dicom(write_dicom(tmp_path / "a.dcm", PIXELS, BitsStored=12, VOILUTSequence=[table]))
    np.testing.assert_allclose(found, PIXELS / 4095 * 255, atol=0.51)


@pytest.mark.parametrize("high", [11, 12, 15])
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_the_high_bit(tmp_path: Path, high: int, kind: type) -> None:
    """The bits stored end at it, whatever stands above and below."""
    junk = np.random.default_rng(1).integers(0, 2**16, PIXELS.shape)
    shift = high - 11
    mask = 4095 << shift
    stored = ((PIXELS.astype(np.int64) << shift) | (junk & ~mask & 0xFFFF)).astype(np.uint16).view(kind)
    center = 0 if kind is np.int16 else 2048
    fields = {"BitsStored": 12, "HighBit": high, "WindowCenter": center, "WindowWidth": 4096}
    judged = read_judged(write_dicom(tmp_path / "a.dcm", stored, **fields))
    value = np.where(PIXELS >= 2048, PIXELS.astype(int) - 4096, PIXELS) if kind is np.int16 else PIXELS
    expected = 255 * np.clip((value - (center - 0.5)) / 4095 + 0.5, 0, 1)
    np.testing.assert_allclose(judged.pixels, expected, atol=0.51)
    assert (judged.verdict.reasons == ()) == (high == 11)
    assert judged.verdict.status == "ok"


def film(levels: int = 3000) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(0, 1, 80), np.linspace(0, 1, 70))
    return np.rint(500 + levels * (0.3 + 0.7 * np.sin(3 * x) * y)).astype(np.uint16)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("extreme", [0, 16383])
def test_outliers_do_not_darken_a_film_without_a_window(tmp_path: Path, kind: str, extreme: int) -> None:
    pixels = film() if extreme else film() + 9000
    plain = read_judged(write_dicom(tmp_path / "a.dcm", pixels, BitsStored=14, PhotometricInterpretation=kind))
    pixels[30, 40] = extreme
    dead = read_judged(write_dicom(tmp_path / "b.dcm", pixels, BitsStored=14, PhotometricInterpretation=kind))
    others = np.ones(pixels.shape, bool)
    others[30, 40] = False
    np.testing.assert_array_equal(dead.pixels[others], plain.pixels[others])
    assert plain.verdict.reasons == ()
    assert dead.verdict.reasons == ("no window, and outliers: the range of the other pixels is shown",)


def test_the_range_of_a_films_own() -> None:
    values = np.arange(1001.0)
    even = np.ones(1001, int)
    assert own_range(values, even) == (0, 1000)
    assert own_range(np.append(values, 5000.0), np.append(even, 3)) == (0, 1000)  # a dead pixel or three
    assert own_range(np.append(values, 5000.0), np.append(even, 300)) == (
        0,
        5000,
    )  # a quarter of the film is no outlier
    tail = np.arange(1001.0, 9000.0, 50)  # a marker with soft edges: no gap, but few pixels
    low, high = own_range(np.append(values, tail), np.append(100 * even, np.ones(len(tail), int)))
    assert low == 0
    assert 1000 < high < 1600
    assert own_range(np.array([7.0]), np.array([9])) == (7, 7)
    assert own_range(-values, even) == (-1000, 0)


def test_8_bits_without_a_window_are_grey_levels(tmp_path: Path) -> None:
    pixels = (PIXELS // 40 + 60).astype(np.uint8)
    np.testing.assert_array_equal(read_dicom(write_dicom(tmp_path / "a.dcm", pixels)), pixels)


def test_padding_is_outside_the_film(tmp_path: Path) -> None:
    """The same value in the middle of the film is tissue."""
    pixels = film()
    pixels[:, :10] = 4095
    pixels[30:32, 40] = 4095
    fields = {"BitsStored": 12, "PhotometricInterpretation": "MONOCHROME2", "WindowCenter": 2048, "WindowWidth": 4096}
    whole = write_dicom(tmp_path / "a.dcm", pixels, **fields, PixelPaddingValue=4095)
    judged = read_judged(whole)
    assert not judged.pixels[:, :10].any()
    assert (judged.pixels[30:32, 40] == 255).all()
    assert judged.verdict.status == "ok"
    pixels[20:40, 30:60] = 4095
    judged = read_judged(write_dicom(tmp_path / "b.dcm", pixels, **fields, PixelPaddingValue=4095))
    assert (judged.pixels[20:40, 30:60] == 255).all()
    assert judged.verdict.status == "doubtful"
    assert "padding" in judged.verdict.reasons[0]


@pytest.mark.parametrize(
    ("broken", "status", "reason"),
    [
        ({"RescaleSlope": "abc"}, "doubtful", "a rescale slope that is no number was passed over"),
        ({"RescaleSlope": "nan"}, "doubtful", "a rescale slope that is no number was passed over"),
        ({"RescaleIntercept": "-1O24"}, "doubtful", "a rescale intercept that is no number was passed over"),
        ({"WindowWidth": "wide"}, "ok", "an unusable window was passed over"),
        ({"WindowWidth": "-5"}, "ok", "an unusable window was passed over"),
        ({"WindowWidth": ""}, "ok", "an unusable window was passed over"),
        ({"WindowWidth": "", "WindowCenter": "", "RescaleSlope": "", "RescaleIntercept": ""}, "ok", None),
        ({"RescaleSlope": "1,0", "WindowWidth": "4096,0"}, "ok", None),
    ],
)
def test_numbers_that_are_none_are_passed_over_and_told(
    tmp_path: Path, broken: dict[str, str], status: str, reason: str | None
) -> None:
    fields = {"WindowCenter": "2048", "WindowWidth": "4096", "RescaleSlope": "1", "RescaleIntercept": "0"} | broken
    with pydicom.config.disable_value_validation():
        path = write_dicom(tmp_path / "a.dcm", PIXELS, BitsStored=12)
        film = pydicom.dcmread(path)
        for name, text in fields.items():
            film.add(pydicom.DataElement(pydicom.datadict.tag_for_keyword(name), "LO", text))
        film.save_as(path)
    judged = read_judged(path)
    assert (judged.verdict.status, judged.verdict.reasons) == (status, (reason,) if reason else ())
    np.testing.assert_allclose(judged.pixels, PIXELS / 4095 * 255, atol=1)  # as if they were absent
