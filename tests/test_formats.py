"""The words for figures, thresholds and names."""

from chexjax.formats import (
    format_count,
    format_difference,
    format_figure,
    format_interval,
    format_name,
    format_p_value,
    format_threshold,
)

NAN = float("nan")


def test_figures_and_intervals() -> None:
    assert format_figure(0.78754, interval=[0.7651, 0.8094]) == "0.7875 (0.765-0.809)"
    assert format_figure(0.78754) == "0.7875"
    assert format_figure(0.78754, 2) == "0.79"
    assert format_difference(-0.01234, [-0.03, 0.005]) == "-0.0123 (-0.030 to +0.005)"
    assert format_p_value(0.03125) == "0.0312"
    assert format_p_value(3e-9) == "<0.0001"
    assert format_count(34, 1200, 5000) == "34 of 1,200"
    assert format_count(1234, 5000, 5000) == "1,234"
    assert format_name("Pleural_Thickening") == "Pleural Thickening"


def test_what_is_undefined_and_what_is_unknown_has_one_word_each() -> None:
    undefined = [format_figure(None), format_figure(NAN), format_figure(None, interval=[0.1, 0.2])]
    undefined += [format_interval(None), format_difference(None), format_p_value(None)]
    assert {*undefined} == {"n/a"}
    assert format_threshold(None) == format_threshold(NAN) == "unknown"
    assert format_threshold(0.5) == "0.500"
