"""Reasons in a film's pixels not to trust a prediction.

The limits lie outside the range of ChestX-ray14: none of 2,560 of its films is doubtful by them (smallest range 90 of
256 levels, mean grey levels 52 to 203, at most 0.3 % white and 55 % black pixels, at least 130 different levels).
"""

from typing import Final

import numpy as np

from chexjax.data.verdict import Verdict

LEAST_RANGE: Final = 80  # grey levels from the first to the last percentile
LEAST_LEVELS: Final = 64  # different ones
BLACK, WHITE = 40.0, 215.0  # mean grey levels
MOST_WHITE: Final = 0.05  # of the pixels, at 255
MOST_BLACK: Final = 0.6  # at 0


def judge_pixels(film: np.ndarray) -> Verdict:
    """Doubtful if a film uses little of the grey scale, is clipped, or is nearly black or white.

    Args:
      film: uint8 (height, width), as it was read.
    """
    levels = np.bincount(film.ravel(), minlength=256) / film.size
    reached = np.cumsum(levels)
    low, high = (int(np.searchsorted(reached, share)) for share in (0.01, 0.99))
    mean = float(levels @ np.arange(256))
    reasons = []
    if high - low < LEAST_RANGE:
        reasons.append(f"uses {high - low + 1} of 256 grey levels")
    elif (different := int((levels > 0).sum())) < LEAST_LEVELS:
        reasons.append(f"has {different} different grey levels")
    if mean < BLACK:
        reasons.append("nearly black")
    if mean > WHITE:
        reasons.append("nearly white")
    if levels[255] > MOST_WHITE:
        reasons.append(f"clipped: {levels[255]:.0%} of the pixels are white")
    if levels[0] > MOST_BLACK:
        reasons.append(f"{levels[0]:.0%} of the pixels are black")
    return Verdict("doubtful", tuple(reasons)) if reasons else Verdict()
