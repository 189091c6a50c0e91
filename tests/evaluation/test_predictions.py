"""Predictions CSVs, good and bad: what comes in is right or refused, with the line and the column."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chexjax.data.sources.nih import read_entry_file
from chexjax.errors import ChexjaxError, DataError
from chexjax.evaluation.predictions import match, read_predictions, write_predictions
from chexjax.findings import FINDINGS

HEADER = ",".join(["Image Index", *FINDINGS])
ROW = ",".join(["0.5"] * 14)


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "p.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_what_is_written_is_read(tmp_path: Path, probabilities: np.ndarray) -> None:
    names = ["=1+1.png", "-a.png", "'b.png", "@c.png", *(f"f{k}.png" for k in range(36))]
    write_predictions(tmp_path / "p.csv", names, probabilities)
    found = read_predictions(tmp_path / "p.csv")
    assert found.names == tuple(names)
    np.testing.assert_allclose(found.probabilities, probabilities, rtol=1e-8)
    with (tmp_path / "p.csv").open(newline="") as file:
        assert [row[0] for row in csv.reader(file)][1:4] == ["'=1+1.png", "'-a.png", "'b.png"]


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}\na.png,{ROW}\nb.png,{ROW}\n",
        f"\ufeff{HEADER}\r\na.png,{ROW}\r\nb.png,{ROW}\r\n",
        f'"Image Index",{HEADER[12:]}\n"a.png",{ROW}\n\n"b.png",{ROW}',
        f"{HEADER.replace(',', ',prob_')}\n a.png ,{ROW.replace(',', ' , ')}\nb.png,{ROW}\n",
        ",".join([*reversed(FINDINGS), "Image Index"]) + f"\n{ROW},a.png\n{ROW},b.png\n",
    ],
    ids=["plain", "byte order mark and CRLF", "quoted names and a blank line", "prob_ and spaces", "any order"],
)
def test_every_way_to_write_a_table_reads_alike(tmp_path: Path, text: str) -> None:
    found = read_predictions(written(tmp_path, text))
    assert found.names == ("a.png", "b.png")
    assert found.findings == FINDINGS
    np.testing.assert_array_equal(found.probabilities, np.full((2, 14), 0.5))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        (f"{HEADER}\n", "has a header and no film"),
        (f"{HEADER}\na.png,{ROW}\n".replace(",", ";"), "line 1: columns are separated by ';'"),
        (f"{HEADER}\na.png,nan{ROW[3:]}\n", "line 2, column Atelectasis: 'nan' is no probability"),
        (f"{HEADER}\na.png,{ROW}\nb.png,{ROW[:-3]}1e999\n", "line 3, column Hernia: '1e999' is no probability"),
        (f"{HEADER}\na.png,-0.1{ROW[3:]}\n", "'-0.1' is no probability"),
        (f"{HEADER}\na.png,{ROW[:-3]}\n", "line 2, column Hernia: '' is no probability"),
        (f"{HEADER}\na.png,{'9' * 99}{ROW[3:]}\n", r"'9{37}\.\.\.' is no probability"),
        (f"{HEADER}\na.png,0.5\n", "line 2: 2 cells where the header has 15"),
        (f"{HEADER}\na.png,{ROW},1\n", "line 2: 16 cells"),
        (f'{HEADER}\n"a.png,{ROW}\n', "line 2: 1 cells"),
        (f"{HEADER}\na.png,{ROW}\nb.png,{ROW}\na.png,{ROW}\n", "films more than once, 1: a.png"),
        (f"{HEADER},prob_Mass\na.png,{ROW},1\n", "columns that stand more than once, 1: Mass"),
        (f"{HEADER},Image Index\na.png,{ROW},1\n", "more than once, 1: Image Index"),
        (f"{HEADER},Fracture\na.png,{ROW},1\n", "unknown columns, 1: 'Fracture'"),
        (f"{HEADER},\na.png,{ROW},\n", "unknown columns, 1: ''"),
        (f"{HEADER[12:]}\n{ROW}\n", "no column 'Image Index'"),
        ("Image Index\na.png\n", "no column for any of the 14 findings"),
        (f"{HEADER}\n,{ROW}\n", "line 2, column Image Index: '' is no film name"),
        (f'{HEADER}\n"a\n.png",{ROW}\n', r"line 3, column Image Index: 'a\\n.png' is no film name"),
        (f"{HEADER}\n{'a' * 200_000},{ROW}\n", "cannot be read as CSV: field larger"),
        (f"{HEADER}\na.png,{ROW}\n".encode("utf-16"), "cannot be read as CSV: 'utf-8'"),
        (b"\x89PNG\r\n\x1a\n\0\0", "cannot be read as CSV"),
    ],
)
def test_a_bad_table_is_refused_in_one_line(tmp_path: Path, text: str | bytes, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        read_predictions(written(tmp_path, text))
    assert str(tmp_path / "p.csv") in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_table_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"p\.csv does not exist"):
        read_predictions(tmp_path / "p.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_predictions(tmp_path)


CELLS = st.one_of(
    st.sampled_from(["0.5", "1", "0", "", "nan", "inf", "1e999", "-1", "0,5", '"0.5"', '"', "=1", "1_0", "٠", " 0.1 "]),
    st.floats(0, 1).map(str),
    st.text(max_size=4),
)
NAMES = st.one_of(st.sampled_from([f"f0{k}.png" for k in range(6)]), st.text(max_size=6))
HEADS = st.one_of(
    st.just(["Image Index", *FINDINGS]),
    st.lists(st.sampled_from(["Image Index", *FINDINGS, "prob_Mass", "", "image index"]), max_size=16),
)
TABLES = st.tuples(
    st.sampled_from(["", "\ufeff", "\n"]),
    HEADS,
    st.lists(st.tuples(NAMES, st.one_of(st.just(["0.25"] * 14), st.lists(CELLS, max_size=16))), max_size=6),
    st.sampled_from([",", ",", ",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
)


@given(st.one_of(TABLES, st.text(max_size=200), st.binary(max_size=200)))
@example(("", ["Image Index", *FINDINGS], [("f00.png", ["0.25"] * 14)], ",", "\n"))
@settings(max_examples=400, deadline=None)
def test_made_up_tables_are_read_or_refused(tmp_path_factory, entry_file: Path, table: object) -> None:
    """Whatever the file holds: a table whose every number is a probability, or our own error, on one line."""
    folder = tmp_path_factory.getbasetemp()
    if isinstance(table, tuple):
        mark, head, rows, separator, end = table
        table = mark + end.join(separator.join(line) for line in [head, *([name, *cells] for name, cells in rows)])
    path = written(folder, table.encode("utf-8", "surrogatepass") if isinstance(table, str) else table)
    try:
        found, _ = match(read_entry_file(entry_file), [read_predictions(path)])
    except ChexjaxError as error:
        refusal = str(error)
    else:
        refusal = None
    if refusal is not None:
        assert str(path) in refusal
        assert len(refusal.splitlines()) == 1
        return
    (probabilities,) = found.models.values()
    assert probabilities.shape == found.labels.shape == (len(found.names), len(found.findings))
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert len(set(found.names)) == len(found.names) > 0


ENTRIES = st.lists(
    st.lists(
        st.one_of(
            st.sampled_from(["f1.png", "Mass|Edema", "No Finding", "7", "058Y", "M", '"', "Mass|"]), st.text(max_size=5)
        ),
        max_size=8,
    ),
    max_size=5,
)
ENTRY_HEADER = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"


@given(st.sampled_from([ENTRY_HEADER, "Image Index", ""]), ENTRIES, st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=200, deadline=None)
def test_made_up_entry_files_are_read_or_refused(tmp_path_factory, head: str, rows: list[list[str]], end: str) -> None:
    path = written(
        tmp_path_factory.getbasetemp(),
        end.join([head, *map(",".join, rows)]).encode("utf-8", "surrogatepass"),
    )
    try:
        entries = read_entry_file(path)
    except ChexjaxError:
        return
    assert all(name == entry.name and entry.labels.shape == (14,) for name, entry in entries.items())


# Matching


def test_films_are_joined_by_name_and_counted(tmp_path: Path, entry_file: Path, probabilities: np.ndarray) -> None:
    entries = read_entry_file(entry_file)
    names = [*reversed(entries)]
    write_predictions(
        tmp_path / "a.csv", [*names[:30], "other.png"], np.vstack([probabilities[:30], probabilities[:1]])
    )
    write_predictions(tmp_path / "b.csv", names[10:], probabilities[10:] / 2)
    a, b = (read_predictions(tmp_path / f"{name}.csv") for name in "ab")
    found, notes = match(entries, [a, b])
    assert found.names == tuple(names[10:30])
    np.testing.assert_allclose(found.models["a"], 2 * found.models["b"], rtol=1e-8)
    np.testing.assert_array_equal(found.labels, [entries[name].labels for name in found.names])
    assert found.patients == tuple(entries[name].patient for name in found.names)
    assert notes == [
        "a.csv: 30 of 31 rows match the entry file",
        "left out, for the entry file does not know them, 1: other.png",
        "b.csv: 20 films in common with a.csv",
        "left out, because only one of the two has them: 10 and 10 films",
    ]


def test_some_findings_alone_are_scored_and_the_others_named(tmp_path: Path, entry_file: Path) -> None:
    path = written(tmp_path, "Mass,Image Index,prob_Edema\n0.1,f00.png,0.2\n0.3,f01.png,0.4\n")
    found, notes = match(read_entry_file(entry_file), [read_predictions(path)])
    assert found.findings == ("Mass", "Edema")
    np.testing.assert_array_equal(found.models["p"], [[0.1, 0.2], [0.3, 0.4]])
    assert notes[1].startswith("not predicted, and left out of every mean: Atelectasis, Cardiomegaly")


def test_no_film_in_common(tmp_path: Path, entry_file: Path) -> None:
    entries = read_entry_file(entry_file)
    strange = read_predictions(written(tmp_path, f"{HEADER}\nx.png,{ROW}\n"))
    with pytest.raises(DataError, match=r"the first row is 'x\.png', the entry file begins with 'f00\.png'"):
        match(entries, [strange])
