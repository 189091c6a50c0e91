"""Cells that a spreadsheet would run."""

import re

from hypothesis import given
from hypothesis import strategies as st

from chexjax import files


@given(st.text(st.sampled_from("=+-@'\t\r\nab0"), max_size=6))
def test_no_cell_is_run_and_every_text_comes_back(text: str) -> None:
    cell = files.cell(text)
    assert not cell or cell[0] not in "=+-@\t\r\n" or re.fullmatch("[+-]0+", cell)
    assert files.text_of(cell) == text


def test_plain_names_stay_as_they_are() -> None:
    assert files.cell("00000001_000.png") == "00000001_000.png"
    assert files.cell("=HYPERLINK(1)") == "'=HYPERLINK(1)"
    assert files.cell("-0.30") == "-0.30"
    assert files.cell("-0.30+cmd") == "'-0.30+cmd"
