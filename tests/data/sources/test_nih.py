"""The tables of an NIH folder, with the quirks of the real ones, and what is refused."""

import gzip
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from chexjax.data.sources import nih, tables
from chexjax.data.sources.entries import need
from chexjax.errors import DataError
from chexjax.findings import FINDINGS

HEADER_2017 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)


def write(folder: Path, rows: list[str], header: str = HEADER_2017, name: str = "Data_Entry_2017.csv") -> Path:
    (folder / name).write_text("\n".join([header, *rows]) + "\n")
    return folder


def test_the_2017_edition_with_its_odd_ages_and_empty_column(tmp_path: Path) -> None:
    rows = [
        "1_0.png,Cardiomegaly|Emphysema,000,1,058Y,M,PA,2682,2749,0.143,0.143,",
        "2_0.png,No Finding,000,2,412,F,AP,2500,2048,0.168,0.168,",
        "3_0.png,Hernia,000,3,010M,F,AP,2500,2048,0.168,0.168,",
    ]
    entries = nih.read_entries(write(tmp_path, rows))
    first = entries["1_0.png"]
    assert (first.patient, first.age, first.sex, first.view) == ("1", 58, "M", "PA")
    assert [f for f, y in zip(FINDINGS, first.labels, strict=True) if y] == ["Cardiomegaly", "Emphysema"]
    assert entries["2_0.png"].age == -1
    assert not entries["2_0.png"].labels.any()
    assert entries["3_0.png"].age == 0


def test_the_2020_edition_is_preferred_and_a_byte_order_mark_is_no_trouble(tmp_path: Path) -> None:
    write(tmp_path, ["old.png,Mass,0,1,50,M,PA,1,1,1,1,"])
    write(tmp_path, ["new.png,Nodule,0,1,50,M,PA,1,1,1,1"], "\ufeff" + HEADER_2017[:-1], "Data_Entry_2017_v2020.csv")
    assert list(nih.read_entries(tmp_path)) == ["new.png"]


def test_boxes_by_position_with_the_odd_header_and_spelling(tmp_path: Path) -> None:
    write(tmp_path, ["1_0.png,Infiltration,0,1,50,M,PA,1,1,1,1,"])
    (tmp_path / nih.BOX_FILE).write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n1_0.png,Infiltrate,256,512,128,64,,,\n"
    )
    (box,) = nih.read_entries(tmp_path)["1_0.png"].boxes
    assert box == nih.Box("Infiltration", 0.25, 0.5, 0.125, 0.0625)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (HEADER_2017.replace("Finding Labels", "Labels"), [], "no column 'Finding Labels'"),
        (HEADER_2017, ["1.png,Mass|Measles,0,1,50,M,PA,,,,,"], r"1 labels.*'Measles' \(1 films\)"),
        (HEADER_2017, ["1.png,Mass,0,1,50,M,PA,,,,,"] * 2, "more than once, 1: 1.png"),
        (HEADER_2017, ["../1.png,Mass,0,1,50,M,PA,,,,,"], "line 2: no usable name of a film"),
        (HEADER_2017, [], "has no rows"),
    ],
)
def test_broken_entry_files_are_told(tmp_path: Path, header: str, rows: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        nih.read_entries(write(tmp_path, rows, header))


def test_a_folder_that_is_none_or_empty_or_binary(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a folder"):
        nih.read_entries(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds none of Data_Entry_2017_v2020\.csv, "):
        nih.read_entries(tmp_path)
    (tmp_path / "Data_Entry_2017.csv").write_bytes(b"\xff\xfe\x00\x80" * 9)
    with pytest.raises(DataError, match=r"Data_Entry_2017\.csv"):
        nih.read_entries(tmp_path)


def test_the_folder_that_holds_the_table_is_named(tmp_path: Path) -> None:
    inner = tmp_path / "download"
    (inner / "images").mkdir(parents=True)
    write(inner, ["1_0.png,No Finding,0,1,50,M,PA,,,,,"])
    for named in (tmp_path, inner / "images"):
        with pytest.raises(DataError, match=rf"\nthat lies in {re.escape(str(inner))}; name it: --dir \(data\.dir\)$"):
            nih.read_entries(named)
    (inner / "train.csv").write_text("a\n")
    with pytest.raises(DataError, match=rf"which the source 'chexpert' reads\nthat lies in {re.escape(str(inner))}; "):
        need(inner / "images", "chexpert", ("train.csv", "valid.csv"))
    with pytest.raises(DataError, match=r"which the source 'chexpert' reads$"):
        need(inner / "images", "chexpert", ("valid.csv",))


@pytest.fixture
def listed(tmp_path: Path) -> tuple[Path, dict[str, nih.Entry]]:
    """Ten patients with two films each, the last three patients in test."""
    rows = [f"{p}_{k}.png,No Finding,{k},{p},50,M,PA,,,,," for p in range(10) for k in range(2)]
    names = [row.split(",")[0] for row in rows]
    write(tmp_path, rows)
    (tmp_path / "train_val_list.txt").write_text("\n".join(names[:14]))
    (tmp_path / "test_list.txt").write_text("\r\n".join(names[14:]) + "\r\n")
    return tmp_path, nih.read_entries(tmp_path)


def test_official_split_cuts_validation_by_patient(listed: tuple[Path, dict[str, nih.Entry]]) -> None:
    folder, entries = listed
    splits = nih.read_splits(folder, entries, val_fraction=0.3, seed=1)
    assert {split: len(names) for split, names in splits.items()} == {"train": 10, "val": 4, "test": 6}
    patients = {split: {entries[name].patient for name in names} for split, names in splits.items()}
    assert not patients["train"] & patients["val"]
    assert splits == nih.read_splits(folder, entries, val_fraction=0.3, seed=1)
    others = [nih.read_splits(folder, entries, val_fraction=0.3, seed=seed)["val"] for seed in range(2, 6)]
    assert any(other != splits["val"] for other in others)


def test_arnoweng_lists_and_folds(listed: tuple[Path, dict[str, nih.Entry]]) -> None:
    folder, entries = listed
    names = list(entries)
    zeros = " 0" * 14
    parts = {"train": names[:10], "val": names[10:14], "test": names[14:]}
    for part, part_names in parts.items():
        (folder / f"{part}_list.txt").write_text("".join(f"{name}{zeros}\n" for name in part_names))
    assert nih.read_splits(folder, entries, "arnoweng") == parts
    rows = [f"{name},{part}" for part, part_names in parts.items() for name in part_names]
    (folder / "folds.csv").write_text("\n".join(["Image Index,fold", *rows]))
    assert nih.read_splits(folder, entries, "folds") == parts


def test_a_patient_in_two_parts_is_refused(listed: tuple[Path, dict[str, nih.Entry]]) -> None:
    folder, entries = listed
    names = list(entries)
    (folder / "train_val_list.txt").write_text("\n".join(names[:13]))
    (folder / "test_list.txt").write_text("\n".join(names[13:]))
    with pytest.raises(DataError, match=r"two parts of the split, 1: 6 \((train|val) and test, film 6_1\.png\)"):
        nih.read_splits(folder, entries)


@pytest.mark.parametrize(
    ("text", "message"),
    [("stranger.png\n", "does not have, 1: stranger.png"), ("9_0.png\n9_0.png\n", "more than once, 1: 9_0.png")],
)
def test_lists_that_contradict_the_entries(listed, text: str, message: str) -> None:
    folder, entries = listed
    (folder / "test_list.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        nih.read_splits(folder, entries)


def test_absent_list_unknown_split_and_empty_part(listed: tuple[Path, dict[str, nih.Entry]]) -> None:
    folder, entries = listed
    with pytest.raises(DataError, match="no split is called 'mine'"):
        nih.read_splits(folder, entries, "mine")
    with pytest.raises(DataError, match=r"val part.*is empty"):
        nih.read_splits(folder, entries, val_fraction=0.0)
    (folder / "test_list.txt").unlink()
    with pytest.raises(DataError, match=r"test_list\.txt does not exist"):
        nih.read_splits(folder, entries)


def test_films_are_found_in_both_layouts(tmp_path: Path) -> None:
    for below in ("images_001/images", "images_012/images", "images"):
        (tmp_path / below).mkdir(parents=True)
    for below in ("images_001/images/a.png", "images_012/images/b.png", "images/c.png", "images/other.png"):
        (tmp_path / below).touch()
    found, missing = nih.find_films(tmp_path, ["a.png", "b.png", "c.png", "d.png"])
    assert {name: str(path.relative_to(tmp_path)) for name, path in found.items()} == {
        "a.png": "images_001/images/a.png",
        "b.png": "images_012/images/b.png",
        "c.png": "images/c.png",
    }
    assert missing == ["d.png"]


def test_films_of_another_suffix_or_case_are_found_and_told(tmp_path: Path, capsys) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "more").mkdir()  # no place for films
    present = ["images/a.jpg", "images/B.PNG", "images/c.png", "images/c.jpeg", "images/d.jpg", "images/d.jpeg"]
    for below in [*present, "images/e.txt", "more/f.png"]:
        (tmp_path / below).touch()
    found, missing = nih.find_films(tmp_path, ["a.png", "b.png", "c.png", "d.png", "e.png", "f.png"])
    assert {name: path.name for name, path in found.items()} == {"a.png": "a.jpg", "b.png": "B.PNG", "c.png": "c.png"}
    assert missing == ["d.png", "e.png", "f.png"]  # of d nobody knows which is meant
    message = capsys.readouterr().err
    assert message.startswith(
        "warning: 2 film names differ from the table's in suffix or case, such as a.jpg for a.png; "
    )


def test_copies_of_the_set_with_other_names_are_read_and_told(listed, tmp_path: Path, capsys) -> None:
    folder, entries = listed
    expected = nih.read_splits(folder, entries, val_fraction=0.3)
    for old, new in [
        ("Data_Entry_2017.csv", "data_entry_2017 (1).CSV"),
        ("train_val_list.txt", "train_val_list_mine.txt"),
        ("test_list.txt", "Test_List.txt"),
    ]:
        (folder / old).rename(folder / new)
    (folder / "BBox_List_2017_Official_NIH.csv").write_text("header\n0_0.png,Mass,1,2,3,4\n")
    (folder / "images-224" / "images-224").mkdir(parents=True)
    (folder / "images-224" / "images-224" / "0_0.png").touch()
    capsys.readouterr()
    renamed = nih.read_entries(folder)
    assert renamed == entries | {"0_0.png": renamed["0_0.png"]}
    assert [box.finding for box in renamed["0_0.png"].boxes] == ["Mass"]
    assert nih.read_splits(folder, renamed, val_fraction=0.3) == expected
    assert list(nih.find_films(folder, ["0_0.png"])[0]) == ["0_0.png"]
    message = capsys.readouterr().err
    assert f"{folder} holds no train_val_list.txt; train_val_list_mine.txt is taken for it" in message
    assert message.count("is taken for it") == 4
    (folder / "test_list_mine.txt").touch()
    with pytest.raises(DataError, match=r"no test_list\.txt, but several like it, 2: Test_List\.txt, test_list_mine"):
        nih.read_splits(folder, renamed)
    for path in folder.glob("*est_*.txt"):
        path.unlink()
    (folder / "held_out.txt").touch()
    with pytest.raises(DataError, match=r"tables there: 4: .*held_out\.txt.*\nrename the list to test_list\.txt"):
        nih.read_splits(folder, renamed)


def test_of_a_part_of_the_set_goes_on_what_the_lists_and_the_table_both_have(listed) -> None:
    folder, entries = listed
    part = {name: entry for name, entry in entries.items() if int(entry.patient) % 3 == 0}
    with pytest.raises(DataError, match=r"12: 1_0\.png.*\nfor a part of the set, .* --skip-unreadable"):
        nih.read_splits(folder, part)
    unknown: list[str] = []
    splits = nih.read_splits(folder, part, val_fraction=0.3, unknown=unknown)
    assert sorted(unknown) == sorted(entries.keys() - part.keys())
    assert sorted(name for names in splits.values() for name in names) == sorted(part)
    assert splits["test"] == ["9_0.png", "9_1.png"]


@pytest.mark.parametrize(
    ("text", "years"), [("58", 58), ("058Y", 58), ("412", -1), ("", -1), ("030D", 0), ("025M", 2), ("old", -1)]
)
def test_ages(text: str, years: int) -> None:
    assert tables.parse_age(text) == years


def test_labels_are_in_the_order_of_the_findings(tmp_path: Path) -> None:
    rows = [f"{k}.png,{finding},0,{k},50,M,PA,,,,," for k, finding in enumerate(FINDINGS)]
    entries = nih.read_entries(write(tmp_path, rows))
    np.testing.assert_array_equal(np.stack([entry.labels for entry in entries.values()]), np.eye(14))


def test_folders_of_other_depth_and_case_are_searched(tmp_path: Path) -> None:
    present = ["images/images_001/images/a.png", "Images_02/b.png", "IMAGES/c.png", "e.png", "masks/f.png"]
    for below in present:
        (tmp_path / below).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / below).touch()
    found, missing = nih.find_films(tmp_path, [f"{letter}.png" for letter in "abcef"])
    assert {str(path.relative_to(tmp_path)) for path in found.values()} == set(present[:4])
    assert missing == ["f.png"]


def test_lists_and_boxes_may_spell_the_films_otherwise(listed, capsys) -> None:
    """As of a copy whose films and table became JPEG, but whose lists did not."""
    folder, entries = listed
    expected = nih.read_splits(folder, entries, val_fraction=0.3)
    (folder / nih.BOX_FILE).write_text("header\n0_0.jpg,Mass,1,2,3,4\n")
    for part in ("train_val", "test"):
        path = folder / f"{part}_list.txt"
        path.write_text("".join(f"images\\{line.upper()}\n" for line in path.read_text().split()))
    capsys.readouterr()
    assert nih.read_splits(folder, entries, val_fraction=0.3) == expected
    message = capsys.readouterr().err
    assert (
        f"{len(entries)} names in the lists in {folder} differ from the entry file's in folder, suffix or case"
        in message
    )
    assert [box.finding for box in nih.read_entries(folder)["0_0.png"].boxes] == ["Mass"]
    assert "1 names in the table of boxes differ" in capsys.readouterr().err
    (folder / "test_list.txt").write_text("0_0.png\n0_0.jpg\n")
    with pytest.raises(DataError, match=r"more than once, 1: 0_0\.png"):
        nih.read_splits(folder, entries)


@pytest.mark.parametrize("ending", [".gz", ".zip"])
def test_a_packed_table_is_read(tmp_path: Path, ending: str) -> None:
    plain = (write(tmp_path, ["1_0.png,Mass,0,1,50,M,PA,1,1,1,1,"]) / "Data_Entry_2017.csv").rename(tmp_path / "kept")
    packed = tmp_path / f"Data_Entry_2017.csv{ending}"
    if ending == ".gz":
        packed.write_bytes(gzip.compress(plain.read_bytes()))
    else:
        with zipfile.ZipFile(packed, "w") as archive:
            archive.write(plain, "Data_Entry_2017.csv")
    assert list(nih.read_entries(tmp_path)) == ["1_0.png"]
