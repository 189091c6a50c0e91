"""How figures, thresholds and names are written: the same words in every table, page, picture, CSV and message."""

import math
from collections.abc import Sequence
from typing import Final

UNDEFINED: Final = "n/a"  # a figure that cannot be computed, such as the AUROC of a finding that no film has
UNKNOWN: Final = "unknown"  # what nobody has said: a threshold that no evaluation has found, a patient's sex


def format_figure(figure: float | None, digits: int = 4, interval: Sequence[float] | None = None) -> str:
    """`0.7875`, or with its interval `0.7875 (0.765-0.809)`; `n/a` for None and NaN."""
    if figure is None or math.isnan(figure):
        return UNDEFINED
    return f"{figure:.{digits}f}" + (f" ({format_interval(interval)})" if interval else "")


def format_interval(interval: Sequence[float] | None) -> str:
    """`0.765-0.809`; `n/a` for None."""
    return UNDEFINED if interval is None else f"{interval[0]:.3f}-{interval[1]:.3f}"


def format_difference(figure: float | None, interval: Sequence[float] | None = None) -> str:
    """A signed figure: `+0.0123`, or with its interval `+0.0123 (-0.002 to +0.027)`; `n/a` for None."""
    if figure is None:
        return UNDEFINED
    return f"{figure:+.4f}" + (f" ({interval[0]:+.3f} to {interval[1]:+.3f})" if interval else "")


def format_p_value(p_value: float | None) -> str:
    """`0.0312`, `<0.0001`; `n/a` for None."""
    return "<0.0001" if p_value is not None and p_value < 1e-4 else format_figure(p_value)


def format_threshold(threshold: float | None, digits: int = 3) -> str:
    """`0.512`; `unknown` for None and NaN."""
    return UNKNOWN if threshold is None or math.isnan(threshold) else f"{threshold:.{digits}f}"


def format_count(positives: int, known: int, films: int) -> str:
    """`34` films with a finding; `34 of 1,200` where it is known of so many of all the films alone."""
    return f"{positives:,}" if known == films else f"{positives:,} of {known:,}"


def format_name(finding: str) -> str:
    """A finding as people read it: `Pleural Thickening`."""
    return finding.replace("_", " ")
