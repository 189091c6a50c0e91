"""Several sources as one set of films, and its division by patient."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from chexjax.configs import common
from chexjax.data.labels import Uncertain
from chexjax.data.pipeline import epoch_slots
from chexjax.data.sources.entries import TRAIN_VAL, Box, Entries, bare_name, names_alike
from chexjax.data.sources.gather import gather, named_sources
from chexjax.data.sources.merge import combine
from chexjax.data.sources.splits import divide, folds_csv
from chexjax.errors import ConfigError, DataError


def entries(
    source: str, findings: str, labels: list[list[float]], patients: str, splits: tuple[str, ...] = (), **more: object
) -> Entries:
    names = tuple(f"{k}.png" for k in range(len(labels)))
    return Entries(
        source=source,
        folder=Path("/films"),
        findings=tuple(findings.split(",")),
        names=names,
        files=names,
        labels=np.array(labels, np.float32),
        patients=tuple(patients.split()),
        splits=splits,
        **more,  # type: ignore[arg-type]
    )


def test_two_sources_under_the_findings_of_the_run() -> None:
    box = Box("Pleural Effusion", 0.1, 0.2, 0.3, 0.4)
    first = entries("a", "Pleural Effusion,Cyst", [[1, 0], [-1, 1]], "p q", boxes={"0.png": (box,)})
    second = entries("b", "Effusion,Mass", [[0, 1]], "p")
    films = combine({"a": first, "b": second}, ("Effusion", "Mass"), Uncertain.parse("zero"))
    np.testing.assert_array_equal(films.labels, [[1, np.nan], [0, np.nan], [0, 1]])
    assert films.names == ("a/0.png", "1.png", "b/0.png")
    assert films.patients == ("a:p", "a:q", "b:p")  # two sets' p are two people
    assert films.sources == ("a", "a", "b")
    assert films.boxes == {"a/0.png": (replace(box, finding="Effusion"),)}
    assert "a: Pleural Effusion -> Effusion" in films.about()


def test_patients_of_one_population_are_the_same_people() -> None:
    nih = entries("nih", "Mass", [[0]] * 20, " ".join(f"p{k}" for k in range(20)), (TRAIN_VAL,) * 10 + ("test",) * 10)
    rsna = entries("rsna", "Lung Opacity", [[1]] * 30, " ".join(f"p{k}" for k in range(30)), population="nih")
    for sources in ({"nih": nih, "rsna": rsna}, {"rsna": rsna, "nih": nih}):
        films = combine(sources)
        parts = divide(films, val_fraction=0.2, seed=3)
        assert sorted(row for rows in parts.values() for row in rows) == list(range(50))
        homes = {part: {films.patients[row] for row in rows} for part, rows in parts.items()}
        assert sum(map(len, homes.values())) == len(set.union(*homes.values())) == 30  # each in one part alone
        assert homes["test"] >= {f"p{k}" for k in range(10, 20)}
        assert not homes["test"] & {f"p{k}" for k in range(10)}  # the NIH trains with them, whoever is named first


@pytest.mark.parametrize("with_patients", [True, False])
def test_a_table_of_another_sources_films_has_its_patients(with_patients: bool) -> None:
    """Such as Google's labels of the NIH's films: otherwise one film would train and test."""
    people = [k // 2 for k in range(20)]
    about = {"sexes": tuple("FM"[k % 2] for k in people), "ages": np.array(people, np.int16) + 40}
    nih = entries("nih", "Mass", [[k % 2] for k in range(20)], " ".join(map(str, people)), **about)
    numbers = [f"{k:04}" for k in people] if with_patients else nih.names
    table = entries("table", "Fracture", [[k % 2] for k in range(20)], " ".join(numbers), **about)
    films = combine({"nih": nih, "table": table})
    assert films.patients == nih.patients * 2
    assert "table: its films are films of nih, too, so their patients are taken to be the same" in films.notes
    for way in ("official", "random"):
        parts = divide(films, way, val_fraction=0.2)
        home = {row: part for part, rows in parts.items() for row in rows}
        assert all(home[row] == home[row + 20] for row in range(20))
    others = replace(table, sexes=tuple("MF"[k % 2] for k in people), patients=tuple(f"q{k}" for k in people))
    films = combine({"nih": nih, "table": others})  # other people's films that have the same names
    assert films.patients[20:] == tuple(f"table:q{k}" for k in people)


def test_a_division_by_seed_and_its_table(tmp_path: Path) -> None:
    films = combine({"a": entries("a", "X", [[k % 2] for k in range(100)], " ".join(f"p{k // 2}" for k in range(100)))})
    parts = divide(films, val_fraction=0.1, seed=1)
    assert {part: len(rows) for part, rows in parts.items()} == {"train": 70, "val": 10, "test": 20}
    assert divide(films, val_fraction=0.1, seed=1) == parts != divide(films, val_fraction=0.1, seed=2)
    parts_by_name = {k: ([films.names[row] for row in v], [films.patients[row] for row in v]) for k, v in parts.items()}
    (tmp_path / "folds.csv").write_text(folds_csv(parts_by_name))
    assert divide(films, "folds", tmp_path) == parts


def test_a_patient_in_two_parts_is_refused() -> None:
    films = combine({"a": entries("a", "X", [[0], [1], [0]], "p p q", ("train", "test", "val"))})
    with pytest.raises(DataError, match=r"two parts of the split, 1: p \(train and test, film 1\.png\)"):
        divide(films)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.png,both", r"folds\.csv, line 2: fold 'both' is none of train, val, test"),
        ("9.png,train", r"names films that the tables do not have, 1: 9\.png"),
        ("0.png,train\n0.png,test", r"more than once, 1: 0\.png"),
        ("0.png,train\n1.png,test", "the val part of the 'folds' split is empty"),
    ],
)
def test_tables_of_folds_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    films = combine({"a": entries("a", "X", [[0], [1]], "p q")})
    (tmp_path / "folds.csv").write_text(f"Image Index,fold\n{text}\n")
    with pytest.raises(DataError, match=message):
        divide(films, "folds", tmp_path)


def test_what_cannot_be_combined() -> None:
    one = entries("a", "X,Y", [[0, 1], [1, 0]], "p q")
    with pytest.raises(DataError, match=r"a labels none of the findings 1: Z; it has 2: X, Y"):
        combine({"a": one}, ("Z",))
    with pytest.raises(DataError, match=r"no source labels 'Z'; there are 2: X, Y"):
        combine({"a": one}, ("X", "Z"))
    with pytest.raises(ConfigError, match=r"two findings are one: 'Effusion' and 'Pleural Effusion'"):
        combine({"a": one}, ("Effusion", "Pleural Effusion"))
    many = entries("b", ",".join(f"f{k}" for k in range(80)), [[0] * 80], "p")
    with pytest.raises(ConfigError, match=r"b has 80 findings of its own.*\n.*config\.data\.findings="):
        combine({"b": many})


def test_a_finding_of_one_class_is_told() -> None:
    films = combine({"a": entries("a", "X,Y,Z", [[0, 1, np.nan], [0, 0, np.nan]], "p q")})
    assert films.notes == ("X: all 2 known labels are 0", "Z: not one label is known")


def test_lateral_films_are_left_out_unless_asked_for() -> None:
    one = entries("a", "X", [[0], [1], [1]], "p q r", views=("PA", "LATERAL", ""))
    films = combine({"a": one})
    assert films.names == ("0.png", "2.png")
    assert "1 films of other views" in films.notes[0]
    assert len(combine({"a": one}, frontal=False).names) == 3


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("a.PNG", "a"), ("x/y/B.dcm", "b"), ("c:\\films\\f.jpeg", "f"), ("scan.2", "scan.2"), (".png", ".png"),
        ("1.2.840.7.1", "1.2.840.7.1"), ("1.2.840.7.1.dcm", "1.2.840.7.1"), ("plain", "plain"),
    ],
)  # fmt: skip
def test_the_bare_name_of_a_film(name: str, bare: str) -> None:
    assert bare_name(name) == bare


def test_the_next_image_of_a_study_is_not_the_same_film() -> None:
    assert names_alike(["1.2.840.7.2"], ["1.2.840.7.1"]) == {}
    assert names_alike(["1.2.840.7.1"], ["1.2.840.7.1.dcm", "1.2.840.7.2.dcm"]) == {"1.2.840.7.1": "1.2.840.7.1.dcm"}


def test_how_often_an_epoch_shows_a_film() -> None:
    sources = ("a", "b") * 50
    assert epoch_slots(sources, {"a": 2.0, "b": 2.0}) is None
    slots = epoch_slots(sources, {"a": 1.0, "b": 0.4})
    assert slots is not None
    counts = np.bincount(slots, minlength=100)
    assert (counts[1::2] == 1).all()
    assert sorted(counts[::2]) == [2] * 25 + [3] * 25


def data(**fields: object) -> ConfigDict:
    rest = {"source": "table", "dir": "", "lists": "", "split": "official", "val_fraction": 0.1, "split_seed": 0}
    return ConfigDict({**rest, **fields})


def test_several_sources_are_named_in_one_field() -> None:
    named = named_sources(data(sources="nih=/a,rsna=/b=0.5, table = /c ,table=/d"))
    as_given = {label: (name, str(folder), weight) for label, (name, folder, weight) in named.items()}
    assert as_given == {
        "nih": ("nih", "/a", 1.0),
        "rsna": ("rsna", "/b", 0.5),
        "table": ("table", "/c", 1.0),
        "table2": ("table", "/d", 1.0),
    }


@pytest.mark.parametrize("text", ["nih", "nih=", "nih=/a=0", "nih=/a=-1", "nih=/a=x", "nih=/a=nan", "nih=/a=1=2", ","])
def test_sources_that_are_not_of_the_form(text: str) -> None:
    with pytest.raises(ConfigError, match="NAME=FOLDER or NAME=FOLDER=WEIGHT"):
        named_sources(data(sources=text))


def test_an_unknown_source_and_a_missing_folder() -> None:
    with pytest.raises(ConfigError, match=r"no data source is called 'padcest'; there are .*padchest"):
        gather(data(sources="padcest=/a"))
    with pytest.raises(ConfigError, match=r"add --config\.data\.dir=FOLDER"):
        gather(data(source="rsna"))


def test_several_sources_find_renamed_films_and_part_of_a_set(
    phantom_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(phantom_folder, tmp_path / "nih"))
    films = sorted((folder / "images").iterdir())
    films[0].rename(films[0].with_suffix(".PNG"))
    with (folder / "test_list.txt").open("a") as file:
        file.write("99999999_000.png\n")
    for name in ("x.jpg", "y.png"):
        (tmp_path / "own" / "deep").mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / "deep" / name).write_bytes(films[1].read_bytes())
    table = tmp_path / "own.csv"
    table.write_text("path,patient,Mass\ndeep/X.png,a,1\ndeep/y.png,b,0\ndeep/z.png,c,0\n")
    config = common.base().data
    config.update({"sources": f"nih={folder},table={tmp_path / 'own'}", "table": str(table), "skip_unreadable": False})
    with pytest.raises(DataError, match=r"99999999_000\.png"):
        gather(config)
    config.skip_unreadable = True
    collection, _ = gather(config)
    assert any("1 films of the lists are left out" in note for note in collection.notes)
    capsys.readouterr()
    found = dict(zip(collection.names, collection.find(range(len(collection))), strict=True))
    assert found[films[0].name] == films[0].with_suffix(".PNG")
    assert found["deep/X.png"] == tmp_path / "own" / "deep" / "x.jpg"
    assert [name for name, path in found.items() if path is None] == ["deep/z.png"]
    message = capsys.readouterr().err
    assert "such as x.jpg for deep/X.png" in message
    assert message.count("1 film names differ from the table's in suffix or case") == 2


def test_an_address_among_several_sources_is_refused() -> None:
    config = common.base().data
    config.sources = "nih=/data/nih,rsna=gs://bucket/rsna=2"
    with pytest.raises(ConfigError, match=r"rsna in data\.sources is gs://bucket/rsna; it takes local folders"):
        gather(config)
