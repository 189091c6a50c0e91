"""From stored values to grey levels, 0 to 1: the modality's table or rescale, then the VOI table or window.

Everything is computed once per level, of which a film has thousands, not once per pixel, of which it has
millions. Source: DICOM PS3.3, sections C.11.1 (modality), C.11.2 (VOI) and C.7.6.3.1.5 and C.8.11.3.1.2 (padding).
"""

from typing import Final

import numpy as np
import scipy

from chexjax.data.dicom_gate import is_linear
from chexjax.data.dicom_header import Header
from chexjax.data.verdict import Verdict

_TAIL: Final = 0.01  # of the pixels, at either end of the range
_GAP: Final = 0.1  # of the range of all others: values that far away are not part of the film
_ROOM: Final = 0.5  # of that range, for a tail at most


def grey_levels(levels: np.ndarray, counts: np.ndarray, header: Header) -> tuple[np.ndarray, Verdict]:
    """Grey 0 (dark) to 1 for each stored value, before any inversion.

    In the standard's order: the modality's table, or slope and intercept; then the first VOI table, else the first
    window, else the range of the film's own values (see `own_range`). 8-bit films without a window stay as they are.
    A linear raw film is shown over the range of its logarithm.

    Args:
      levels: int64 (values,), ascending.
      counts: the number of pixels with each value.

    Raises:
      ValueError: a table is shorter than it says, or the numbers overflow.
    """
    verdict = Verdict()
    table = next(iter(header.items("ModalityLUTSequence")), None)
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
    signed = header.word("PixelRepresentation") == 1
    if table:
        values, _ = _look_up(levels.astype(np.float64), table, signed)
    else:
        if slope == 0:
            slope = None
            verdict += Verdict(reasons=("a rescale slope of 0 was passed over",))
        for keyword, name in (("RescaleSlope", "slope"), ("RescaleIntercept", "intercept")):
            if header.number(keyword) is None and header.text(keyword):
                verdict += Verdict("doubtful", (f"a rescale {name} that is no number was passed over",))
        values = levels * (1.0 if slope is None else slope) + (intercept or 0.0)
    if not np.isfinite(values).all():
        raise ValueError("values that are no numbers")
    table, window = next(iter(header.items("VOILUTSequence")), None), _window(header)
    if is_linear(header):
        values = np.log(np.maximum(values, 1.0))
    elif table:
        entries, top = _look_up(values, table, signed or bool(values.min() < 0))
        return entries / top, verdict
    elif window:
        return apply_window(values, *window, header.text("VOILUTFunction") or "LINEAR"), verdict
    elif header.text("WindowCenter") or header.text("WindowWidth"):
        verdict += Verdict(reasons=("an unusable window was passed over",))
    bits = header.word("BitsStored") or header.word("BitsAllocated") or 16
    if bits <= 8 and not signed and np.array_equal(values, levels):
        return np.clip(values / (2.0**bits - 1.0), 0.0, 1.0), verdict
    low, high = own_range(values, counts)
    shown = counts[(values < low) | (values > high)].sum()
    if shown:
        verdict += Verdict(reasons=("no window, and outliers: the range of the other pixels is shown",))
    return np.clip((values - low) / max(high - low, 1e-9), 0.0, 1.0), verdict


def apply_window(values: np.ndarray, center: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Grey levels 0..1 out of `values`. Source: DICOM PS3.3, sections C.11.2.1.2.1 and C.11.2.1.3."""
    if function == "SIGMOID":
        with np.errstate(over="ignore"):  # 1 / (1 + inf) is 0, as intended
            return 1.0 / (1.0 + np.exp(-4.0 * (values - center) / width))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0.0, 1.0)
    # A window one wide is a step; the formula divides by width - 1.
    return np.clip((values - (center - 0.5)) / max(width - 1.0, 1e-9) + 0.5, 0.0, 1.0)


def _window(header: Header) -> tuple[float, float] | None:
    """The first valid window: centre and width."""
    pairs = zip(header.numbers("WindowCenter"), header.numbers("WindowWidth"), strict=False)
    return next(((center, width) for center, width in pairs if width > 0), None)


def own_range(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest value to be distinguished, for a film without a window.

    The whole range, unless outliers take it up: a dead pixel, a lead marker. Beyond the middle 98 % of the pixels a
    tail ends at the first gap wider than a tenth of their range, and takes at most half as much room as they do.

    Args:
      values: float (levels,).
      counts: how many pixels have each.
    """
    order = np.argsort(values, kind="stable")
    order = order[counts[order] > 0]
    values, below = values[order], np.cumsum(counts[order])
    first, last = np.searchsorted(below, [_TAIL * below[-1], (1 - _TAIL) * below[-1]])
    middle = values[last] - values[first]
    if middle <= 0:
        return float(values[0]), float(values[-1])
    apart = np.flatnonzero(np.diff(values) > _GAP * middle)
    low = values[max((gap + 1 for gap in apart if gap < first), default=0)]
    high = values[min((gap for gap in apart if gap >= last), default=len(values) - 1)]
    return float(max(low, values[first] - _ROOM * middle)), float(min(high, values[last] + _ROOM * middle))


def _look_up(values: np.ndarray, table: Header, signed: bool) -> tuple[np.ndarray, float]:
    """(the entries for `values`, the highest possible entry). Source: C.11.1.1, C.11.2.1.1.

    Below the first mapped value is the first entry, above the last one the last. 8-bit entries are stored one
    or two to a word.

    Raises:
      ValueError: it has no entries, or fewer than it says.
    """
    descriptor = table.words("LUTDescriptor")
    raw = table.raw("LUTData")
    if len(descriptor) != 3:
        raise ValueError("a table without a descriptor")
    size, first, bits = descriptor[0] or 2**16, descriptor[1], descriptor[2] & 0xFF
    if signed and first >= 2**15:
        first -= 2**16
    little = table.is_little("LUTData")
    if len(raw) >= 2 * size:
        entries = np.frombuffer(raw[: 2 * size], "<u2" if little else ">u2")
    elif len(raw) >= size and bits <= 8:
        entries = np.frombuffer(raw[: len(raw) // 2 * 2], "<u2").astype("<u2" if little else ">u2").view(np.uint8)
        entries = entries[:size] if len(entries) >= size else np.frombuffer(raw[:size], np.uint8)
    else:
        raise ValueError("a table that is shorter than it says")
    # Entries above what the bits allow mean a wrong number of bits; the largest entry gives the right one.
    top = max(2**bits - 1, 2 ** int(entries.max()).bit_length() - 1, 1)
    index = np.clip(np.rint(values) - first, 0, size - 1).astype(np.int64)
    return entries[index].astype(np.float64), float(top)


def find_padding(stored: np.ndarray, header: Header) -> tuple[np.ndarray | None, Verdict]:
    """Which pixels lie outside the film (bool, as `stored`; None: no pixel), and whether it has such values, too.

    Padding is what has the header's padding values and hangs together with the film's edge: the same value in the
    middle of it is tissue.
    """
    signed = header.word("PixelRepresentation") == 1
    value, limit = (header.word(name, signed) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    if value is None:
        return None, Verdict()
    low, high = sorted((value, value if limit is None else limit))
    padded = (stored >= low) & (stored <= high)
    if not padded.any() or padded.all():
        return None, Verdict()
    parts, _ = scipy.ndimage.label(padded)
    edge = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    outside = np.isin(parts, edge[edge > 0])
    within = int(padded.sum()) - int(outside.sum())
    if within > _TAIL / 10 * stored.size:
        return outside, Verdict("doubtful", ("pixels inside the film have the padding's value",))
    return outside, Verdict()
