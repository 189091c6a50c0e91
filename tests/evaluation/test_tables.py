"""Tables: one printer, whose columns line up; and what stands in them."""

import csv
from pathlib import Path

import numpy as np

from chexjax.evaluation.summary import find_thresholds, summarize_model
from chexjax.evaluation.tables import (
    Table,
    as_markdown,
    as_text,
    auroc_text,
    confusion_table,
    published_localization_table,
    published_means_table,
    write_csv,
)

TABLE = Table("a title", ["", "n", "AUROC (95 %)"], [["mean", "", "0.5000"], ["Mass|x", "1,234", "n/a"]], lead=1)


def test_columns_line_up_on_a_terminal() -> None:
    assert as_text(TABLE).split("\n") == [
        "a title",
        "            n  AUROC (95 %)",
        "mean                 0.5000",
        "Mass|x  1,234           n/a",
    ]
    evil = Table("\x1b[2J", ["\n"], [["\x07"]])
    assert as_text(evil).replace("\n", "").isprintable()


def test_a_cell_stays_a_cell_in_markdown() -> None:
    assert as_markdown(TABLE).split("\n") == [
        "|  | n | AUROC (95 %) |",
        "| --- | --- | --- |",
        "| mean |  | 0.5000 |",
        "| Mass&#124;x | 1,234 | n/a |",
    ]


def test_a_csv_holds_all_tables_and_no_formula(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [TABLE, Table("=1+1", ["@a"], [["+0.5"], ["+x"]])])
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[:4] == [["a title"], TABLE.heads, *TABLE.rows]
    assert rows[5:] == [["'=1+1"], ["'@a"], ["+0.5"], ["'+x"], []]


def test_what_is_unknown_or_undefined_at_a_threshold() -> None:
    labels = np.array([[1, 0], [0, 0], [1, 0]])
    scores = np.array([[0.9, 0.1], [0.2, 0.2], [0.6, 0.3]])
    findings = ("Mass", "Hernia")
    entry = summarize_model(labels, scores, ("a", "b", "c"), findings, find_thresholds(labels, scores, findings))
    table = confusion_table("net", entry, findings)
    assert table.heads[:3] == ["finding", "threshold by", "at"]
    assert table.heads[3:] == ["TP", "FP", "FN", "TN", "sensitivity", "specificity", "precision"]
    assert table.rows[:2] == [
        ["Mass", "Youden's point", "0.6000", "2", "0", "0", "1", "1.000", "1.000", "1.000"],
        ["Mass", "sensitivity 90 %", "0.6000", "2", "0", "0", "1", "1.000", "1.000", "1.000"],
    ]
    assert table.rows[2] == ["Hernia", "Youden's point", "unknown", *["n/a"] * 7]


def test_intervals_are_left_out_where_they_do_not_fit() -> None:
    def found(networks: int) -> dict:
        entry = {"model": "resnet18", "mean_auroc": 0.5, "mean_auroc_interval": [0.4, 0.6], "convergence_epoch": None}
        entry |= {"auroc": {"Mass": None}, "auroc_interval": {"Mass": None}}
        return {
            "split": "test", "films": 1000, "step": 7, "known": {"Mass": 1000}, "positives": {"Mass": 3},
            "notes": ["a note"],
            "networks": {f"net{k}": entry for k in range(networks)},
        }  # fmt: skip

    few, many = (auroc_text(found(k), ["Mass"]).split("\n") for k in (2, 6))
    assert few[0] == "test: 1,000 films, checkpoint of step 7"
    assert few[2].split() == ["mean", "AUROC", *["0.5000", "(0.400-0.600)"] * 2]
    assert many[2].split() == ["mean", "AUROC", *["0.5000"] * 6]
    assert few[3].split() == ["Mass", "3", "n/a", "n/a"]
    assert few[5:] == ["a note"]
    assert few[4].split() == ["converged", "at", "epoch", "n/a", "n/a"]


def test_published_shares_name_their_measure() -> None:
    rows = dict(published_localization_table().rows)
    assert rows["Wang et al. 2017"] == "IoBB 0.1: 0.629, IoBB 0.25: 0.486, IoBB 0.5: 0.330"


def test_the_official_and_the_random_split_share_no_column() -> None:
    """Of figures that everybody knows: Wang et al. and EVA-X report on the NIH's list, CheXNet on a random split."""
    table = published_means_table()
    assert ["OFF" in head for head in table.heads] == [False, True, False]
    assert ["RND" in head for head in table.heads] == [False, False, True]
    assert all(sum(map(bool, cells)) == 1 for _, *cells in table.rows)
    rows = {who: cells for who, *cells in table.rows}
    assert rows["Wang et al. 2017, ResNet-50"] == ["0.745", ""]
    assert rows["EVA-X-B, pre-trained on 520k films"] == ["0.835", ""]
    assert rows["CheXNet 2017, DenseNet-121"] == ["", "0.841"]
