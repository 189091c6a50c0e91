"""Writes a film's findings as a structured report, as boxes over the film, and as a picture, with highdicom.

Patient and study are those of the film. Each of the three is a series of its own, with new identifiers. None contains
more about the patient than the film's own header. All are marked as unverified.
"""

import io
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import numpy as np

import chexjax
from chexjax.data.dicom_header import silence, silent_pydicom
from chexjax.data.verdict import Verdict
from chexjax.dicom_out.codes import code_of
from chexjax.errors import ConfigError, DataError, printable
from chexjax.explain import overlay
from chexjax.explain.evidence import UNPROVEN
from chexjax.explain.maps import MapBox, boxes_on_film
from chexjax.files import whole

NAME: Final = "chexjax"
SERIES: Final = {"report": 9101, "boxes": 9102, "overlay": 9103}
REFERRED_TO: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
REPEATED: Final = (
    *REFERRED_TO, "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
    "StudyDate", "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
SHOWN: Final = (
    "SpecificCharacterSet", "Modality", "SamplesPerPixel", "Rows", "Columns", "BitsStored", "PixelRepresentation",
    "PhotometricInterpretation", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "RescaleSlope",
    "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "PixelSpacing", "ImagerPixelSpacing",
)  # fmt: skip
MOVED: Final = ("set upright", "its pixels were not square")  # how the reader's reasons begin
SIDE: Final = 1024  # pixels of the overlay's longer side
_STRING: Final = 64  # characters of VR LO


class Result(Protocol):
    """The part of a `predict.Prediction` that is used here."""

    @property
    def film(self) -> np.ndarray: ...
    @property
    def called(self) -> list[str]: ...
    @property
    def ranked(self) -> list[str]: ...
    @property
    def verdict(self) -> Verdict: ...
    def probability(self, finding: str) -> float: ...
    def threshold(self, finding: str) -> float: ...
    def map(self, finding: str) -> np.ndarray: ...


@dataclass(frozen=True)
class Algorithm:
    """What made the result: a checkpoint by the sha256 of its weights, and its step.

    `unproven` are the findings whose maps were not shown to point; their overlay and boxes say so.
    """

    weights: str
    step: int
    unproven: Collection[str] = ()

    @property
    def parameters(self) -> list[str]:
        return [f"weights sha256 {self.weights}", f"step {self.step}"]

    def caution(self, finding: str) -> str:
        """What follows the name of a finding beside its map or boxes."""
        return f", {UNPROVEN}" if finding in self.unproven else ""


def check_installed() -> None:
    """Raises ConfigError if highdicom is missing; called before anything is computed."""
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise ConfigError("DICOM results need highdicom; pip install 'chexjax[dicom-out]'") from None


def write_results(
    source: Path, result: Result, extent: tuple[int, int], algorithm: Algorithm, folder: Path
) -> list[Path]:
    """Writes the report, the boxes (if a finding is called) and the overlay of a film; nothing for a refused film.

    Of a film that was turned or stretched as it was read, no boxes are written in the report, nor over the film: they
    would be in the wrong place. The overlay, which shows it as it was read, has them.

    Args:
      source: the DICOM film that the result is of.
      result: what was found; its film may be smaller than it was read.
      extent: height and width of the film as it was read.
      algorithm: what found it.
      folder: where the files go. Their names are made of the film's SOP instance UID.

    Returns:
      The files: `UID-report.dcm`, `UID-boxes.dcm`, `UID-overlay.dcm`.

    Raises:
      DataError: the film's header lacks what a result must refer to. The message quotes nothing of it.
      ConfigError: highdicom is missing.
    """
    files = encode_results(source, printable(source), result, extent, algorithm)
    for name, data in files.items():
        folder.mkdir(parents=True, exist_ok=True)
        with whole(folder / name) as path:
            path.write_bytes(data)
    return [folder / name for name in files]


def encode_results(
    source: Path | BinaryIO, where: str, result: Result, extent: tuple[int, int], algorithm: Algorithm
) -> dict[str, bytes]:
    """The files of `write_results`, by their names, in memory; `where` names the film in messages.

    Raises:
      DataError: as `write_results`.
      ConfigError: highdicom is missing.
    """
    if result.verdict.status == "refused":
        return {}
    check_installed()
    pydicom = silent_pydicom()
    silence(r"(highdicom|chexjax\.dicom_out)(\.|$)")  # warnings that quote patients' names; ours where it counts us in

    try:
        header = pydicom.dcmread(source, stop_before_pixels=True)
    except Exception as error:
        raise DataError(f"{where}: no DICOM results ({type(error).__name__} as its header was read)") from None
    missing = [
        name
        for name in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
        if not header.get(name)
    ]
    if missing:
        raise DataError(f"{where}: no DICOM results: its header lacks {', '.join(missing)}")
    turned = any(reason.startswith(MOVED) for reason in result.verdict.reasons)
    in_place = not turned and extent == (header.get("Rows"), header.get("Columns"))
    try:
        name = "".join(c for c in str(header.SOPInstanceUID) if c in "0123456789.")
        files = {}
        for kind, dataset in _create(_reduced(header), result, extent, algorithm, in_place):
            file = io.BytesIO()
            dataset.save_as(file)
            files[f"{name}-{kind}.dcm"] = file.getvalue()
        return files
    except Exception as error:  # highdicom raises many kinds, whose texts may quote the header
        raise DataError(f"{where}: no DICOM results ({type(error).__name__} as they were made)") from None


def _reduced(header: Any) -> Any:
    """The header elements that results repeat or refer to; required ones are present, even if empty (type 2)."""
    from pydicom import Dataset

    reduced = Dataset()
    for name in REPEATED:
        value = header.get(name)
        setattr(reduced, name, "" if value is None else value)
    for name in SHOWN:
        if header.get(name) is not None:
            setattr(reduced, name, header[name].value)
    for table in (*reduced.get("VOILUTSequence", ()), *reduced.get("ModalityLUTSequence", ())):
        if not isinstance(table.LUTData, bytes):  # in files with implicit VR it is a list of numbers
            table.add_new("LUTData", "OW", np.array(table.LUTData, "<u2").tobytes())
    return reduced


def _create(
    header: Any, result: Result, extent: tuple[int, int], algorithm: Algorithm, in_place: bool
) -> Iterator[tuple[str, Any]]:
    height, width = extent
    boxes = {finding: boxes_on_film(result.map(finding), width, height) for finding in result.called}
    placed = boxes if in_place else {}
    yield "report", _report(header, result, algorithm, placed)
    if any(placed.values()):
        yield "boxes", _presentation(header, result, extent, algorithm, placed)
    yield "overlay", _capture(header, result, extent, algorithm)


def _identifiers(kind: str) -> dict[str, Any]:
    import highdicom as hd

    return {
        "series_instance_uid": hd.UID(),
        "series_number": SERIES[kind],
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
        "manufacturer": NAME,
    }


def _report(header: Any, result: Result, algorithm: Algorithm, boxes: dict[str, list[MapBox]]) -> Any:
    """A Comprehensive SR after TID 1500: a group per finding, and one per box of a called finding."""
    import highdicom as hd
    from highdicom import sr
    from pydicom.sr.codedict import codes

    device = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=hd.UID(), name=NAME, manufacturer_name=NAME, model_name=f"{NAME} {chexjax.__version__}"
        ),
    )
    identification = sr.AlgorithmIdentification(name=NAME, version=chexjax.__version__, parameters=algorithm.parameters)
    image = {
        "referenced_sop_class_uid": header.SOPClassUID,
        "referenced_sop_instance_uid": header.SOPInstanceUID,
    }
    groups: list[Any] = []
    for finding in result.ranked:
        value, scheme, meaning, _ = code_of(finding)
        code = sr.CodedConcept(value, scheme, meaning)
        common: dict[str, Any] = {"finding_type": code, "algorithm_id": identification}
        groups.append(
            sr.MeasurementsAndQualitativeEvaluations(
                tracking_identifier=sr.TrackingIdentifier(uid=hd.UID(), identifier=finding[:_STRING]),
                measurements=_measurements(result, finding),
                qualitative_evaluations=_called(result, finding, code),
                source_images=[sr.SourceImageForMeasurementGroup(**image)],
                **common,
            )
        )
        for number, box in enumerate(boxes.get(finding, ()), start=1):
            region = sr.ImageRegion(
                graphic_type=sr.GraphicTypeValues.POLYLINE,
                graphic_data=_outline(box),
                source_image=sr.SourceImageForRegion(**image),
            )
            name = f"{finding[:32]}, region {number}{algorithm.caution(finding)}"
            groups.append(
                sr.PlanarROIMeasurementsAndQualitativeEvaluations(
                    tracking_identifier=sr.TrackingIdentifier(uid=hd.UID(), identifier=name),
                    referenced_region=region,
                    **common,
                )
            )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=device),
        procedure_reported=sr.CodedConcept("413815006", "SCT", "Chest imaging"),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    report = sr.ComprehensiveSR(evidence=[header], content=content, is_complete=True, **_identifiers("report"))
    report.SeriesDescription = f"{NAME}: findings, not verified"
    return report


def _measurements(result: Result, finding: str) -> list[Any]:
    """The probability, and the threshold if it is known."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    values = {
        "probability": (codes.DCM.Probability, result.probability(finding)),
        "threshold": (sr.CodedConcept("THRESHOLD", "99CHEXJAX", "Decision threshold"), result.threshold(finding)),
    }
    unit = codes.UCUM.NoUnits
    return [sr.Measurement(name, value, unit) for name, value in values.values() if not math.isnan(value)]


def _called(result: Result, finding: str, code: Any) -> list[Any]:
    """Present or absent by the threshold; empty if it is unknown."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    if math.isnan(result.threshold(finding)):
        return []
    present = finding in result.called
    return [sr.QualitativeEvaluation(code, codes.DCM.Present if present else codes.DCM.Absent)]


def _presentation(
    header: Any, result: Result, extent: tuple[int, int], algorithm: Algorithm, boxes: dict[str, list[MapBox]]
) -> Any:
    """A grayscale softcopy presentation state with the boxes over the film, labelled."""
    from highdicom import pr

    layer = pr.GraphicLayer("BOXES", order=1, description="Regions of the findings that were called")
    objects, texts = [], []
    for finding, found in boxes.items():
        for box in found:
            objects.append(pr.GraphicObject("POLYLINE", _outline(box, extent, 0.5), pr.AnnotationUnitsValues.PIXEL))
            words = f"{finding} {result.probability(finding):.2f}{algorithm.caution(finding)}"
            corner = (box.left + 1.0, box.top + 1.0)
            texts.append(pr.TextObject(words, pr.AnnotationUnitsValues.PIXEL, anchor_point=corner))
    annotation = pr.GraphicAnnotation([header], layer, graphic_objects=objects, text_objects=texts)
    state = pr.GrayscaleSoftcopyPresentationState(
        referenced_images=[header],
        manufacturer_model_name=NAME,
        software_versions=chexjax.__version__,
        device_serial_number="none",
        content_label="CHEXJAX",
        content_description="boxes of findings, not verified",
        graphic_layers=[layer],
        graphic_annotations=[annotation],
        **_identifiers("boxes"),
    )
    state.Laterality = ""  # not applicable to a chest
    state.SeriesDescription = f"{NAME}: boxes, not verified"
    return state


def _outline(box: MapBox, extent: tuple[int, int] | None = None, corner: float = 0.0) -> np.ndarray:
    """float64 (5, 2), closed; `corner` is the coordinate of the image's upper left corner.

    It is 0.0 in a report (PS3.3, C.18.6.1.2) and 0.5 in a presentation state, where the centre of the first pixel is at
    1 (C.10.5.1.2); there highdicom takes no coordinate above the number of rows or columns.
    """
    left, top, right, bottom = (edge + corner for edge in overlay.corners(box))
    if extent is not None:
        right, bottom = min(right, extent[1]), min(bottom, extent[0])
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], np.float64)


def _capture(header: Any, result: Result, extent: tuple[int, int], algorithm: Algorithm) -> Any:
    """A secondary capture, RGB: the film under the map of the first finding, with its boxes."""
    import highdicom as hd

    finding = result.ranked[0]
    probability = f"{result.probability(finding):.3f}{algorithm.caution(finding)}"
    words = f"{finding} {probability}, {NAME} {chexjax.__version__}, not verified"
    boxes = boxes_on_film(result.map(finding), extent[1], extent[0])
    picture = overlay.annotate(result.film, result.map(finding), boxes, words, side=SIDE, extent=extent)
    capture = hd.sc.SCImage.from_ref_dataset(
        header,
        pixel_array=np.asarray(picture, np.uint8),
        photometric_interpretation=hd.PhotometricInterpretationValues.RGB,
        bits_allocated=8,
        coordinate_system=hd.CoordinateSystemNames.PATIENT,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        patient_orientation=("L", "F"),  # as frontal films are hung and read
        **_identifiers("overlay"),
    )
    capture.Laterality = ""
    capture.SeriesDescription = f"{NAME}: {finding[:32]}, not verified"
    capture.BurnedInAnnotation = "YES"
    return capture
