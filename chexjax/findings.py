"""The 14 findings of ChestX-ray14, one set among others; and what any set of findings must be.

Which findings a run learns comes from its films, and travels with them (`Prepared.findings`, `Restored.findings`).
Source of the 14: Wang et al., "ChestX-ray8", CVPR 2017 (the 14-finding extension of the data release).
"""

import re
from collections.abc import Sequence
from typing import Any, Final

FILM: Final = "Image Index"  # the column of film names in every table, so no finding's name

FINDINGS: Final[tuple[str, ...]] = (
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

NO_FINDING: Final[str] = "No Finding"

# The report's chapter 5: findings that look alike share a specialist.
SPECIALIST_GROUPS: Final[tuple[tuple[str, ...], ...]] = (
    ("Atelectasis", "Effusion", "Infiltration", "Pneumothorax", "Edema", "Pleural_Thickening"),
    ("Mass", "Nodule", "Consolidation", "Hernia"),
    ("Cardiomegaly", "Emphysema"),
    ("Pneumonia", "Fibrosis"),
)

RADIOLOGY: Final[dict[str, str]] = {
    "Atelectasis": "Loss of lung volume: a dense wedge or band, fissures and diaphragm drawn towards it.",
    "Cardiomegaly": "Heart wider than half of the chest (cardiothoracic ratio above 0.5).",
    "Effusion": "Fluid in the pleural space: a blunted angle and a meniscus that climbs the chest wall.",
    "Infiltration": "Faint, ill-defined patches of higher density in the lung.",
    "Mass": "A rounded opacity wider than 3 cm.",
    "Nodule": "A rounded opacity of at most 3 cm.",
    "Pneumonia": "An infected, patchy or lobar opacity.",
    "Pneumothorax": "Air in the pleural space: a thin pleural line with no lung markings beyond it.",
    "Consolidation": "Air spaces filled: a homogeneous opacity in which the bronchi stay dark (air bronchogram).",
    "Edema": "Fluid in the lung: a butterfly of haze around both hila, blurred vessels.",
    "Emphysema": "Over-inflated, dark lungs with flat diaphragms and a narrow heart.",
    "Fibrosis": "Scarring: a net of fine lines, mostly at the bases and edges, with volume loss.",
    "Pleural_Thickening": "A dense rim along the chest wall or over the apex.",
    "Hernia": "Stomach or bowel in the chest: a rounded, often gas-containing shape behind the heart.",
}


def read_findings(names: Any) -> tuple[str, ...]:
    """The findings that a file names, in its order.

    A file that was written before findings were named has None, and means `FINDINGS`.

    Raises:
      ValueError: they are no list of distinct names of one line each.
    """
    if names is None:
        return FINDINGS
    if not isinstance(names, list | tuple) or not names:
        raise ValueError(f"findings are a list of names, not {names!r}")
    for name in names:
        if not isinstance(name, str) or not name.isprintable() or not name.strip() or name != name.strip():
            raise ValueError(f"{name!r} is no name of a finding: it takes text of one line without outer blanks")
    if FILM in names:
        raise ValueError(f"{FILM!r} is the column of film names, and no finding")
    if twice := [name for k, name in enumerate(names) if name in names[:k]]:
        raise ValueError(f"the finding {twice[0]!r} is there twice")
    return tuple(names)


def spelled(name: str) -> str:
    """The name without what makes no difference: capitals, spaces, `_` and `-`."""
    return re.sub(r"[\s_-]+", "", name).lower()


def is_nih(findings: Sequence[str]) -> bool:
    """Whether these are ChestX-ray14's findings, to which published figures belong."""
    return tuple(findings) == FINDINGS
