"""Scan-line removal of bright foreign objects (pacemakers, wires, tubes, markers): the report, chapter 6.

The rule, along each row, on the ORIGINAL grey levels x:

- pixel i is an up-edge where `x[i] - x[i-1] >= threshold`, pixel j a down-edge where `x[j-1] - x[j] >= threshold`;
- from left to right: take an up-edge i and the first down-edge j after it. Where `j - i <= max_width`, pixels i ... j-1
  become `(x[i-1] + x[j]) // 2` and the scan goes on after j; elsewhere it goes on at i + 1.

`remove_artifacts_reference` is this rule as a loop. `remove_artifacts` gives the same result bit for bit without
walking along the row. Three remarks make that possible:

1. An up-edge always pairs with the NEXT down-edge, so no pair contains a down-edge: the down-edges cut a row into
   independent stretches.
2. In a stretch, the first up-edge within `max_width` of the stretch's end makes the pair, and ends the stretch.
   So a pixel is replaced exactly where the last event at or before it is such an up-edge, not a down-edge.
3. Pixel j of a pair is never replaced. So replaced pixels form runs with an untouched pixel at both ends, and
   the mean is taken of exactly these two: the nearest untouched pixels to the left and to the right.

All three need the nearest pixel of some kind. Two exact forms find it:

- `clean_octets` (CPU): one BIT a pixel, eight rows to a byte, and doubling: shifts by 1, 2, 4, 8, ... reach
  2**n pixels in n steps (Hillis and Steele 1986). Grey levels are written only in rows near a pair.
- `clean_words` (elsewhere): 32 pixels of a row to a word; the nearest set bit is a count of leading or trailing zeros.

Command line: `python -m chexjax.scanline FILE_OR_FOLDER --out=DIR --compare`.
"""

from typing import TYPE_CHECKING

from chexjax.lazy import lazy

if TYPE_CHECKING:
    from chexjax.scanline.removal import remove_artifacts
    from chexjax.scanline.rule import MAX_WIDTH, THRESHOLD, remove_artifacts_reference

__all__ = ["MAX_WIDTH", "THRESHOLD", "remove_artifacts", "remove_artifacts_reference"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "MAX_WIDTH": "rule",
        "THRESHOLD": "rule",
        "remove_artifacts": "removal",
        "remove_artifacts_reference": "rule",
    },
)
