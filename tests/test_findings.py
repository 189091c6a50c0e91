"""The findings are ChestX-ray14's, in its order; the groups are the report's."""

from chexjax.errors import first_ten
from chexjax.findings import FINDINGS, RADIOLOGY, SPECIALIST_GROUPS


def test_order_and_spelling() -> None:
    assert FINDINGS == (
        "Atelectasis",
        "Cardiomegaly",
        "Effusion",
        "Infiltration",
        "Mass",
        "Nodule",
        "Pneumonia",
        "Pneumothorax",
        "Consolidation",
        "Edema",
        "Emphysema",
        "Fibrosis",
        "Pleural_Thickening",
        "Hernia",
    )
    assert tuple(RADIOLOGY) == FINDINGS


def test_groups_share_the_findings_out() -> None:
    assert sorted(sum(SPECIALIST_GROUPS, ())) == sorted(FINDINGS)
    assert [len(group) for group in SPECIALIST_GROUPS] == [6, 4, 2, 2]


def test_first_ten() -> None:
    assert first_ten(["a", "b"]) == "2: a, b"
    assert first_ten([str(k) for k in range(12)]) == "12: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (2 more)"
