"""Each source on a folder of its published layout; and against torchxrayvision on the real label files it ships."""

import gzip
import shutil
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chexjax.data.labels import Uncertain, align
from chexjax.data.sources import read_source
from chexjax.data.sources.entries import Box, Entries, Request
from chexjax.errors import ConfigError, DataError

NAN = np.nan
OBSERVATIONS = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
    "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)


def write(folder: Path, name: str, *lines: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines) + "\n"
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def film(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)


def labels_of(entries: Entries, name: str) -> dict[str, float]:
    row = entries.names.index(name)
    return dict(zip(entries.findings, entries.labels[row].tolist(), strict=True))


def is_whole(entries: Entries) -> bool:
    return None not in entries.find()


# The layouts


def chexpert(folder: Path, name: str = "train.csv") -> Path:
    write(
        folder,
        name,
        f"Path,Sex,Age,Frontal/Lateral,AP/PA,{OBSERVATIONS}",
        "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0",
        "CheXpert-v1.0-small/train/patient00002/study1/view1_frontal.jpg,Male,0,Frontal,PA,,,-1.0,1.0,,,,,0.0,,,,,",
        "CheXpert-v1.0-small/train/patient00002/study1/view2_lateral.jpg,Male,87,Lateral,,,,-1.0,1.0,,,,,0.0,,,,,",
    )
    for path in ("patient00001/study1/view1_frontal", "patient00002/study1/view1_frontal"):
        film(folder / "train" / f"{path}.jpg")
    film(folder / "train/patient00002/study1/view2_lateral.jpg")
    return folder


@pytest.mark.parametrize("inner", ["", "CheXpert-v1.0-small"])
def test_chexpert(tmp_path: Path, inner: str) -> None:
    chexpert(tmp_path / inner)
    write(
        tmp_path / inner,
        "valid.csv",
        f"Path,Sex,Age,Frontal/Lateral,AP/PA,{OBSERVATIONS}",
        "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg,Male,73,Frontal,AP," + ",".join(["0.0"] * 14),
    )
    film(tmp_path / inner / "valid/patient64541/study1/view1_frontal.jpg")
    entries = read_source("chexpert", Request(tmp_path))
    healthy = labels_of(entries, "train/patient00001/study1/view1_frontal.jpg")
    assert healthy == {name: 1.0 if name == "Support Devices" else 0.0 for name in entries.findings}
    second = labels_of(entries, "train/patient00002/study1/view1_frontal.jpg")
    assert (second["Cardiomegaly"], second["Lung Opacity"], second["Atelectasis"]) == (-1, 1, 0)
    assert np.isnan(second["Edema"])
    assert entries.patients == ("patient00001", "patient00002", "patient00002", "patient64541")
    assert (entries.sexes, entries.ages.tolist()) == (("F", "M", "M", "M"), [68, -1, 87, 73])
    assert entries.views == ("AP", "PA", "L", "AP")
    assert entries.splits == ("train_val",) * 3 + ("test",)
    assert is_whole(entries)


def mimic(folder: Path, rows: list[str] | None = None) -> Path:
    stays = rows or ["10000032,50414267,,,,,,,,,-1.0,,1.0,,,", "10000764,57375967,1.0,,,,,,,,,,,,,0.0"]
    write(folder, "mimic-cxr-2.0.0-chexpert.csv.gz", f"subject_id,study_id,{OBSERVATIONS}", *stays)
    write(
        folder,
        "mimic-cxr-2.0.0-metadata.csv.gz",
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate",
        "02aa804e,10000032,50414267,CHEST,PA,3056,2544,21800506",
        "174413ec,10000032,50414267,CHEST,LATERAL,3056,2544,21800506",
        "096052b7,10000764,57375967,CHEST,AP,2000,2500,21321015",
        "ffffffff,10000764,99999999,CHEST,AP,2000,2500,21321015",
    )
    write(
        folder,
        "mimic-cxr-2.0.0-split.csv.gz",
        "dicom_id,study_id,subject_id,split",
        "02aa804e,50414267,10000032,train",
        "174413ec,50414267,10000032,train",
        "096052b7,57375967,10000764,validate",
        "ffffffff,99999999,10000764,validate",
    )
    film(folder / "files/p10/p10000032/s50414267/02aa804e.jpg")
    film(folder / "files/p10/p10000032/s50414267/174413ec.jpg")
    film(folder / "files/p10/p10000764/s57375967/096052b7.jpg")
    return folder


def test_mimic(tmp_path: Path) -> None:
    entries = read_source("mimic", Request(mimic(tmp_path)))
    assert entries.names == ("02aa804e.jpg", "174413ec.jpg", "096052b7.jpg")
    first = labels_of(entries, "174413ec.jpg")
    assert (first["Atelectasis"], first["Pleural Effusion"]) == (-1, 1)
    assert labels_of(entries, "096052b7.jpg") == dict.fromkeys(entries.findings, 0.0)
    assert (entries.patients, entries.views) == (("10000032", "10000032", "10000764"), ("PA", "LATERAL", "AP"))
    assert entries.splits == ("train", "train", "val")
    assert entries.notes == ("1 films of studies without labels are left out",)
    assert is_whole(entries)


PADCHEST = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"


def padchest(folder: Path) -> Path:
    write(
        folder,
        PADCHEST,
        ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,Projection,Labels",
        "0,a.png,0,20140915,s1,p1,1930.0,F,PA,\"['pleural effusion', 'laminar atelectasis', 'scoliosis']\"",
        "1,b.png,0,20140916,s2,p2,,M,AP_horizontal,\"['normal']\"",
        "2,c.png,1,20140917,s3,p3,1950.0,M,L,\"['exclude']\"",
        "3,d.png,1,20140918,s4,p4,1950.0,M,L,",
    )
    film(folder / "0/a.png")
    film(folder / "0/b.png")
    return folder


def test_padchest(tmp_path: Path) -> None:
    entries = read_source("padchest", Request(padchest(tmp_path)))
    assert entries.findings == ("laminar atelectasis", "pleural effusion", "scoliosis")
    np.testing.assert_array_equal(entries.labels, [[1, 1, 1], [0, 0, 0]])
    assert (entries.names, entries.views, entries.ages.tolist()) == (("a.png", "b.png"), ("PA", "AP"), [84, -1])
    np.testing.assert_array_equal(align(entries, ("Effusion", "Atelectasis", "Hernia")), [[1, 1, NAN], [0, 0, NAN]])
    assert is_whole(entries)


def test_padchest_reports_that_say_nothing_of_the_findings_are_left_out(tmp_path: Path) -> None:
    path = padchest(tmp_path) / PADCHEST
    lists = [
        "['unchanged']",
        "['suboptimal study', 'unchanged']",
        "['unchanged', 'scoliosis']",
        "['normal', 'unchanged']",
    ]
    rows = [f'{4 + k},n{k}.png,0,20140915,s{k},q{k},1930,F,PA,"{text}"' for k, text in enumerate(lists)]
    path.write_text("\n".join([path.read_text().rstrip("\n"), *rows]) + "\n")
    entries = read_source("padchest", Request(tmp_path))
    assert entries.names == ("a.png", "b.png", "n2.png", "n3.png")
    assert entries.notes == ("4 films marked 'exclude', or without labels of findings, are left out",)


def test_padchest_labels_are_parsed_and_never_run(tmp_path: Path) -> None:
    path = padchest(tmp_path) / PADCHEST
    path.write_text(path.read_text().replace("\"['normal']\"", "__import__('os').abort()"))
    with pytest.raises(DataError, match=r"line 3: column 'Labels' is not a list of terms"):
        read_source("padchest", Request(tmp_path))


def vindr(folder: Path) -> Path:
    write(
        folder,
        "train.csv",
        "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max",
        "a,No finding,14,R1,,,,",
        "a,Cardiomegaly,3,R2,100,200,300,250",
        "a,Cardiomegaly,3,R3,110,200,310,260",
        "a,Pleural effusion,10,R3,10,20,30,40",
        "b,No finding,14,R1,,,,",
        "b,No finding,14,R2,,,,",
        "b,No finding,14,R3,,,,",
    )
    film(folder / "train/a.png")
    film(folder / "train/b.png")
    return folder


def test_vindr(tmp_path: Path) -> None:
    entries = read_source("vindr", Request(vindr(tmp_path)))
    assert entries.findings == ("Cardiomegaly", "Pleural effusion")
    np.testing.assert_allclose(entries.labels, [[2 / 3, 1 / 3], [0, 0]], rtol=1e-6)
    first, second, _ = entries.boxes["a"]
    assert first == Box("Cardiomegaly", 100, 200, 200, 50, "R2", in_pixels=True)
    assert second.reader == "R3"
    assert first.in_shares(1000, 500) == Box("Cardiomegaly", 0.1, 0.4, 0.2, 0.1, "R2")
    assert is_whole(entries)


def test_vindr_of_physionet_with_its_test_part(tmp_path: Path) -> None:
    shutil.move(vindr(tmp_path) / "train.csv", write(tmp_path, "annotations/annotations_train.csv"))
    write(
        tmp_path,
        "annotations/annotations_test.csv",
        "image_id,class_name,x_min,y_min,x_max,y_max",
        "t,Cardiomegaly,1,2,3,4",
        "t,Rib fracture,1,2,3,4",
    )
    film(tmp_path / "test/t.png")
    entries = read_source("vindr", Request(tmp_path))
    assert entries.splits == ("train_val", "train_val", "test")
    assert labels_of(entries, "t") == {"Cardiomegaly": 1.0, "Pleural effusion": 0.0, "Rib fracture": 1.0}
    assert is_whole(entries)


RSNA = ("patientId,x,y,width,height,Target", "a,256,512,128,64,1", "a,600,512,128,64,1", "b,,,,,0")


def test_rsna_of_kaggle(tmp_path: Path) -> None:
    write(tmp_path, "stage_2_train_labels.csv", *RSNA)
    write(tmp_path, "stage_2_detailed_class_info.csv", "patientId,class", "a,Lung Opacity", "b,Normal")
    film(tmp_path / "stage_2_train_images/a.png")
    film(tmp_path / "stage_2_train_images/b.png")
    entries = read_source("rsna", Request(tmp_path))
    np.testing.assert_array_equal(entries.labels, [[1], [0]])
    assert entries.boxes["a"][0] == Box("Lung Opacity", 0.25, 0.5, 0.125, 0.0625)
    assert len(entries.boxes["a"]) == 2
    assert is_whole(entries)
    write(tmp_path, "stage_2_detailed_class_info.csv", "patientId,class", "a,Normal")
    with pytest.raises(DataError, match=r"line 2: film 'a' is 'Normal', but its target"):
        read_source("rsna", Request(tmp_path))


def test_rsna_under_the_names_of_the_nih_shares_its_patients(tmp_path: Path) -> None:
    table = write(tmp_path, "rsna_classes.csv", "Image Index,class,target", "00000061_012.png,Lung Opacity,1")
    write(tmp_path, "rsna_boxes.csv", "Image Index,x,y,width,height", "00000061_012.png,0,0,512,512")
    film(tmp_path / "nih/images/00000061_012.png")
    entries = read_source("rsna", Request(tmp_path / "nih", table))
    assert (entries.population, entries.patients) == ("nih", ("61",))
    assert entries.boxes["00000061_012.png"] == (Box("Lung Opacity", 0, 0, 0.5, 0.5),)
    assert is_whole(entries)


REPORT = (
    '<eCitation><uId id="CXR1"/><MeSH><major>Opacity/lung</major><automatic>Opacity</automatic>'
    '<automatic>Pleural Effusion</automatic></MeSH><parentImage id="CXR1_1_IM-1"/><parentImage id="CXR1_1_IM-2"/>'
    "</eCitation>"
)


def test_openi_unpacked_and_packed(tmp_path: Path) -> None:
    path = write(tmp_path, "ecgen-radiology/1.xml", REPORT)
    film(tmp_path / "NLMCXR_png/CXR1_1_IM-1.png")
    film(tmp_path / "NLMCXR_png/CXR1_1_IM-2.png")
    entries = read_source("openi", Request(tmp_path))
    assert entries.findings == ("opacity", "pleural effusion")
    assert (entries.patients, entries.labels.tolist()) == (("CXR1", "CXR1"), [[1, 1], [1, 1]])
    assert is_whole(entries)
    with tarfile.open(tmp_path / "NLMCXR_reports.tgz", "w:gz") as archive:
        archive.add(path, "ecgen-radiology/1.xml")
    shutil.rmtree(path.parent)
    packed = read_source("openi", Request(tmp_path))
    assert (packed.names, packed.labels.tolist()) == (entries.names, entries.labels.tolist())


def test_openi_unfolds_no_entities(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaa">]>' + REPORT.replace("Opacity/lung", "&a;")
    write(tmp_path, "ecgen-radiology/1.xml", bomb)
    with pytest.raises(DataError, match=r"1\.xml: not a report of the collection"):
        read_source("openi", Request(tmp_path))


NIH_ROWS = (
    "00000013_005.png,Emphysema|Infiltration,005,00013,060Y,M,AP",
    "00000013_026.png,No Finding,026,00013,057Y,M,AP",
)
NIH_HEAD = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"


@pytest.mark.parametrize("below", ["sample/images", "images", "images-224/images-224", ""])
def test_kaggles_copies_of_the_nih(tmp_path: Path, below: str) -> None:
    write(tmp_path, "sample_labels.csv", NIH_HEAD, *NIH_ROWS)
    for row in NIH_ROWS:
        film(tmp_path / below / row.split(",")[0])
    entries = read_source("nih", Request(tmp_path))
    assert (entries.patients, entries.splits, entries.ages.tolist()) == (("13", "13"), ("", ""), [60, 57])
    assert is_whole(entries)
    write(tmp_path, "train_val_list_NIH.txt", "00000013_005.png", "00000013_026.png")
    write(tmp_path, "test_list_NIH.txt", "")
    assert read_source("nih", Request(tmp_path)).splits == ("train_val", "train_val")


# Films of one's own


def table(folder: Path, *lines: str, findings: tuple[str, ...] = ()) -> Entries:
    return read_source("table", Request(folder, write(folder, "labels.csv", *lines), findings))


def test_columns_of_labels_are_found_by_their_cells(tmp_path: Path) -> None:
    entries = table(tmp_path, "path,Cyst,room,Stone", "a/x.png,1,B12,0.5", "a/y.png,,B13,-1")
    assert entries.findings == ("Cyst", "Stone")
    np.testing.assert_array_equal(entries.labels, [[1, 0.5], [NAN, -1]])
    assert entries.patients == entries.names == ("a/x.png", "a/y.png")


@pytest.mark.parametrize("sign", [";", "\t"])
def test_a_table_of_a_european_spreadsheet(tmp_path: Path, sign: str) -> None:
    entries = table(tmp_path, *(line.replace(" ", sign) for line in ("path age Cyst Stone", "x,1.png 61,5 1,0 0,25")))
    np.testing.assert_array_equal(entries.labels, [[1, 0.25]])
    assert (entries.names, entries.findings) == (("x,1.png",), ("Cyst", "Stone"))


def test_a_column_that_one_cell_keeps_from_being_a_finding_is_named(tmp_path: Path) -> None:
    lines = [f"{k}.png,{'O' if k == 3 else 0},1,{'old' * (k > 1)}" for k in range(6)]
    entries = table(tmp_path, "path,Edema,Mass,note", *lines)
    assert entries.findings == ("Mass",)
    assert "column 'Edema' is not used: line 5 has 'O', which is not a label" in entries.notes
    assert not any("'note'" in note for note in entries.notes)


def test_columns_are_chosen_by_name_and_may_say_yes_and_no(tmp_path: Path) -> None:
    lines = ("Image Index,Patient ID,View Position,Fracture,Nodule or mass", "a.png,7,AP,YES,NO")
    entries = table(tmp_path, *lines, findings=("Nodule/Mass", "Fracture"))
    np.testing.assert_array_equal(align(entries, ("Nodule/Mass", "Fracture")), [[0, 1]])
    assert (entries.patients, entries.views) == (("7",), ("AP",))


def test_one_column_of_labels(tmp_path: Path) -> None:
    entries = table(tmp_path, "path,labels,split", "a.png,Cyst|Stone,train", "b.png,No Finding,valid", "c.png,,test")
    np.testing.assert_array_equal(entries.labels, [[1, 1], [0, 0], [NAN, NAN]])
    assert entries.splits == ("train", "val", "test")


def test_columns_of_findings_beside_one_of_labels_are_told(tmp_path: Path) -> None:
    lines = ("Image Index,Finding Labels,Pneumothorax,Fracture", "a.png,No Finding,YES,NO", "b.png,Pneumothorax,NO,NO")
    entries = table(tmp_path, *lines)
    assert labels_of(entries, "b.png") == {"Pneumothorax": 1}
    assert any("taken from the column 'Finding Labels', and not from those of findings, 1: Pneumothorax" in note
               for note in entries.notes)  # fmt: skip
    assert table(tmp_path, *lines, findings=("Pneumothorax",)).labels.tolist() == [[1], [0]]


def test_a_quote_that_is_never_closed_is_refused(tmp_path: Path) -> None:
    """It would take all rows below it into its cell."""
    rows = [f"{k}.png,1,fine" for k in range(20)]
    with pytest.raises(DataError, match="cannot be read as CSV: unexpected end of data"):
        table(tmp_path, "path,Mass,note", *rows[:10], '10.png,1,"5 cm', *rows[11:])
    assert len(table(tmp_path, "path,Mass,note", *rows[:10], '10.png,1,"5"" tube"', *rows[11:])) == 20


@pytest.mark.parametrize(
    ("lines", "findings", "message"),
    [
        (("path,A", "../x.png,1"), (), r"labels\.csv, line 2: a path that leaves the folder of the films"),
        (("path,A", "/etc/x.png,1"), (), "line 2: a path that leaves the folder"),
        (("path,A", "x.png,1", "./x.png,0"), (), r"more than once, 1: x\.png \(lines 2 and 3\)"),
        (("path,A", "x.png,1", "y.png,maybe"), ("A",), r"labels\.csv, line 3: 'maybe' in column 'A' is not a label"),
        (("path,A", "x.png,1", "y.png,2"), ("A",), "line 3: '2' in column 'A' is not a label"),
        (("path,A", "x.png,maybe"), (), "has no column of labels"),
        (("path,A", "x.png,1"), ("B",), "has no column 'B'"),
        (("file,A", "x.png,1"), (), "has no column 'path' or 'Image Index'"),
        (("path,A,split", "x.png,1,both"), (), "line 2: split 'both' is none of train, val, test"),
        (("path,A,A", "x.png,1,1"), (), "has two columns 'A'"),
        (("path,A", "x.png,1,1"), (), "line 2: 3 cells, where the header has 2"),
        (("path,labels", "x.png,Cyst|No Finding"), (), "line 2: .* has findings and says that there are none"),
        (("path,patient,A", "x.png,,1"), (), "line 2: column 'patient' is empty"),
    ],
)
def test_tables_that_are_refused(
    tmp_path: Path, lines: tuple[str, ...], findings: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        table(tmp_path, *lines, findings=findings)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("source", ["chexpert", "mimic", "padchest", "vindr", "rsna", "openi", "nih"])
def test_what_is_missing_is_named(tmp_path: Path, source: str) -> None:
    files = {"chexpert": r"train\.csv", "mimic": r"mimic-cxr-2\.0\.0-chexpert\.csv", "padchest": PADCHEST}
    files |= {"vindr": r"train\.csv", "rsna": r"stage_2_train_labels\.csv", "openi": r"NLMCXR_reports\.tgz"}
    with pytest.raises(DataError, match=files.get(source, r"Data_Entry_2017_v2020\.csv")):
        read_source(source, Request(tmp_path))
    with pytest.raises(DataError, match="nowhere"):
        read_source(source, Request(tmp_path / "nowhere"))


def test_a_table_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config\.data\.table=FILE\.csv"):
        read_source("table", Request(tmp_path))


# The real label files that torchxrayvision ships, read by it and by us

IGNORE = Uncertain.parse("ignore")


def oracle() -> tuple[object, Path]:
    datasets = pytest.importorskip("torchxrayvision").datasets
    return datasets, Path(datasets.datapath)


def test_the_whole_chexpert_table(tmp_path: Path) -> None:
    datasets, files = oracle()
    shutil.copy(files / "chexpert_train.csv.gz", tmp_path / "train.csv.gz")
    began = time.perf_counter()
    entries = read_source("chexpert", Request(tmp_path))
    assert time.perf_counter() - began < 60  # it takes 5 on an idle core
    theirs = datasets.CheX_Dataset("nowhere", views=["PA", "AP", "LL", "RL", "L"], unique_patients=False)
    assert len(theirs) == len(entries) == 223_414
    ours = align(entries, theirs.pathologies, IGNORE)
    np.testing.assert_array_equal(ours, theirs.labels)
    # Irvin et al. 2019, table 1: studies that are positive, and uncertain.
    published = {
        "Enlarged Cardiomediastinum": (9020, 10148), "Cardiomegaly": (23002, 6597), "Lung Lesion": (6856, 1071),
        "Lung Opacity": (92669, 4341), "Edema": (48905, 11571), "Consolidation": (12730, 23976),
        "Pneumonia": (4576, 15658), "Atelectasis": (29333, 29377), "Pneumothorax": (17313, 2663),
        "Pleural Effusion": (75696, 9419), "Pleural Other": (2441, 1771), "Fracture": (7270, 484),
        "Support Devices": (105831, 898),
    }  # fmt: skip
    first = {name.rsplit("/", 1)[0]: row for row, name in reversed(list(enumerate(entries.names)))}
    studies = entries.labels[list(first.values())]
    assert len(studies) == 187_641
    counts = zip(entries.findings, (studies == 1).sum(axis=0), (studies == -1).sum(axis=0), strict=True)
    assert {name: (positive, uncertain) for name, positive, uncertain in counts} == published


def test_mimic_as_torchxrayvision_reads_it(tmp_path: Path) -> None:
    datasets, files = oracle()
    with gzip.open(files / "chexpert_train.csv.gz", "rt") as file:  # real cells under MIMIC's names
        next(file)
        cells = [next(file).rstrip("\n").split(",", 5)[5] for _ in range(400)]
    rows = [f"{10000000 + k // 2},{50000000 + k},{row}" for k, row in enumerate(cells)]
    write(tmp_path, "mimic-cxr-2.0.0-chexpert.csv.gz", f"subject_id,study_id,{OBSERVATIONS}", *rows)
    films = [f"d{k},{10000000 + k // 2},{50000000 + k},PA,21800506,12" for k in range(400)]
    head = "dicom_id,subject_id,study_id,ViewPosition,StudyDate,StudyTime"
    write(tmp_path, "mimic-cxr-2.0.0-metadata.csv.gz", head, *films)
    write(tmp_path, "mimic-cxr-2.0.0-split.csv.gz", "dicom_id,split", *(f"d{k},train" for k in range(400)))
    entries = read_source("mimic", Request(tmp_path))
    files_of = [tmp_path / f"mimic-cxr-2.0.0-{name}.csv.gz" for name in ("chexpert", "metadata")]
    theirs = datasets.MIMIC_Dataset("nowhere", *map(str, files_of), unique_patients=False)
    assert [f"{name}.jpg" for name in theirs.csv["dicom_id"]] == list(entries.names)
    findings = [name for name in theirs.pathologies if name != "Support Devices"]  # "No Finding" says nothing of those
    columns = [theirs.pathologies.index(name) for name in findings]
    np.testing.assert_array_equal(align(entries, findings, IGNORE), theirs.labels[:, columns])


def test_vindr_as_torchxrayvision_reads_it(tmp_path: Path) -> None:
    datasets, files = oracle()
    shutil.copy(files / "vinbigdata-train.csv.gz", tmp_path / "train.csv.gz")
    entries = read_source("vindr", Request(tmp_path))
    theirs = datasets.VinDr_Dataset(str(tmp_path))
    row_of = {name: row for row, name in enumerate(entries.names)}
    rows = [row_of[name] for name in theirs.csv["image_id"]]
    assert len(rows) == len(entries) == 15_000
    labels = align(entries, theirs.pathologies)[rows]
    np.testing.assert_array_equal(labels > 0, theirs.labels)  # theirs: any of the three readers
    np.testing.assert_allclose(labels * 3, np.round(labels * 3), atol=1e-6)
    assert sum(map(len, entries.boxes.values())) == 36_096  # rows with a box, as Kaggle's page has it


def test_rsna_as_torchxrayvision_reads_it(tmp_path: Path) -> None:
    datasets, files = oracle()
    shutil.copy(files / "kaggle_stage_2_train_labels.csv.zip", tmp_path / "stage_2_train_labels.csv.zip")
    entries = read_source("rsna", Request(tmp_path))
    theirs = datasets.RSNA_Pneumonia_Dataset("nowhere", views=["PA", "AP"])
    row_of = {name: row for row, name in enumerate(entries.names)}
    rows = [row_of[name] for name in theirs.csv["patientId"]]
    assert len(rows) == len(entries) == 26_684
    column = theirs.pathologies.index("Lung Opacity")
    np.testing.assert_array_equal(entries.labels[rows, 0], theirs.labels[:, column])
    assert sum(map(len, entries.boxes.values())) == 9_555


def test_openi_as_torchxrayvision_reads_it(tmp_path: Path) -> None:
    datasets, files = oracle()
    shutil.copy(files / "NLMCXR_reports.tgz", tmp_path)
    shutil.copy(files / "nlmcxr_dicom_metadata.csv.gz", tmp_path)
    entries = read_source("openi", Request(tmp_path))
    theirs = datasets.Openi_Dataset("nowhere", views=["PA", "AP"], unique_patients=False)
    row_of = {name: row for row, name in enumerate(entries.names)}
    rows = [row_of[f"{name}.png"] for name in theirs.csv["imageid"]]
    assert len(entries) == 7_470
    also = {
        "Pleural_Thickening": ["pleural thickening"],
        "Infiltration": ["infiltrate"],
        "Atelectasis": ["atelectases"],
    }
    also |= {"Lung Opacity": ["opacity"], "Lung Lesion": ["lesion"]}
    np.testing.assert_array_equal(by_substrings(entries, theirs.pathologies, also)[rows], theirs.labels)
    # Where no other term merely contains the name, our table of synonyms says the same.
    same = ("Atelectasis", "Cardiomegaly", "Calcified Granuloma", "Edema", "Lung Opacity", "Infiltration")
    columns = [theirs.pathologies.index(name) for name in (*same, "Pleural_Thickening", "Pneumothorax")]
    ours = align(entries, (*same, "Pleural_Thickening", "Pneumothorax"))
    np.testing.assert_array_equal(ours[rows], theirs.labels[:, columns])


def by_substrings(entries: Entries, pathologies: list[str], also: dict[str, list[str]]) -> np.ndarray:
    """torchxrayvision's rule on our terms: a film has what any of its terms contains; (films, pathologies)."""
    columns = []
    for name in pathologies:
        parts = [name.lower(), *also.get(name, ())]
        terms = [k for k, term in enumerate(entries.findings) if any(part in f"'{term}'".lower() for part in parts)]
        columns.append((entries.labels[:, terms] == 1).any(axis=1))
    return np.stack(columns, axis=1)


def test_padchest_as_torchxrayvision_reads_it(tmp_path: Path) -> None:
    datasets, files = oracle()
    shutil.copy(files / f"{PADCHEST}.gz", tmp_path)
    entries = read_source("padchest", Request(tmp_path))
    theirs = datasets.PC_Dataset(str(tmp_path), unique_patients=False, views=["PA"])
    row_of = {name: row for row, name in enumerate(entries.names)}
    kept = [row for row, name in enumerate(theirs.csv["ImageID"]) if name in row_of]
    rows = [row_of[name] for name in theirs.csv["ImageID"].iloc[kept]]
    patterns = "interstitial pattern,ground glass pattern,alveolar pattern"
    also = {
        "Infiltration": [*patterns.split(","), "infiltrates", "consolidation", "air bronchogram"],
        "Pleural_Thickening": ["pleural thickening"],
        "Consolidation": ["air bronchogram"],
        "Hilar Enlargement": ["adenopathy", "pulmonary artery enlargement"],
        "Support Devices": ["device", "pacemaker"],
    }
    names = [name for name in theirs.pathologies if name != "Tube"]  # its own name is searched with the quote
    columns = [theirs.pathologies.index(name) for name in names]
    assert len(rows) > 90_000
    np.testing.assert_array_equal(by_substrings(entries, names, also)[rows], theirs.labels[kept][:, columns])
    same = ("Atelectasis", "Cardiomegaly", "Pneumothorax", "Edema", "Pneumonia", "Fibrosis", "Fracture", "Hernia")
    columns = [theirs.pathologies.index(name) for name in (*same, "Pleural_Thickening", "Scoliosis", "Air Trapping")]
    ours = align(entries, (*same, "Pleural_Thickening", "Scoliosis", "Air Trapping"))
    np.testing.assert_array_equal(ours[rows], theirs.labels[kept][:, columns])


def test_the_nih_as_torchxrayvision_reads_it(real_data: Path) -> None:
    datasets, _ = oracle()
    folder = real_data / "nih-128"
    entries = read_source("nih", Request(folder))
    csv, boxes = str(folder / "Data_Entry_2017_v2020.csv"), str(folder / "BBox_List_2017.csv")
    theirs = datasets.NIH_Dataset(str(folder), csv, boxes, views=["PA", "AP"], unique_patients=False)
    row_of = {name: row for row, name in enumerate(entries.names)}
    rows = [row_of[name] for name in theirs.csv["Image Index"] if name in row_of]
    kept = [row for row, name in enumerate(theirs.csv["Image Index"]) if name in row_of]
    assert len(rows) == len(entries) > 9_000
    np.testing.assert_array_equal(align(entries, theirs.pathologies)[rows], theirs.labels[kept])


def test_googles_readers_as_torchxrayvision_reads_them(real_data: Path) -> None:
    datasets, _ = oracle()
    path = real_data / "labels" / "google_four_findings.csv"
    theirs = datasets.NIH_Google_Dataset("nowhere", str(path), views=["PA", "AP"], unique_patients=False)
    findings = ("Airspace opacity", "Fracture", "Nodule/Mass", "Pneumothorax")
    entries = read_source("table", Request(real_data / "nih-128", path, findings))
    assert entries.names == tuple(theirs.csv["Image Index"])
    columns = [list(theirs.pathologies).index(name) for name in ("Lung Opacity", *findings[1:])]
    np.testing.assert_array_equal(align(entries, findings), theirs.labels[:, columns])
    assert len([path for path in entries.find() if path]) == 235  # the others are in other folders


def test_the_rsnas_labels_of_films_that_we_hold(real_data: Path) -> None:
    entries = read_source("rsna", Request(real_data / "nih-128", real_data / "labels" / "rsna_classes.csv"))
    assert len(entries) == 2_625
    assert len([path for path in entries.find() if path]) == 2_330
    assert set(entries.boxes) == {name for name, y in zip(entries.names, entries.labels[:, 0], strict=True) if y == 1}
