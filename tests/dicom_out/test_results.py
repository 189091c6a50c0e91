"""DICOM results say what the prediction says, of the input's patient and study, and other readers accept them."""

import dataclasses
import math
import re
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from chexjax.commands import predict as command
from chexjax.data.verdict import Verdict
from chexjax.dicom_out import results
from chexjax.dicom_out.codes import FINDING_CODES, OWN, code_of
from chexjax.dicom_out.results import Algorithm, write_results
from chexjax.errors import DataError
from chexjax.findings import FINDINGS
from chexjax.predict import Prediction
from tests.conftest import REPOSITORY
from tests.untrained import save_untrained

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")
from tests.dicom_files import SECRET, write_dicom  # noqa: E402  # it needs pydicom

ALGORITHM = Algorithm("ab" * 32, 77)
STUDY = {"StudyInstanceUID": "1.2.3.4", "SeriesInstanceUID": "1.2.3.4.1", "Modality": "CR"}


def a_film(folder: Path, **fields: object) -> Path:
    pixels = np.random.default_rng(0).integers(0, 4096, (120, 90), np.uint16)
    return write_dicom(folder / "film.dcm", pixels, **(STUDY | {"BitsStored": 12} | fields))


def a_prediction(extent: tuple[int, int] = (120, 90), verdict: Verdict = Verdict()) -> Prediction:  # noqa: B008
    random = np.random.default_rng(1)
    thresholds = np.full(14, 0.5)
    thresholds[3] = math.nan
    probabilities = random.uniform(0.01, 0.99, 14)
    return Prediction(
        name="film.dcm", probabilities=probabilities, uncalibrated=probabilities, thresholds=thresholds,
        findings=FINDINGS,
        verdict=verdict, film=random.integers(0, 256, extent, np.uint8), cleaned=None,
        maps=random.normal(size=(4, 4, 14)).astype(np.float32),
    )  # fmt: skip


def write(source: Path, prediction: Prediction, folder: Path) -> dict[str, Path]:
    written = write_results(source, prediction, prediction.film.shape, ALGORITHM, folder)
    return {path.stem.rpartition("-")[2]: path for path in written}


def items(node, depth=0):
    """All content items of a report, with what they contain."""
    for item in node.get("ContentSequence", ()):
        yield item
        yield from items(item)


def named(item) -> str:
    return item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""


def test_the_report_says_what_the_prediction_says(tmp_path: Path) -> None:
    prediction = a_prediction()
    report = pydicom.dcmread(write(a_film(tmp_path), prediction, tmp_path / "out")["report"])
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    seen = {}
    regions = dict.fromkeys(FINDINGS, 0)
    for group in (item for item in items(report) if named(item) == "Measurement Group"):
        content = {named(item): item for item in items(group)}
        finding = content["Tracking Identifier"].TextValue.split(",")[0]
        code = content["Finding"].ConceptCodeSequence[0]
        assert (code.CodeValue, code.CodingSchemeDesignator) == code_of(finding)[:2]
        assert {item.TextValue for item in items(group) if named(item) == "Algorithm Parameters"} == {
            f"weights sha256 {'ab' * 32}", "step 77",
        }  # fmt: skip
        if "Probability" not in content:
            regions[finding] += 1
            continue
        calls = {"Present", "Absent"} & {
            item.ConceptCodeSequence[0].CodeMeaning for item in items(group) if "ConceptCodeSequence" in item
        }
        values = {
            name: float(content[name].MeasuredValueSequence[0].NumericValue)
            for name in ("Probability", "Decision threshold") if name in content
        }  # fmt: skip
        seen[finding] = (values, calls)
    assert seen.keys() == set(FINDINGS)
    for finding, (values, calls) in seen.items():
        assert values["Probability"] == pytest.approx(prediction.probability(finding), abs=1e-12)
        known = not math.isnan(prediction.threshold(finding))
        assert ("Decision threshold" in values) is known
        assert calls == ({"Present" if finding in prediction.called else "Absent"} if known else set())
        assert regions[finding] == (len(prediction.boxes(finding)) if finding in prediction.called else 0)


def test_the_boxes_lie_where_the_prediction_has_them(tmp_path: Path) -> None:
    prediction = a_prediction()
    written = write(a_film(tmp_path), prediction, tmp_path / "out")
    edges = [
        (box.left, box.top, box.left + box.width, box.top + box.height)
        for finding in prediction.called for box in prediction.boxes(finding)
    ]  # fmt: skip
    report = [item.GraphicData for item in items(pydicom.dcmread(written["report"])) if "GraphicData" in item]
    assert [(x[0], x[1], x[4], x[5]) for x in report] == edges
    state = pydicom.dcmread(written["boxes"]).GraphicAnnotationSequence[0]
    drawn = [graphic.GraphicData for graphic in state.GraphicObjectSequence]
    shown = [(x + 0.5, y + 0.5, min(right + 0.5, 90), min(bottom + 0.5, 120)) for x, y, right, bottom in edges]
    assert [(x[0], x[1], x[4], x[5]) for x in drawn] == shown
    texts = [text.UnformattedTextValue for text in state.TextObjectSequence]
    assert texts[0] == f"{prediction.called[0]} {prediction.probability(prediction.called[0]):.2f}"


def test_a_map_that_was_not_shown_to_point_says_so_in_all_three(tmp_path: Path, monkeypatch) -> None:
    """The first finding's; another that is called keeps its plain name."""
    prediction = a_prediction()
    first, second = prediction.called[:2]
    assert first == prediction.ranked[0]
    titles: list[str] = []
    annotate = results.overlay.annotate
    monkeypatch.setattr(results.overlay, "annotate", lambda *a, **b: (titles.append(a[3]), annotate(*a, **b))[1])
    warned = dataclasses.replace(ALGORITHM, unproven={first})
    paths = write_results(a_film(tmp_path), prediction, prediction.film.shape, warned, tmp_path / "out")
    report, boxes, capture = (pydicom.dcmread(path) for path in paths)
    names = [item.TextValue for item in items(report) if named(item) == "Tracking Identifier"]
    for finding, is_warned in ((first, True), (second, False)):
        regions = [name for name in names if name.startswith(f"{finding}, region")]
        assert {name.endswith(", place unproven") for name in regions} == {is_warned}
    texts = [text.UnformattedTextValue for text in boxes.GraphicAnnotationSequence[0].TextObjectSequence]
    assert {"unproven" in text for text in texts if text.startswith(f"{first} ")} == {True}
    assert {"unproven" in text for text in texts if text.startswith(f"{second} ")} == {False}
    assert capture.SOPClassUID.name == "Secondary Capture Image Storage"
    assert f"{prediction.probability(first):.3f}, place unproven" in titles[0]


def test_patient_and_study_are_the_films(tmp_path: Path) -> None:
    source = a_film(tmp_path, StudyDate="20200102", AccessionNumber="A1")
    film = pydicom.dcmread(source)
    series = set()
    for kind, path in write(source, a_prediction(), tmp_path / "out").items():
        found = pydicom.dcmread(path)
        for name in (
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "StudyInstanceUID",
            "StudyDate",
            "AccessionNumber",
        ):
            assert found[name].value == film[name].value, (kind, name)
        assert "1.2.3.4.5" in str(found) or kind == "overlay"
        series.add(found.SeriesInstanceUID)
    assert len(series | {"1.2.3.4.1"}) == 4


def test_the_overlay_is_the_picture(tmp_path: Path) -> None:
    capture = pydicom.dcmread(write(a_film(tmp_path), a_prediction(), tmp_path / "out")["overlay"])
    assert capture.SOPClassUID.name == "Secondary Capture Image Storage"
    assert capture.pixel_array.shape == (capture.Rows, capture.Columns, 3)
    assert np.ptp(capture.pixel_array.astype(int), axis=-1).max() > 50  # it has colours


def test_a_refused_film_has_no_results_and_a_turned_one_no_boxes(tmp_path: Path) -> None:
    source = a_film(tmp_path)
    assert not write(source, a_prediction(verdict=Verdict("refused", ("modality CT",))), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    turned = a_prediction(verdict=Verdict("ok", ("set upright, as its orientation in the header says",)))
    for prediction in (turned, a_prediction(extent=(90, 120))):
        written = write(source, prediction, tmp_path / "turned")
        assert set(written) == {"report", "overlay"}
        assert not [item for item in items(pydicom.dcmread(written["report"])) if "GraphicData" in item]


def test_the_reader_tells_of_a_turned_film_in_the_words_that_are_looked_for(tmp_path: Path) -> None:
    from chexjax.data.dicom import read_judged
    from chexjax.dicom_out.results import MOVED

    turned = read_judged(a_film(tmp_path, PatientOrientation=["R", "F"]))
    stretched = read_judged(a_film(tmp_path, PixelAspectRatio=[2, 1]))
    for judged, words in zip((turned, stretched), MOVED, strict=True):
        assert [reason for reason in judged.verdict.reasons if reason.startswith(words)], judged.verdict


def test_what_cannot_be_referred_to_is_told_without_the_patient(tmp_path: Path, capsys) -> None:
    source = a_film(tmp_path, StudyInstanceUID="")
    with warnings.catch_warnings(record=True) as heard, pytest.raises(DataError) as error:
        write(source, a_prediction(), tmp_path / "out")
    assert "its header lacks StudyInstanceUID" in str(error.value)
    assert SECRET not in str(error.value) + "".join(capsys.readouterr()) + "".join(str(each.message) for each in heard)
    assert not (tmp_path / "out").exists()


def test_threads_warn_of_no_patients_name(tmp_path: Path) -> None:
    """highdicom warns of a name without ^, and quotes it. A process of its own has the filters that users have."""
    for film in range(8):
        (tmp_path / f"{film}").mkdir()
        a_film(tmp_path / f"{film}", PatientName="SECRET JOHN", SOPInstanceUID=f"1.2.3.4.5.{film}")
    program = """
        import sys
        from concurrent.futures import ThreadPoolExecutor
        from pathlib import Path
        from tests.dicom_out.test_results import a_prediction, write

        def one(film):
            return len(write(Path(sys.argv[1]) / str(film) / "film.dcm", a_prediction(), Path(sys.argv[1]) / "out"))

        with ThreadPoolExecutor(4) as pool:
            print(sum(pool.map(one, list(range(8)) * 2)))
        """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.returncode) == ("48\n", 0), done.stderr
    assert "SECRET" not in done.stderr
    assert "UserWarning" not in done.stderr


CHECKS = {"dciodvfy": ("report", "boxes", "overlay"), "dsrdump": ("report",), "dcmpschk": ("boxes",)}


def complaints(tool: str, path: Path) -> set[str]:
    """The tool's errors, without the place in the file."""
    done = subprocess.run([tool, str(path)], capture_output=True, text=True, errors="replace", timeout=60)
    lines = (done.stdout + done.stderr).splitlines()
    wrong = {re.split(r"\(0x|<", line)[0] for line in lines if line.lower().startswith(("error", "e:", "f:"))}
    return wrong | ({"exit status"} if done.returncode and tool != "dciodvfy" else set())


@pytest.mark.parametrize("tool", CHECKS)
@pytest.mark.parametrize("name", ["", "CR-MONO1-10-chest_explicit", "RG1_chest_JLSN", "RSNA_NIH_chest_JPEG_MONO2",
                                  "voi_lut_04", "CR-ModalitySequenceLUT", "RG3_extremity_RLE"])  # fmt: skip
def test_other_readers_accept_them(tool: str, name: str, tmp_path: Path, request) -> None:
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")
    if name == "CR-ModalitySequenceLUT" and tool != "dciodvfy":
        pytest.skip("its SOP instance UID is invalid, so a reference to it is; these tools do not read the film itself")
    if name:
        source = request.getfixturevalue("real_data") / "dicom-cr" / f"{name}.dcm"
        header = pydicom.dcmread(source, stop_before_pixels=True)
        extent = (header.Rows, header.Columns)
    else:
        source, extent = a_film(tmp_path, PatientName="Doe^Jane"), (120, 90)
    written = write(source, a_prediction(extent), tmp_path / "out")
    known = complaints("dciodvfy", source) if tool == "dciodvfy" else set()
    for kind in CHECKS[tool]:
        assert complaints(tool, written[kind]) <= known, kind


@pytest.mark.parametrize("finding", FINDING_CODES)
def test_the_codes_of_the_standard_are_in_its_dictionary(finding: str) -> None:
    from pydicom.sr._concepts_dict import concepts

    value, scheme, meaning, source = FINDING_CODES[finding]
    if scheme == "RADLEX":
        assert re.fullmatch(r"RID\d+", value)
        return
    listed = [entry for names in concepts[scheme].values() for code, entry in names.items() if code == value]
    context = int(source.rpartition(" ")[2])
    assert [groups for complaint, groups in listed if complaint == meaning and context in groups]


def test_a_finding_without_a_code_has_one_of_our_own() -> None:
    assert code_of("Pleural_Thickening") == ("PLEURAL_THICKENI", OWN, "Pleural Thickening", "")
    assert code_of("Pleural_Effusion")[:2] == ("60046008", "SCT")
    assert all(len(code_of(finding).value) <= 16 for finding in FINDINGS)


def test_the_command_writes_them_for_dicom_films_alone(
    small_baseline: ConfigDict, tmp_path: Path, monkeypatch, capfd
) -> None:
    workdir = save_untrained(small_baseline, tmp_path / "run")
    films, out, results = tmp_path / "films", tmp_path / "out", tmp_path / "results"
    films.mkdir()
    a_film(films)
    write_dicom(films / "nameless.dcm", np.random.default_rng(5).integers(0, 4096, (80, 70), np.uint16), BitsStored=12)
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (64, 64), np.uint8)).save(films / "a.png")
    flags = [f"--checkpoint={workdir}", f"--out={out}", f"--dicom-out={results}", str(films)]
    monkeypatch.setattr(sys, "argv", ["predict", *flags])
    with pytest.raises(SystemExit) as end:
        command.main()
    assert end.value.code == 0
    # Without thresholds nothing is called, so there are no boxes.
    assert sorted(path.name for path in results.iterdir()) == ["1.2.3.4.5-overlay.dcm", "1.2.3.4.5-report.dcm"]
    complaint = capfd.readouterr().err
    assert "nameless.dcm: no DICOM results: its header lacks StudyInstanceUID, SeriesInstanceUID" in complaint
    assert SECRET not in complaint
    monkeypatch.setattr(sys, "argv", ["predict", *flags, "--overlays=0"])
    with pytest.raises(SystemExit) as end:
        command.main()
    assert end.value.code == 64
    assert "--dicom-out needs maps" in capfd.readouterr().err
    (tmp_path / "taken").touch()
    for folder, message in ((films / "results", "lies among the films"), (tmp_path / "taken", "is a file")):
        monkeypatch.setattr(sys, "argv", ["predict", *flags, f"--dicom-out={folder}"])
        with pytest.raises(SystemExit) as end:
            command.main()
        assert end.value.code == 64
        complaint = capfd.readouterr().err
        assert f"--dicom-out={folder}" in complaint
        assert message in complaint


def test_without_highdicom_the_extra_is_named(small_baseline: ConfigDict, tmp_path: Path, monkeypatch, capsys) -> None:
    workdir = save_untrained(small_baseline, tmp_path / "run")
    monkeypatch.setitem(sys.modules, "highdicom", None)
    flags = [f"--checkpoint={workdir}", f"--out={tmp_path / 'out'}", f"--dicom-out={tmp_path}", str(a_film(tmp_path))]
    monkeypatch.setattr(sys, "argv", ["predict", *flags])
    with pytest.raises(SystemExit):
        command.main()
    assert "pip install 'chexjax[dicom-out]'" in capsys.readouterr().err
