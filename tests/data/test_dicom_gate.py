"""What a DICOM header says against a film: each word that matters, and what becomes of films that lie otherwise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chexjax.data.dicom import read_judged

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.uid import JPEGLosslessSV1, JPEGLSLossless  # noqa: E402

from chexjax.data.verdict import Verdict  # noqa: E402
from tests.dicom_files import write_dicom  # noqa: E402

X, Y = np.meshgrid(np.arange(96), np.arange(80))
PIXELS = (20 * X + 13 * Y + 100).astype(np.uint16)  # no symmetry
CHEST = {
    "Modality": "DX",
    "BodyPartExamined": "CHEST",
    "ViewPosition": "PA",
    "BitsStored": 12,
    "WindowCenter": 2048,
    "WindowWidth": 4096,
}
EXPECTED = np.rint(PIXELS / 4095 * 255).astype(np.uint8)
CLASSES = "1.2.840.10008.5.1.4.1.1."


def judge(tmp_path: Path, pixels: np.ndarray = PIXELS, **fields: Any) -> Verdict:
    return read_judged(write_dicom(tmp_path / "a.dcm", pixels, **{**CHEST, **fields})).verdict


def code(value: str, scheme: str = "SCT") -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "Jane Doe"
    return [item]


def test_a_chest_film_is_ok(tmp_path: Path) -> None:
    assert judge(tmp_path) == Verdict()
    bare = {"Modality": "", "BodyPartExamined": "", "ViewPosition": ""}
    assert judge(tmp_path, **bare) == Verdict()  # nothing is said against it
    for fields in ({"Modality": "CR"}, {"BodyPartExamined": "PORT CHEST"}, {"BodyPartExamined": "Thorax"}):
        assert judge(tmp_path, **fields) == Verdict(), fields
    for view in ("AP", "PA ERECT", "AP SUPINE", "antero-posterior"):
        assert judge(tmp_path, ViewPosition=view) == Verdict(), view
    assert judge(tmp_path, ViewPosition="", ViewCodeSequence=code("272479007")) == Verdict()
    assert judge(tmp_path, BodyPartExamined="", AnatomicRegionSequence=code("T-D3000", "SRT")) == Verdict()
    assert judge(tmp_path, BurnedInAnnotation="NO", PresentationLUTShape="IDENTITY") == Verdict()


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ({"Modality": "CT"}, "refused", "modality CT"),
        ({"Modality": "MR"}, "refused", "modality MR"),
        ({"Modality": "MG"}, "refused", "modality MG"),
        ({"Modality": "US"}, "refused", "modality US"),
        ({"Modality": "OT"}, "doubtful", "neither CR nor DX"),
        ({"Modality": "JANE DOE"}, "doubtful", "neither CR nor DX"),
        ({"SOPClassUID": f"{CLASSES}2"}, "refused", "a CT"),
        ({"SOPClassUID": f"{CLASSES}1.2"}, "refused", "a mammogram"),
        ({"SOPClassUID": f"{CLASSES}77.1.4"}, "refused", "a photograph"),
        ({"SOPClassUID": f"{CLASSES}66.4"}, "refused", "no picture"),
        ({"BodyPartExamined": "HAND"}, "refused", "body part HAND"),
        ({"BodyPartExamined": "L-SPINE"}, "refused", "body part SPINE"),
        ({"BodyPartExamined": "left hips"}, "refused", "body part HIP"),
        ({"BodyPartExamined": "CHESTABDPELVIS"}, "doubtful", "more than the chest"),
        ({"BodyPartExamined": "JANE DOE"}, "doubtful", "not said to be the chest"),
        ({"BodyPartExamined": "", "AnatomicRegionSequence": code("85562004")}, "refused", "region"),
        ({"BodyPartExamined": "", "AnatomicRegionSequence": code("T-11300", "SRT")}, "doubtful", "region"),
        ({"ViewPosition": "LL"}, "doubtful", "a lateral view"),
        ({"ViewPosition": "XTABLE LATERAL"}, "doubtful", "a lateral view"),
        ({"ViewPosition": "RAO"}, "doubtful", "neither a PA nor an AP"),
        ({"ViewPosition": "AP LORDOTIC"}, "doubtful", "neither a PA nor an AP"),
        ({"ViewPosition": "", "ViewCodeSequence": code("R-10236", "SRT")}, "doubtful", "a lateral view"),
        ({"BurnedInAnnotation": "YES"}, "doubtful", "burned-in"),
        ({"PresentationLUTShape": "INVERSE"}, "doubtful", "contradict"),
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"}, "doubtful", "contradict"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "refused", "is dark is not said"),
        ({"PatientOrientation": ["A", "F"]}, "doubtful", "a lateral view"),
        ({"PatientOrientation": ["L", "R"]}, "doubtful", "orientation"),
        ({"PatientOrientation": ["JANE", "DOE"]}, "doubtful", "orientation"),
        ({"PixelAspectRatio": [9, 1]}, "doubtful", "not square"),
    ],
)
def test_what_speaks_against_it(tmp_path: Path, fields: dict[str, Any], status: str, reason: str) -> None:
    verdict = judge(tmp_path, **fields)
    assert verdict.status == status
    assert len(verdict.reasons) == 1
    assert reason in verdict.reasons[0]
    assert "JANE" not in verdict.reasons[0].upper()


def test_the_worst_holds_and_every_reason_is_told(tmp_path: Path) -> None:
    verdict = judge(tmp_path, Modality="CT", BodyPartExamined="HEAD", ViewPosition="LL")
    assert verdict.status == "refused"
    assert len(verdict.reasons) == 3


def test_the_shape_of_the_presentation_lut_comes_first(tmp_path: Path) -> None:
    """As dcm2pnm has it where the two contradict each other."""
    for kind in ("MONOCHROME1", "MONOCHROME2"):
        for shape, expected in (("IDENTITY", PIXELS), ("INVERSE", 4095 - PIXELS)):
            fields = {**CHEST, "PhotometricInterpretation": kind, "PresentationLUTShape": shape}
            film = read_judged(write_dicom(tmp_path / "a.dcm", PIXELS, **fields)).pixels
            np.testing.assert_allclose(film, expected / 4095 * 255, atol=0.51)


@pytest.mark.parametrize(("side", "status"), [(16, "refused"), (31, "refused"), (32, "doubtful"), (64, "ok")])
def test_too_few_pixels(tmp_path: Path, side: int, status: str) -> None:
    assert judge(tmp_path, PIXELS[:64, :side]).status == status


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("where", ["SOPClassUID", "PresentationIntentType"])
def test_for_processing_is_never_read_as_shown(tmp_path: Path, kind: str, where: str) -> None:
    """Linear raw values become the film whose attenuation they are, whatever the photometric interpretation says."""
    attenuation = PIXELS / 1000.0
    counts = np.rint(16000 * np.exp(-attenuation)).astype(np.uint16)
    value = f"{CLASSES}1.1.1" if where == "SOPClassUID" else "FOR PROCESSING"
    fields = {"PhotometricInterpretation": kind, "PixelIntensityRelationship": "LIN", where: value, "BitsStored": 14}
    path = write_dicom(tmp_path / "a.dcm", counts, Modality="DX", PixelIntensityRelationshipSign=1, **fields)
    judged = read_judged(path)
    expected = 255 * (attenuation - attenuation.min()) / np.ptp(attenuation)
    np.testing.assert_allclose(judged.pixels, expected, atol=1.5)
    assert judged.verdict.status == "doubtful"
    absorbed = {**fields, "PixelIntensityRelationship": "LOG", "BitsStored": 12}
    path = write_dicom(tmp_path / "b.dcm", PIXELS, Modality="DX", PixelIntensityRelationshipSign=-1, **absorbed)
    np.testing.assert_allclose(read_judged(path).pixels, expected, atol=1)
    path = write_dicom(tmp_path / "c.dcm", PIXELS, Modality="DX", **absorbed)
    assert read_judged(path).verdict.status == "refused"


# (row, column) directions as DICOM writes them, and how an upright film (left to the right, feet down) becomes such.
WAYS = {
    ("L", "F"): lambda film: film,
    ("R", "F"): np.fliplr,
    ("L", "H"): np.flipud,
    ("R", "H"): lambda film: np.rot90(film, 2),
    ("F", "L"): np.transpose,
    ("F", "R"): lambda film: np.rot90(film),
    ("H", "L"): lambda film: np.rot90(film, -1),
    ("H", "R"): lambda film: np.rot90(film, 2).T,
    ("RA", "FL"): np.fliplr,
}


@pytest.mark.parametrize("way", WAYS, ids="\\".join)
def test_films_are_set_upright(tmp_path: Path, way: tuple[str, str]) -> None:
    """Each way is that of a film whose pixel (0, 0) is known to be the patient's right shoulder."""
    lying = np.ascontiguousarray(WAYS[way](PIXELS))
    judged = read_judged(write_dicom(tmp_path / "a.dcm", lying, **CHEST, PatientOrientation=list(way)))
    np.testing.assert_array_equal(judged.pixels, EXPECTED)
    assert judged.verdict.status == "ok"
    assert bool(judged.verdict.reasons) == (way != ("L", "F"))
    y, x = 20, 70  # a box of one pixel, in the file and in the film
    number = np.arange(PIXELS.size).reshape(PIXELS.shape)
    ((file_y, file_x),) = np.argwhere(WAYS[way](number) == number[y, x])
    height, width = lying.shape
    box = judged.placement.move(file_x / width, file_y / height, 1 / width, 1 / height)
    np.testing.assert_allclose(box, [x / 96, y / 80, 1 / 96, 1 / 80])
    assert judged.placement.file_size(*judged.pixels.shape) == (width, height)


def test_the_ways_are_what_they_say() -> None:
    """The table above, by the standard's own words: where one goes along a row, and down a column."""
    upright = np.array([["RH", "LH"], ["RF", "LF"]])  # which corner of the patient
    for (row, column), lay in WAYS.items():
        film = lay(upright)
        for axis, letter in ((film[0], row[0]), (film[:, 0], column[0])):
            assert letter in axis[1], (row, column)
            assert letter not in axis[0], (row, column)


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ({"PixelSpacing": [0.4, 0.2]}, (160, 96)),
        ({"ImagerPixelSpacing": [0.1, 0.15]}, (80, 144)),
        ({"PixelAspectRatio": [2, 1]}, (160, 96)),
        ({"PixelSpacing": [0.2, 0.2], "PixelAspectRatio": [2, 1]}, (80, 96)),
        ({"PixelAspectRatio": [2, 1], "PatientOrientation": ["F", "L"]}, (96, 160)),
        ({"PixelSpacing": [0.143, 0.1431]}, (80, 96)),
    ],
)
def test_pixels_become_square(tmp_path: Path, fields: dict[str, Any], shape: tuple[int, int]) -> None:
    judged = read_judged(write_dicom(tmp_path / "a.dcm", PIXELS, **CHEST, **fields))
    assert judged.pixels.shape == shape
    assert judged.verdict.status == "ok"
    assert judged.placement.file_size(*judged.pixels.shape) == (96, 80)
    film = judged.pixels.T if "PatientOrientation" in fields else judged.pixels
    rows, columns = (np.arange(extent) * old / extent for extent, old in zip(film.shape, PIXELS.shape, strict=True))
    expected = (20 * columns[None] + 13 * rows[:, None] + 100) / 4095 * 255
    assert np.abs(film - expected)[2:-2, 2:-2].max() < 2


@pytest.mark.parametrize("planar", [0, 1])
def test_grey_captures_in_colour(tmp_path: Path, planar: int) -> None:
    grey = EXPECTED
    rgb = np.repeat(grey[..., None], 3, axis=-1)
    fields = {"SamplesPerPixel": 3, "Rows": 80, "Columns": 96, "PlanarConfiguration": planar, "Modality": "CR"}

    def written(pixels: np.ndarray, **more: Any) -> Path:
        laid = np.moveaxis(pixels, -1, 0) if planar else pixels
        laid = np.ascontiguousarray(laid)
        return write_dicom(tmp_path / "a.dcm", laid, **fields, **{"PhotometricInterpretation": "RGB", **more})

    judged = read_judged(written(rgb))
    np.testing.assert_array_equal(judged.pixels, grey)
    assert judged.verdict == Verdict()
    ybr = rgb.copy()
    ybr[..., 1:] = 128
    judged = read_judged(written(ybr, PhotometricInterpretation="YBR_FULL"))
    assert np.abs(judged.pixels.astype(int) - grey).max() <= 1
    assert judged.verdict == Verdict()
    rgb[10:16, 10:16] = (255, 0, 0)
    assert read_judged(written(rgb)).verdict.reasons == ("marks in colour",)
    rgb[:, 20:, 2] = 255 - rgb[:, 20:, 2]
    assert read_judged(written(rgb)).verdict == Verdict("refused", ("a picture in colour",))


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless])
def test_compressed_captures_in_colour(tmp_path: Path, syntax: Any) -> None:
    """Read by imagecodecs; the extra `dicom` brings pydicom no decoder for these."""
    imagecodecs = pytest.importorskip("imagecodecs")
    rgb = np.repeat(EXPECTED[..., None], 3, axis=-1)
    rgb[10:16, 10:16] = (255, 0, 0)
    if syntax == JPEGLSLossless:
        frame = imagecodecs.jpegls_encode(rgb)
    else:
        frame = imagecodecs.jpeg_encode(rgb, lossless=True, colorspace="rgb", outcolorspace="rgb")
    fields = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "Modality": "CR"}
    film = write_dicom(tmp_path / "a.dcm", rgb, syntax, frame, Rows=80, Columns=96, **fields)
    judged = read_judged(film)
    np.testing.assert_array_equal(judged.pixels, np.asarray(Image.fromarray(rgb).convert("L")))
    assert judged.verdict.reasons == ("marks in colour",)
