"""Reasons in a DICOM header not to treat its film as a frontal chest film: a verdict, in our own phrases.

Header text is quoted only if it is in the lists below: any other text may contain a name.
"""

import re
from typing import Final

from chexjax.data.dicom_header import Header
from chexjax.data.verdict import Verdict


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FILMS: Final = frozenset({"", "CR", "DX", "DR", "RG"})
# Source: DICOM PS3.3, C.7.3.1.1.1; the modalities that do not produce chest films.
_OTHERS: Final = _set(
    "AS BI BMD BDUS CD CF CP CS CT DD DF DG DM DS EC ES FA FS GM IO IVOCT IVUS KER LP LS MA MG MR MS NM OAM OCT OP OPM "
    "OPR OPT OPTBSV OPTENF OPV OSS PT PX RTDOSE RTIMAGE SEG SM SRF ST TG US VA VF XA XC"
)
_CLASSES: Final = "1.2.840.10008.5.1.4.1.1."
# What a SOP class holds, by its last numbers; "" for films. All other classes hold no picture. Source: PS3.4, B.5.
_SOP_CLASSES: Final = {
    "1": "",
    "1.2": "a mammogram",
    "1.3": "a film of teeth",
    "2": "a CT",
    "3": "an ultrasound picture",
    "4": "an MR",
    "6": "an ultrasound picture",
    "7": "",
    "12": "an angiogram",
    "12.2": "",
    "13": "a tomogram",
    "20": "a scintigram",
    "77": "a photograph",
    "128": "a PET",
    "130": "a PET",
    "481": "a radiotherapy picture",
}
FOR_PROCESSING: Final = frozenset(_CLASSES + number for number in ("1.1.1", "1.2.1", "1.3.1"))
_CHEST: Final = ("CHEST", "THORAX", "TORAX", "TORACE", "LUNG", "PULMO", "POITRINE", "POUMON", "BRUSTKORB")
_MORE_THAN_CHEST: Final = ("ABD", "PELV", "NECK", "SPINE", "HEAD")
_OTHER_PARTS: Final = _set(
    "ABDOMEN ANKLE ARM BLADDER BRAIN BREAST CALCANEUS COCCYX COLON CSPINE ELBOW EXTREMITY EYE FACE FEMUR FINGER FOOT "
    "FOREARM HAND HEAD HEEL HIP HUMERUS JAW KIDNEY KNEE KUB LEG LIVER LSPINE LUMBAR MANDIBLE MAXILLA NECK NOSE ORBIT "
    "PATELLA PELVIS PROSTATE SACRUM SCALP SHOULDER SINUS SKULL SPINE TEETH THIGH THUMB TIBIA TOE TOOTH TSPINE UTERUS "
    "WRIST ZYGOMA"
)
# Regions by their codes, SNOMED RT's and CT's: chest and lung; what a chest film may be taken for besides (trachea,
# ribs, sternum, clavicle, mediastinum, heart, thoracic spine, chest with its neighbours, whole body). PS3.16, CID 4031.
_SNOMED: Final = frozenset({"SCT", "SRT", "SNM3", "99SDM"})
_CHEST_CODES: Final = _set("T-D3000 51185008 816094009 T-28000 39607008")
_NEAR_CODES: Final = _set(
    "T-25000 44567001 T-11300 113197003 T-11210 56873002 T-12310 51299004 T-D3300 72410000 T-32000 80891009 T-11502 "
    "122495006 R-FAB52 417437006 R-FAB53 416152001 R-FAB54 416319003 R-FAB55 416550000 R-FAB56 416775004 T-D0010 "
    "38266002 T-280A0 86598002 T-56000 32849002"
)
_FRONTAL: Final = frozenset({"PA", "AP", "FRONTAL", "POSTERO", "ANTERO", "POSTERIOR", "ANTERIOR"})
_HOW: Final = frozenset({"", "ERECT", "UPRIGHT", "SUPINE", "PORTABLE", "SITTING", "STANDING", "BEDSIDE", "VIEW"})
_LATERAL: Final = frozenset({"LL", "RL", "LAT", "LATERAL", "LLAT", "RLAT", "LATERALE"})
# The same views by their codes. Source: PS3.16, CID 4010.
_FRONTAL_CODES: Final = _set("R-10202 399033003 R-10206 399348003 R-10214 R-40888 272479007")
_LATERAL_CODES: Final = _set(
    "R-102CD 399067008 R-10232 399198007 R-10236 399173006 R-10228 399352003 R-10224 399260004"
)


def judge_header(header: Header) -> Verdict:
    """The verdict from the header: kind of picture, body part, view, burned-in text, polarity."""
    return sum(
        (judge(header) for judge in (_kind, _body_part, _view, _polarity, _annotation)),
        start=Verdict(),
    )


def is_raw(header: Header) -> bool:
    """Whether the pixels are the detector's raw values: For Processing."""
    return header.sop_class in FOR_PROCESSING or header.text("PresentationIntentType") == "FOR PROCESSING"


def is_linear(header: Header) -> bool:
    """Whether a raw film's values are linear in the X-ray exposure, so that their logarithm gives the absorption."""
    relation = header.text("PixelIntensityRelationship")
    return is_raw(header) and relation == "LIN" and header.word("PixelIntensityRelationshipSign", signed=True) == 1


def is_inverted(header: Header) -> bool:
    """Whether the highest value is displayed dark.

    For a film for presentation, the shape of its presentation LUT says so, as in dcmtk; without one, its photometric
    interpretation does. A raw film is bright where many X-rays arrived if its sign (0028,1041) is 1.
    """
    if is_raw(header):
        return header.word("PixelIntensityRelationshipSign", signed=True) == 1
    shape = header.text("PresentationLUTShape")
    if shape in ("IDENTITY", "INVERSE"):
        return shape == "INVERSE"
    return header.text("PhotometricInterpretation") == "MONOCHROME1"


def _kind(header: Header) -> Verdict:
    modality, sop_class = header.text("Modality"), header.sop_class
    if modality in _OTHERS:
        return Verdict("refused", (f"modality {modality}, not a chest film",))
    if sop_class.startswith(_CLASSES):
        numbers = sop_class.removeprefix(_CLASSES).split(".")
        what = _SOP_CLASSES.get(".".join(numbers[:2]), _SOP_CLASSES.get(numbers[0], "no picture"))
        if what:
            return Verdict("refused", (f"its SOP class is that of {what}, not of a film",))
    if modality not in _FILMS:
        return Verdict("doubtful", ("modality neither CR nor DX",))
    return Verdict()


def _words(text: str) -> list[str]:
    return re.sub("[^A-Z0-9]+", " ", text).split()


def _body_part(header: Header) -> Verdict:
    text = header.text("BodyPartExamined")
    if any(part in text for part in _CHEST):
        if any(part in text for part in _MORE_THAN_CHEST):
            return Verdict("doubtful", ("more than the chest was examined",))
        return Verdict()
    other = next((part for word in _words(text) for part in (word, word.removesuffix("S")) if part in _OTHER_PARTS), "")
    if other:
        return Verdict("refused", (f"body part {other}, not the chest",))
    if text:
        return Verdict("doubtful", ("the body part is not said to be the chest",))
    for region in header.items("AnatomicRegionSequence"):
        code = region.text("CodeValue")
        if region.text("CodingSchemeDesignator") not in _SNOMED or code in _CHEST_CODES:
            continue
        near = code in _NEAR_CODES
        return Verdict("doubtful" if near else "refused", ("the anatomic region is not the chest alone",))
    return Verdict()


def _view(header: Header) -> Verdict:
    lateral, other = Verdict("doubtful", ("a lateral view",)), Verdict("doubtful", ("neither a PA nor an AP view",))
    words = {*_words(header.text("ViewPosition"))}
    if words & _LATERAL:
        return lateral
    if words:
        return Verdict() if words & _FRONTAL and words <= _FRONTAL | _HOW else other
    for view in header.items("ViewCodeSequence"):
        code = view.text("CodeValue")
        if view.text("CodingSchemeDesignator") in _SNOMED and code not in _FRONTAL_CODES:
            return lateral if code in _LATERAL_CODES else other
    return Verdict()


def _polarity(header: Header) -> Verdict:
    kind, shape = header.text("PhotometricInterpretation"), header.text("PresentationLUTShape")
    sign = header.word("PixelIntensityRelationshipSign", signed=True)
    if is_raw(header):
        if sign not in (1, -1):
            return Verdict("refused", ("For Processing, and which end of its scale is dark is not said",))
        return Verdict("doubtful", ("For Processing: the detector's values, not a film's",))
    if (kind, shape) in (("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")):
        return Verdict("doubtful", ("photometric interpretation and presentation LUT shape contradict each other",))
    return Verdict()  # the sign (0028,1041) of a film for presentation is ignored: ordinary films have either


def _annotation(header: Header) -> Verdict:
    burned_in = header.text("BurnedInAnnotation") == "YES"
    return Verdict("doubtful", ("burned-in annotation",)) if burned_in else Verdict()
