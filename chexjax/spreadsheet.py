"""Text from outside in CSV cells: a spreadsheet must show it, not run it."""

import re
from typing import Final

_RUN: Final = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a cell that is run begins with (OWASP, "CSV Injection")
_NUMBER: Final = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?", re.ASCII)


def cell(text: str) -> str:
    """The text as a cell that no spreadsheet runs: what begins like a formula, and is no number, gets an apostrophe."""
    if _NUMBER.fullmatch(text):
        return text
    return f"'{text}" if text.startswith(_RUN) or _masked(text) else text


def text(cell: str) -> str:
    """What `cell` was given."""
    return cell[1:] if _masked(cell) else cell


def _masked(text: str) -> bool:
    """Apostrophes, then what would be run: so that text that looks so by itself comes back as it was, too."""
    return text.startswith("'") and text.lstrip("'").startswith(_RUN)
