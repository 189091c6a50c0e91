"""Predictions CSVs, good and bad: what comes in is right or refused, with the line and the column."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chexjax.data.sources.nih import read_entry_file
from chexjax.errors import ChexjaxError, DataError
from chexjax.evaluation.predictions import columns_of, match, read_labels, read_predictions, write_predictions
from chexjax.findings import FINDINGS
from chexjax.models.probability import probability_of

HEADER = ",".join(["Image Index", *FINDINGS])
ROW = ",".join(["0.5"] * 14)


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "p.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_what_is_written_is_read(tmp_path: Path, probabilities: np.ndarray) -> None:
    names = ["=1+1.png", "-a.png", "'b.png", "@c.png", *(f"f{k}.png" for k in range(36))]
    write_predictions(tmp_path / "p.csv", names, probabilities, FINDINGS)
    found = read_predictions(tmp_path / "p.csv", FINDINGS)
    assert found.names == tuple(names)
    np.testing.assert_array_equal(found.probabilities, probabilities)
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
        f",{HEADER},No Finding,n_models,\n0,a.png,{ROW},0.9,8,x\n1,b.png,{ROW},many,,\n",
        gzip.compress(f"\ufeff{HEADER}\na.png,{ROW}\nb.png,{ROW}\n".encode(), mtime=0),
        f"\n{HEADER}\na.png,{ROW}\nb.png,{ROW}\n".replace(",", ";").replace("0.5", "0,5"),
        f"{HEADER}\na.png,{ROW}\nb.png,{ROW}\n".replace(",", "\t").replace("0.5", " 5,0e-1"),
    ],
    ids=[
        "plain", "byte order mark and CRLF", "quoted names and a blank line", "prob_ and spaces", "any order",
        "columns that are no finding", "gzip", "semicolons and decimal commas", "tabs and decimal commas",
    ],
)  # fmt: skip
def test_every_way_to_write_a_table_reads_alike(tmp_path: Path, text: str | bytes) -> None:
    found = read_predictions(written(tmp_path, text), FINDINGS)
    assert found.names == ("a.png", "b.png")
    assert found.findings == FINDINGS
    np.testing.assert_array_equal(found.probabilities, np.full((2, 14), 0.5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        (f"{HEADER}\n", "has a header and no film"),
        (f"{HEADER}\na.png,{ROW}\n".replace(",", "|"), r"line 1: columns are separated by '\|'"),
        (f'{HEADER}\na.png,"0,5"{ROW[3:]}\n', "line 2, column Atelectasis: '0,5' is no probability"),
        (f"{HEADER}\na.png,nan{ROW[3:]}\n", "line 2, column Atelectasis: 'nan' is no probability"),
        (f"{HEADER}\na.png,{ROW}\nb.png,{ROW[:-3]}1e999\n", "line 3, column Hernia: '1e999' is no probability"),
        (f"{HEADER}\na.png,{ROW[:-3]}\n", "line 2, column Hernia: '' is no probability"),
        (f"{HEADER}\na.png,{'9' * 999}{ROW[3:]}\n", r"'9{37}\.\.\.' is no probability"),
        (f"{HEADER}\na.png,-inf{ROW[3:]}\n", "'-inf' is no probability, nor any other finite number"),
        (f"{HEADER}\na.png,0.5\n", "line 2: 2 cells where the header has 15"),
        (f"{HEADER}\na.png,{ROW},1\n", "line 2: 16 cells"),
        (f'{HEADER}\n"a.png,{ROW}\n', "line 2, cannot be read as CSV: unexpected end of data"),
        (f"{HEADER}\na.png,{ROW}\nb.png,{ROW}\na.png,{ROW}\n", "films more than once, 1: a.png"),
        (f"{HEADER},prob_Mass\na.png,{ROW},1\n", "columns that stand more than once, 1: Mass"),
        (f"{HEADER},Image Index\na.png,{ROW},1\n", "more than once, 1: Image Index"),
        ("Image Index,Fracture,\na.png,1,\n", "no column for any of the 14 findings; it has 2: 'Fracture', ''"),
        (gzip.compress(f"{HEADER}\na.png,{ROW}\n".encode(), mtime=0)[:-9], "cannot be read as CSV"),
        (gzip.compress(b"\x89PNG\r\n", mtime=0), "cannot be read as CSV: it is not UTF-8"),
        (b"\x1f\x8b and no more", "cannot be read as CSV"),
        (f"{HEADER[12:]}\n{ROW}\n", "no column 'Image Index'"),
        ("Image Index\na.png\n", "no column for any of the 14 findings"),
        (f"{HEADER}\n,{ROW}\n", "line 2, column Image Index: '' is no film name"),
        (f'{HEADER}\n"a\n.png",{ROW}\n', r"line 3, column Image Index: 'a\\n.png' is no film name"),
        (f"{HEADER}\n{'a' * 200_000},{ROW}\n", "cannot be read as CSV: field larger"),
        (f"{HEADER}\na.png,{ROW}\n".encode("utf-16"), "cannot be read as CSV: it is not UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0", "cannot be read as CSV"),
    ],
)
def test_a_bad_table_is_refused_in_one_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_predictions(written(tmp_path, text), FINDINGS)
    assert str(tmp_path / "p.csv") in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_table_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"p\.csv does not exist"):
        read_predictions(tmp_path / "p.csv", FINDINGS)
    with pytest.raises(DataError, match="is not a file"):
        read_predictions(tmp_path, FINDINGS)


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
        found, _ = match(read_entry_file(entry_file), [read_predictions(path, FINDINGS)], FINDINGS)
    except ChexjaxError as error:
        refusal = str(error)
    else:
        refusal = None
    if refusal is not None:
        assert str(path) in refusal
        assert len(refusal.splitlines()) == 1
        return
    (numbers,) = found.models.values()
    assert numbers.shape == found.labels.shape == (len(found.names), len(found.findings))
    assert np.isfinite(numbers).all()
    assert bool(found.ranked_only) or ((numbers >= 0) & (numbers <= 1)).all()
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
        tmp_path / "a.csv", [*names[:30], "other.png"], np.vstack([probabilities[:30], probabilities[:1]]), FINDINGS
    )
    write_predictions(tmp_path / "b.csv", names[10:], probabilities[10:] / 2, FINDINGS)
    a, b = (read_predictions(tmp_path / f"{name}.csv", FINDINGS) for name in "ab")
    found, notes = match(entries, [a, b], FINDINGS)
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
    found, notes = match(read_entry_file(entry_file), [read_predictions(path, FINDINGS)], FINDINGS)
    assert found.findings == ("Mass", "Edema")
    np.testing.assert_array_equal(found.models["p"], [[0.1, 0.2], [0.3, 0.4]])
    assert notes[1].startswith("not predicted, and left out of every mean: Atelectasis, Cardiomegaly")


def test_columns_that_are_no_finding_are_named(tmp_path: Path, entry_file: Path) -> None:
    path = written(tmp_path, f",{HEADER},No Finding\n7,f00.png,{ROW},0.5\n")
    _, notes = match(read_entry_file(entry_file), [read_predictions(path, FINDINGS)], FINDINGS)
    assert notes[0] == "p.csv: columns that are no finding are passed over, 2: '', 'No Finding'"


@pytest.mark.parametrize("column", ["", "image_id", "Filename", "Unnamed: 0", "path", "image index"])
def test_films_under_another_name_of_column_folder_suffix_and_case(
    tmp_path: Path, entry_file: Path, column: str
) -> None:
    names = ["f00.png", "data/images/f01.png", "F02.PNG", "f03.jpg", "f04", "c:\\\\films\\\\f05.png"]
    rows = "\n".join(f"{name},{ROW},9" for name in names)
    table = read_predictions(written(tmp_path, f"{HEADER.replace('Image Index', column)},fold\n{rows}\n"), FINDINGS)
    found, notes = match(read_entry_file(entry_file), [table], FINDINGS)
    assert found.names == tuple(f"f0{k}.png" for k in range(6))
    said = f"p.csv: no column 'Image Index': {column!r} is taken for it; columns that are no finding are passed over"
    assert notes[0] == f"{said}, 1: 'fold'"
    assert notes[1].startswith("p.csv: 5 film names differ from the entry file's in folder, suffix or case, such as")
    twice = read_predictions(written(tmp_path, f"{HEADER}\nf00.png,{ROW}\nf00.jpg,{ROW}\n"), FINDINGS)
    with pytest.raises(DataError, match=r"films more than once, 1: f00\.png"):
        match(read_entry_file(entry_file), [twice], FINDINGS)


def test_findings_are_known_under_other_spellings(tmp_path: Path) -> None:
    plain = read_predictions(written(tmp_path, f"{HEADER}\na.png,{ROW}\n"), FINDINGS)
    for spelling in (str.lower, str.upper, lambda name: name.replace("_", " "), lambda name: f"prob_{name.lower()}"):
        head = ",".join(["Image Index", *map(spelling, FINDINGS)])
        other = read_predictions(written(tmp_path, f"{head}\na.png,{ROW}\n"), FINDINGS)
        assert other.findings == plain.findings
        np.testing.assert_array_equal(other.probabilities, plain.probabilities)
        assert not other.passed_over
    with pytest.raises(DataError, match="more than once, 1: Pleural_Thickening"):
        read_predictions(written(tmp_path, f"{HEADER},Pleural Thickening\na.png,{ROW},1\n"), FINDINGS)


def test_numbers_that_are_no_probabilities_are_kept_and_named(tmp_path: Path, entry_file: Path) -> None:
    path = written(tmp_path, "Image Index,Mass\nf00.png,-12.5\nf01.png,31.25\n")
    found, notes = match(read_entry_file(entry_file), [read_predictions(path, FINDINGS)], FINDINGS)
    np.testing.assert_array_equal(found.models["p"], [[-12.5], [31.25]])
    assert found.ranked_only == {"p"}
    assert "numbers from -12.5 to 31.25 are no probabilities: they are ranked as written" in notes[0]


def test_the_order_of_any_two_logits_survives_the_csv(tmp_path: Path) -> None:
    """Neighbouring float32 numbers, from the smallest to the greatest."""
    sizes = np.float32([1e-40, 1e-12, 1e-7, 1e-3, 0.5, 7, 16, 21, 24, 30, 37, 60, 100, 800, 1e9, 3e38])
    logits = np.stack([sizes, np.nextafter(sizes, np.float32(np.inf))], axis=1).ravel()
    logits = np.concatenate([-logits[::-1], [0.0], logits]).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(logits))
    names = [f"{k}.png" for k in order]
    write_predictions(tmp_path / "p.csv", names, probability_of(np.repeat(logits[order, None], 14, axis=1)), FINDINGS)
    found = read_predictions(tmp_path / "p.csv", FINDINGS)
    assert found.names == tuple(names)
    assert (np.diff(found.probabilities[np.argsort(order)], axis=0) > 0).all()
    assert found.are_probabilities


# Labels


def test_a_table_of_labels_in_all_its_cells(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(
        "Image Index,Mass,Hernia,Patient ID,Patient Sex,Follow-up\n"
        "a.png,1,,p1,F,0\nb.png,0.0,nan,p1,F,1\nc.png,-1,-1.0,p2,M,0\nd.png,0.25,NaN,,M,0\n"
    )
    found, findings, notes = read_labels(path, FINDINGS)
    assert findings == ("Mass", "Hernia")
    labels = np.stack([entry.labels for entry in found.values()])
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels[:, 0], [1, 0, np.nan, 0.25])
    assert np.isnan(labels[:, 1]).all()
    assert [entry.patient for entry in found.values()] == ["p1", "p1", "p2", "film d.png"]
    assert [entry.sex for entry in found.values()] == ["F", "F", "M", "M"]
    assert notes == ["labels.csv: 2 uncertain labels (-1) are taken as not known"]
    path.write_bytes(gzip.compress(b"Image Index,Mass\na.png,1\n"))
    found, _, notes = read_labels(path, FINDINGS)
    assert found["a.png"].labels.tolist() == [1]
    assert notes == ["labels.csv has no column 'Patient ID': each film is taken for a patient of its own"]


def test_a_runs_own_table_is_read_as_labels(tmp_path: Path) -> None:
    """Other spellings of findings, paths of films, the columns of a source `table`; and words for labels."""
    path = tmp_path / "labels.csv"
    path.write_text(
        "Image Index,pleural thickening,Mass,patient,split,sex,age,view\n"
        "train/p1/a.png,yes,0,p1,train,F,61,PA\ntrain/p1/b.png,NO,1,p1,test,F,61,AP\n"
    )
    table = written(tmp_path, "Image Index,Pleural_Thickening,Mass,patient,view\na.png,0.5,0.25,p1,PA\n")
    assert columns_of(table) == ("Pleural_Thickening", "Mass")
    entries, findings, notes = read_labels(path, columns_of(table))
    assert (findings, notes) == (("Pleural_Thickening", "Mass"), [])
    first = entries["train/p1/a.png"]
    assert (first.labels.tolist(), first.patient, first.sex, first.age, first.view) == ([1, 0], "p1", "F", 61, "PA")
    found, _ = match(entries, [read_predictions(table, findings)], findings)
    assert found.names == ("train/p1/a.png",)


def test_columns_of_findings_come_before_the_one_of_labels(tmp_path: Path) -> None:
    """Google's tables have the readers' findings beside the NIH's labels."""
    path = tmp_path / "labels.csv"
    path.write_text("Image Index,Finding Labels,Patient ID,Pneumothorax\na.png,No Finding,7,NO\nb.png,Mass,8,YES\n")
    entries, findings, notes = read_labels(path, FINDINGS)
    assert findings == ("Pneumothorax",)
    assert [entry.labels.tolist() for entry in entries.values()] == [[0], [1]]
    said = "labels.csv: the labels are the columns of findings, 1: Pneumothorax; 'Finding Labels' is passed over"
    assert notes == [said]
    entries, findings, _ = read_labels(path, ("Mass", "Nodule"))
    assert findings == FINDINGS


def test_any_findings_that_both_tables_have_are_scored(tmp_path: Path) -> None:
    """By names that no list holds; what is no finding in either table, and what only one has, is not scored."""
    labels, table = tmp_path / "labels.csv", tmp_path / "p.csv"
    labels.write_text(
        "Image Index,Zebra sign,prob_Rust,Patient ID,,No Finding,Only labelled\nb.png,0,1,p2,0,1,1\na.png,1,,p1,1,0,0\n"
    )
    table.write_text(
        "Image Index,prob_Rust,Zebra sign,,Patient ID,No Finding,Only predicted\n"
        "a.png,0.5,0.75,3,p1,0,1\nb.png,0.25,1,4,p2,1,0\n"
    )
    assert columns_of(table) == ("Rust", "Zebra sign", "Only predicted")
    entries, findings, _ = read_labels(labels, columns_of(table))
    assert findings == ("Rust", "Zebra sign")
    found, notes = match(entries, [read_predictions(table, findings)], findings)
    assert (found.names, found.findings) == (("a.png", "b.png"), findings)
    np.testing.assert_array_equal(found.labels, [[np.nan, 1], [1, 0]])
    np.testing.assert_array_equal(found.models["p"], [[0.5, 0.75], [0.25, 1]])
    assert "passed over" in notes[0]


def test_the_entry_file_is_read_as_ever_gzip_or_not(tmp_path: Path, entry_file: Path) -> None:
    packed = tmp_path / "entries.csv.gz"
    packed.write_bytes(gzip.compress(entry_file.read_bytes()))
    expected = read_entry_file(entry_file)
    for path in (entry_file, packed):
        found, _, notes = read_labels(path, FINDINGS)
        assert (found, notes) == (expected, [])
        assert all((found[name].labels == entry.labels).all() for name, entry in expected.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column 'Image Index', 'Finding Labels'"),
        ("Image Index,Mass\na.png,maybe\n", "line 2, column Mass: 'maybe' is no label; a label is 0, 1, a number"),
        ("Image Index,Mass\na.png,1\nb.png,2\n", "line 3, column Mass: '2' is no label"),
        ("Image Index,Mass\na.png,inf\n", "'inf' is no label"),
        ("Image Index,Mass\na.png,-0.5\n", "'-0.5' is no label"),
        ("Image Index,Mass\na.png,1\na.png,0\n", "films more than once, 1: a.png"),
        ("Image Index,Mass\n../a.png,1\n", "is no film name"),
        ("Image Index,Mass\na.png,1,1\n", "line 2: 3 cells where the header has 2"),
        ("Image Index,Mass,Mass\na.png,1,0\n", "columns that stand more than once, 1: Mass"),
        ("Mass,Edema\n1,0\n", "no column 'Image Index'"),
        ("Image Index,Mass\n", "no label of 0 or 1"),
        (f"{HEADER}\na.png,{ROW}\n", "has no column 'Finding Labels', and no label of 0 or 1"),
    ],
)
def test_a_bad_table_of_labels_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_labels(written(tmp_path, text), FINDINGS)
    assert len(str(caught.value).splitlines()) == 1


def test_no_film_in_common(tmp_path: Path, entry_file: Path) -> None:
    entries = read_entry_file(entry_file)
    strange = read_predictions(written(tmp_path, f"{HEADER}\nx.png,{ROW}\n"), FINDINGS)
    with pytest.raises(DataError, match=r"the first row is 'x\.png', the entry file begins with 'f00\.png'"):
        match(entries, [strange], FINDINGS)


def test_what_predict_says_of_a_film_is_no_finding_and_refused_films_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text(
        "Image Index,Mass,Nodule,status,reasons\na.png,0.5,0.25,ok,\nb.png,,,refused,modality CT\n"
        "c.png,0.75,0.125,doubtful,lateral view; text in the pixels\n"
    )
    assert columns_of(path) == ("Mass", "Nodule")
    found = read_predictions(path, FINDINGS)
    assert found.names == ("a.png", "c.png")
    assert found.findings == ("Mass", "Nodule")
    assert found.probabilities.tolist() == [[0.5, 0.25], [0.75, 0.125]]
    assert found.passed_over == ()
    assert found.refused == 1
    path.write_text(path.read_text().replace("b.png,,,refused", "b.png,,,ok"))
    with pytest.raises(DataError, match="line 3, column"):
        read_predictions(path, FINDINGS)
