"""The 14 findings of ChestX-ray14, in the order and the spelling of the dataset.

Source: Wang et al., "ChestX-ray8", CVPR 2017 (the 14-finding extension of the data release).
"""

from typing import Final

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
