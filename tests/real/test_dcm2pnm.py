"""Every DICOM film at hand against an outside reader: dcmtk's dcm2pnm (dcmj2pnm and dcml2pnm for JPEG and JPEG-LS).

The films are real ones of `../shared/dicom-cr`, the made-up ones of pydicom's own tests, and films written here. What
differs, and why, is listed in BUILD-measurements.md.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chexjax.data.dicom import read_judged
from chexjax.data.kinds import classify
from chexjax.errors import DataError

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset  # noqa: E402

from chexjax.data.dicom_header import Header, read_header  # noqa: E402
from tests.dicom_files import write_dicom  # noqa: E402

if not shutil.which("dcm2pnm"):
    pytest.skip("dcm2pnm is not installed (Debian's dcmtk)", allow_module_level=True)

# Films that differ by design: what ours does, and dcm2pnm does not.
OURS_DIFFER = {
    "JPGExtended.dcm": "outliers",
    "JPEG-lossy.dcm": "outliers",
    "6293": "square",
    "6924": "square",
}


def theirs(path: Path, header: Header, out: Path) -> np.ndarray | None:
    """Grey levels as dcm2pnm gives them by the film's own table, window or range; None where it cannot read it."""
    out.unlink(missing_ok=True)
    window = ["+Wm"] if (header.word("BitsStored") or 16) > 8 else []
    if header.numbers("WindowCenter"):
        window = ["+Wi", "1"]
    if header.items("VOILUTSequence"):
        window = ["+Wl", "1"]
    kind = header.syntax.removeprefix("1.2.840.10008.1.2.4.")
    tool = {"5": "dcmj2pnm", "7": "dcmj2pnm", "8": "dcml2pnm"}.get(kind[:1] if len(kind) == 2 else "", "dcm2pnm")
    subprocess.run([tool, "-q", "-O", *window, "+op", path, out], capture_output=True, timeout=60, check=False)
    if not out.exists() or not out.stat().st_size:
        return None
    with Image.open(out) as picture:
        return np.asarray(picture.convert("L")).astype(int)


def lying_as_stored(data: bytes) -> bytes:
    """The file without the orientation that we follow and dcm2pnm does not."""
    return data.replace(b"\x20\0\x20\0CS", b"\x20\0\x21\0CS")


def compare(folder: Path, tmp_path: Path) -> dict[str, str | int]:
    """The largest difference of each film in grey levels, or who could not read it."""
    found: dict[str, str | int] = {}
    for path in sorted(folder.rglob("*")):
        if classify(path).kind != "film" or classify(path).what != "DICOM":
            continue
        film = tmp_path / "film"
        film.write_bytes(lying_as_stored(path.read_bytes()))
        outside = theirs(film, read_header(film.read_bytes(), path.name), tmp_path / "out.ppm")
        try:
            own = read_judged(film).pixels
        except DataError:
            found[path.name] = "neither" if outside is None else "only theirs"
            continue
        if outside is None:
            found[path.name] = "only ours"
        else:
            found[path.name] = int(np.abs(own - outside).max()) if own.shape == outside.shape else "other shape"
    return found


def test_real_films(real_data: Path, tmp_path: Path) -> None:
    found = compare(real_data / "dicom-cr", tmp_path)
    assert len(found) == 11
    differing = {name: value for name, value in found.items() if value not in (0, 1)}
    assert differing == {"RG3_extremity_J2KI.dcm": "only ours", "RG3_extremity_J2KR.dcm": "only ours"}
    lossless = read_judged(real_data / "dicom-cr" / "RG3_extremity_RLE.dcm").pixels
    np.testing.assert_array_equal(read_judged(real_data / "dicom-cr" / "RG3_extremity_J2KR.dcm").pixels, lossless)
    lossy = read_judged(real_data / "dicom-cr" / "RG3_extremity_J2KI.dcm").pixels
    assert np.abs(lossy.astype(int) - lossless).mean() < 2


def test_pydicoms_own_files(tmp_path: Path) -> None:
    """All but frames, palettes and deep colour, which no film has; dcm2pnm reads no JPEG 2000."""
    found = compare(Path(pydicom.__file__).parent / "data" / "test_files", tmp_path)
    assert len(found) > 60
    for name, value in found.items():
        if isinstance(value, int):
            assert value <= 2 or OURS_DIFFER.get(name) == "outliers", name
        elif value == "only theirs":
            assert any(word in name for word in ("frame", "16bit", "32bit", "palette", "ybr_color")), name
        elif value == "other shape":
            assert OURS_DIFFER.get(name) == "square", name
    assert sum(isinstance(value, int) and value <= 1 for value in found.values()) > 50


def table(size: int, first: int, bits: int) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [size % 65536, first, bits])
    entries = np.rint((2**bits - 1) * np.linspace(0, 1, size) ** 2).astype(np.uint16)
    item.add_new("LUTData", "OW", entries.tobytes() if bits > 8 else entries.astype(np.uint8).tobytes())
    return item


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "fields",
    [
        {"VOILUTSequence": [table(4096, 0, 8)]},
        {"VOILUTSequence": [table(4096, 0, 12)]},
        {"VOILUTSequence": [table(1000, 900, 10)]},
        {"ModalityLUTSequence": [table(4096, 0, 12)]},
        {"ModalityLUTSequence": [table(4096, 0, 8)], "WindowCenter": 100, "WindowWidth": 100},
        {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 3000, "WindowWidth": 5000},
        {"HighBit": 15, "WindowCenter": 2048, "WindowWidth": 4096},
        {"WindowCenter": 1000, "WindowWidth": 500, "VOILUTFunction": "SIGMOID"},
        {"PresentationLUTShape": "INVERSE", "WindowCenter": 1000, "WindowWidth": 3000},
        {"PresentationLUTShape": "IDENTITY", "WindowCenter": 1000, "WindowWidth": 3000},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_films_written_here(tmp_path: Path, kind: str, fields: dict[str, Any]) -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (70, 80)).astype(np.uint16)
    if "HighBit" in fields:
        pixels <<= 4
    fields = {"BitsStored": 12, "PhotometricInterpretation": kind, **fields}
    path = write_dicom(tmp_path / "a.dcm", pixels, **fields)
    outside = theirs(path, read_header(path.read_bytes(), "a"), tmp_path / "out.ppm")
    assert outside is not None
    assert np.ptp(outside) > 200
    assert np.abs(read_judged(path).pixels - outside).max() <= 1
