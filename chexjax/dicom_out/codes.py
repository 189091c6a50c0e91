"""Codes of findings. A finding that is not in the table has a code of our own, which is its name.

| coding scheme | source |
|---|---|
| DCM, SCT | DICOM PS3.16: the context groups that the table names (as in pydicom's `sr` dictionaries) |
| RADLEX | RadLex 4.3, radlex.org |
| 99CHEXJAX | our own; private schemes begin with 99 (PS3.3, 8.2) |
"""

from typing import Final, NamedTuple

OWN: Final = "99CHEXJAX"
_LENGTH: Final = 16  # characters of a code's value (VR SH)
_MEANING: Final = 64  # of its meaning (VR LO)


class FindingCode(NamedTuple):
    """A code, the scheme that it is from, what it means there, and where that is written."""

    value: str
    scheme: str
    meaning: str
    source: str = ""


# RadLex and SNOMED's part of PS3.16 have no "pleural thickening", and no hernia that is told apart on a chest film.
FINDING_CODES: Final[dict[str, FindingCode]] = {
    "Atelectasis": FindingCode("RID28493", "RADLEX", "atelectasis", "RadLex 4.3"),
    "Cardiomegaly": FindingCode("287272002", "SCT", "Cardiomegaly", "PS3.16, CID 12248"),
    "Effusion": FindingCode("60046008", "SCT", "Pleural effusion", "PS3.16, CID 8134"),
    "Pleural Effusion": FindingCode("60046008", "SCT", "Pleural effusion", "PS3.16, CID 8134"),
    "Infiltration": FindingCode("112121", "DCM", "Infiltrate", "PS3.16, CID 6104"),
    "Mass": FindingCode("4147007", "SCT", "Mass", "PS3.16, CID 6104"),
    "Nodule": FindingCode("27925004", "SCT", "Nodule", "PS3.16, CID 6104"),
    "Pneumonia": FindingCode("RID5350", "RADLEX", "pneumonia", "RadLex 4.3"),
    "Pneumothorax": FindingCode("36118008", "SCT", "Pneumothorax", "PS3.16, CID 6105"),
    "Consolidation": FindingCode("RID43255", "RADLEX", "consolidation", "RadLex 4.3"),
    "Edema": FindingCode("19242006", "SCT", "Pulmonary edema", "PS3.16, CID 3700"),
    "Emphysema": FindingCode("RID4799", "RADLEX", "emphysema", "RadLex 4.3"),
    "Fibrosis": FindingCode("112674009", "SCT", "Fibrosis", "PS3.16, CID 6335"),
}


def code_of(finding: str) -> FindingCode:
    """The code of a finding; one of our own where none is known."""
    own = FindingCode(finding.upper().replace(" ", "_")[:_LENGTH], OWN, finding.replace("_", " ")[:_MEANING])
    return FINDING_CODES.get(finding.replace("_", " "), own)
