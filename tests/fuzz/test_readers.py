"""Damaged files by the thousand: every reader gives an answer of the right form or our own error, soon, in little room.

Some 2,000 cases in the suite; 20,000 with CHEXJAX_SOAK=1. A case is known by its reader and its number.
"""

import gzip
import io
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl.testing import flagsaver
from ml_collections import ConfigDict
from PIL import Image

from chexjax import files, main
from chexjax.configs import dml
from chexjax.data import prepared
from chexjax.data.kinds import classify
from chexjax.data.labels import Uncertain
from chexjax.data.recipe import recipe_of
from chexjax.data.sources import chexpert, nih, read_source, tables
from chexjax.data.sources.entries import Request
from chexjax.data.sources.merge import combine
from chexjax.data.sources.splits import divide
from chexjax.errors import ChexjaxError, ConfigError
from chexjax.evaluation import predictions
from chexjax.findings import FINDINGS
from chexjax.models import torch_weights
from chexjax.predict import as_film, read_thresholds
from chexjax.workdir.config import check_config, read_config
from chexjax.workdir.restore import Restored, restore_best
from tests.fuzz.mutate import TEXTS, Random, damage, damage_table, damage_tree, mend_png
from tests.untrained import save_untrained

REPOSITORY = Path(__file__).parent.parent.parent

SOAK = bool(os.environ.get("CHEXJAX_SOAK"))
SECONDS = 20  # a case may take; a damaged film takes milliseconds
MEMORY = 512 * 2**10  # KiB that the process may grow by

Case = Callable[[Random, Path], Any]


def cases(few: int, many: int) -> int:
    return many if SOAK else few


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    def late(number: int, frame: Any) -> None:
        raise TimeoutError(f"no answer after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def peak() -> int:
    """The most memory since the last `forget_peak`, KiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def fuzz(name: str, count: int, case: Case, folder: Path, first: int = 0) -> tuple[int, int]:
    """Runs `case` with seeds (name, first ...); gives how many were answered and how many refused."""
    accepted = refused = 0
    failures: list[str] = []
    began = time.perf_counter()
    measured = os.access("/proc/self/clear_refs", os.W_OK)
    if measured:
        forget_peak()
        before = peak()
    for number in range(first, first + count):
        random = np.random.default_rng([*name.encode(), number])
        try:
            with bounded(SECONDS):
                case(random, folder)
            accepted += 1
        except ChexjaxError as error:
            refused += 1
            if len(str(error)) > 6000 or any(not (c.isprintable() or c == "\n") for c in str(error)):
                failures.append(f"{name} {number}: the message is no text for a terminal: {str(error)[:300]!r}")
        except Exception:
            failures.append(f"{name} {number}: {traceback.format_exc()}")
        if measured and peak() - before > MEMORY:
            failures.append(f"{name} {number}: {peak() - before} KiB")
            forget_peak()
    print(f"\n{name}: {count} cases, {accepted} answered, {refused} refused, {time.perf_counter() - began:.0f} s")
    kinds = {failure.strip().splitlines()[-1].partition(": ")[0][:60]: failure for failure in failures}
    assert not failures, f"{len(failures)} of {count}:\n" + "\n".join(list(kinds.values())[:8])
    return accepted, refused


# Films

GREY = np.random.default_rng(0).integers(0, 256, (24, 40), np.uint8)


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def images() -> list[bytes]:
    grey, smooth = Image.fromarray(GREY), Image.fromarray(np.sort(GREY, axis=1))
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    palette = smooth.convert("P")
    found = [
        encoded(picture, "PNG")
        for picture in (grey, smooth, deep, palette, grey.convert("1"), grey.convert("RGBA"), grey.convert("LA"))
    ]
    found.append(encoded(grey, "PNG", save_all=True, append_images=[smooth]))
    found.append(encoded(palette, "PNG", transparency=b"\0\1\2", bits=4))
    for picture in (smooth, smooth.convert("RGB"), smooth.convert("CMYK")):
        found += [encoded(picture, "JPEG"), encoded(picture, "JPEG", progressive=True, quality=95)]
    return [*found, encoded(smooth, "GIF"), encoded(smooth, "TIFF")]


def a_film(path: Path) -> None:
    film = as_film(path)
    assert film.dtype == np.uint8
    assert film.ndim == 2
    assert film.size


def test_images(tmp_path: Path) -> None:
    whole = images()

    def case(random: Random, folder: Path) -> None:
        one = whole[random.integers(len(whole))]
        data = one[:8] + damage(random, one[8:], whole)
        if random.random() < 0.8 and one.startswith(b"\x89PNG"):
            data = mend_png(data)
        path = folder / ("film.png" if random.random() < 0.7 else "film.jpg")
        path.write_bytes(data)
        a_film(path)

    accepted, refused = fuzz("images", cases(600, 6000), case, tmp_path)
    assert min(accepted, refused) > cases(30, 300)


def dicoms(folder: Path) -> list[bytes]:
    from pydicom.dataset import Dataset
    from pydicom.uid import (
        DeflatedExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        ImplicitVRLittleEndian,
        JPEG2000Lossless,
        JPEGBaseline8Bit,
        JPEGExtended12Bit,
        JPEGLosslessSV1,
        RLELossless,
    )

    from tests.dicom_files import (
        extended_jpeg,
        jpeg,
        jpeg_2000,
        lossless_jpeg,
        without_meta,
        without_syntax,
        write_dicom,
    )

    pixels = np.sort(np.random.default_rng(1).integers(0, 4096, (64, 64)).astype(np.uint16), axis=1)
    table, item = Dataset(), Dataset()
    table.add_new("LUTDescriptor", "US", [256, 0, 8])
    table.add_new("LUTData", "OW", np.arange(256, dtype=np.uint16).tobytes())
    item.PatientID = "nested"
    for _ in range(40):
        outer = Dataset()
        outer.ReferencedImageSequence = [item]
        item = outer
    window = {"WindowCenter": [2048, 100], "WindowWidth": [4096, 10], "RescaleSlope": "1.5", "RescaleIntercept": "-3"}
    made = [
        write_dicom(folder / "0.dcm", pixels, BitsStored=12, **window),
        write_dicom(folder / "1.dcm", pixels, ImplicitVRLittleEndian, BitsStored=12, PixelPaddingValue=3),
        write_dicom(folder / "2.dcm", pixels, RLELossless, BitsStored=12, PhotometricInterpretation="MONOCHROME1"),
        write_dicom(folder / "3.dcm", pixels, BitsStored=12, VOILUTSequence=[table], ReferencedImageSequence=[item]),
        write_dicom(folder / "4.dcm", pixels.astype(np.int16), VOILUTFunction="SIGMOID", **window),
    ]
    made.append(write_dicom(folder / "5.dcm", pixels, JPEG2000Lossless, jpeg_2000(pixels), BitsStored=12))
    small = (pixels // 16).astype(np.uint8)
    made.append(write_dicom(folder / "6.dcm", small, JPEGBaseline8Bit, encoded=jpeg(small)))
    lossless = lossless_jpeg(pixels, 12)
    made.append(write_dicom(folder / "7.dcm", pixels, JPEGLosslessSV1, BitsStored=12, encoded=lossless))
    made.append(write_dicom(folder / "8.dcm", pixels, JPEG2000Lossless, jpeg_2000(pixels, boxes=True), BitsStored=12))
    made.append(
        write_dicom(folder / "9.dcm", pixels, JPEGExtended12Bit, extended_jpeg(pixels[::8, ::8]), BitsStored=12)
    )
    made.append(write_dicom(folder / "10.dcm", pixels, DeflatedExplicitVRLittleEndian, HighBit=13, BitsStored=12))
    lying = {"PatientOrientation": ["F", "R"], "PixelSpacing": ["0.2", "0.1"], "PresentationLUTShape": "INVERSE"}
    made.append(write_dicom(folder / "11.dcm", pixels.astype(">u2"), ExplicitVRBigEndian, BitsStored=12, **lying))
    packed = Dataset()
    packed.add_new("LUTDescriptor", "US", [4096, 0, 8])
    packed.add_new("LUTData", "OW", (np.arange(4096) // 16).astype(np.uint8).tobytes())
    made.append(write_dicom(folder / "12.dcm", pixels, BitsStored=12, ModalityLUTSequence=[packed]))
    colour = {
        "SamplesPerPixel": 3,
        "Rows": 64,
        "Columns": 64,
        "PhotometricInterpretation": "RGB",
        "PlanarConfiguration": 0,
    }
    made.append(write_dicom(folder / "13.dcm", np.repeat(small[..., None], 3, axis=-1), **colour))
    raw = {"PresentationIntentType": "FOR PROCESSING", "PixelIntensityRelationship": "LIN"}
    made.append(write_dicom(folder / "14.dcm", pixels, PixelIntensityRelationshipSign=1, BitsStored=12, **raw))
    whole = [path.read_bytes() for path in made]
    return whole + [damage(one) for one in whole for damage in (without_meta, without_syntax)]


def test_dicom(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    whole = dicoms(tmp_path)

    def case(random: Random, folder: Path) -> None:
        one = whole[random.integers(len(whole))]
        kept = 132 if one[128:132] == b"DICM" else 8
        (folder / "film").write_bytes(one[:kept] + damage(random, one[kept:], whole))
        assert classify(folder / "film").kind in ("film", "no film", "unreadable")
        a_film(folder / "film")

    accepted, refused = fuzz("dicom", cases(500, 5000), case, tmp_path)
    assert min(accepted, refused) > cases(30, 300)


# Tables


def test_nih_tables(tmp_path: Path) -> None:
    rows = [f"{k // 2:08}_{k % 2:03}.png,{FINDINGS[k % 14]}|No Finding,{k},{k // 2},05{k % 8}Y,M,PA" for k in range(40)]
    names = [row.split(",")[0] for row in rows]
    entries = "\n".join(
        ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position", *rows]
    )
    box_rows = [f"{name},{FINDINGS[k % 14]},{k}.5,20,300.25,400,,," for k, name in enumerate(names)]
    texts = {
        "Data_Entry_2017_v2020.csv": entries,
        nih.BOX_FILE: "\n".join(["Image Index,Finding Label,Bbox [x,y,w,h],,,", *box_rows]),
        "train_val_list.txt": "\n".join(names[:30]),
        "test_list.txt": "\n".join(names[30:]),
        "folds.csv": "\n".join(["Image Index,fold", *(f"{n},{nih.SPLITS[k % 40 // 14]}" for k, n in enumerate(names))]),
    }

    def case(random: Random, folder: Path) -> None:
        for name, text in texts.items():
            (folder / name).write_text(text)
        for name in random.choice(list(texts), random.integers(1, 3), replace=False):
            (folder / name).write_bytes(damage_table(random, texts[name]))
        found = nih.read_entries(folder)
        parts = nih.read_splits(folder, found, str(random.choice(["official", "folds"])))
        for name, entry in found.items():
            assert tables.is_film_name(name)
            assert all(text.isprintable() for text in (entry.patient, entry.sex, entry.view))
            assert all(np.isfinite([box.left, box.top]).all() and box.width > 0 < box.height for box in entry.boxes)
        assert set(parts) == set(nih.SPLITS)

    accepted, refused = fuzz("tables", cases(300, 3000), case, tmp_path)
    assert min(accepted, refused) > cases(10, 100)


OBSERVED = ",".join(["No Finding", *chexpert.OBSERVATIONS])
XML = (
    '<eCitation><uId id="{0}"/><MeSH><automatic>Opacity</automatic><automatic>Edema</automatic></MeSH>'
    '<parentImage id="f{0}"/></eCitation>'
)
SOURCE_FILES: dict[str, dict[str, list[str]]] = {
    "table": {
        "labels.csv": ["path,patient,split,sex,age,view,A,B"]
        + [
            f"a/{k}.png,p{k // 2},{nih.SPLITS[k // 2 % 3]},F,{k},PA,{k % 2},{['', '-1', '0.5'][k % 3]}"
            for k in range(12)
        ]
    },
    "chexpert": {
        "train.csv": [f"Path,Sex,Age,Frontal/Lateral,AP/PA,{OBSERVED}"]
        + [
            f"C/train/patient{k}/study1/view1_frontal.jpg,Male,{k},Frontal,AP" + ",1.0,,-1.0,0.0,,,," * 2
            for k in range(9)
        ]
    },
    "mimic": {
        "mimic-cxr-2.0.0-chexpert.csv": [f"subject_id,study_id,{OBSERVED}"]
        + [f"{k},5{k}" + ",1.0,,-1.0,0.0,,," * 2 for k in range(9)],
        "mimic-cxr-2.0.0-metadata.csv": ["dicom_id,subject_id,study_id,ViewPosition"]
        + [f"d{k},{k},5{k},PA" for k in range(9)],
        "mimic-cxr-2.0.0-split.csv": ["dicom_id,split", *(f"d{k},train" for k in range(9))],
    },
    "padchest": {
        "PADCHEST.csv": ["ImageID,PatientID,PatientBirth,StudyDate_DICOM,PatientSex_DICOM,Projection,Labels"]
        + [f"{k}.png,p{k},1950.0,20140915,F,PA,['edema']" for k in range(9)]
    },
    "vindr": {
        "train.csv": ["image_id,class_name,rad_id,x_min,y_min,x_max,y_max"]
        + [f"i{k // 3},{['Edema', 'No finding', 'Mass'][k % 3]},R{k % 3},1,2,30,40.5" for k in range(30)]
    },
    "rsna": {
        "stage_2_train_labels.csv": ["patientId,x,y,width,height,Target"]
        + [f"p{k}," + (f"{k},9,8,7,1" if k % 2 else ",,,,0") for k in range(9)],
        "stage_2_detailed_class_info.csv": ["patientId,class"]
        + [f"p{k},{'Lung Opacity' if k % 2 else 'Normal'}" for k in range(9)],
    },
    "openi": {f"ecgen-radiology/{k}.xml": [XML.format(k)] for k in range(9)},
}


@pytest.mark.parametrize("source", SOURCE_FILES)
def test_sources(source: str, tmp_path: Path) -> None:
    texts = {name: "\n".join(lines) + "\n" for name, lines in SOURCE_FILES[source].items()}
    request = Request(tmp_path, tmp_path / "labels.csv" if source == "table" else None)

    def case(random: Random, folder: Path) -> None:
        for name, text in texts.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        name = str(random.choice(list(texts)))
        data = texts[name].encode()
        damaged = damage_table(random, texts[name]) if name.endswith(".csv") else damage(random, data, [data])
        (folder / name).write_bytes(gzip.compress(damaged) if random.random() < 0.1 else damaged)
        found = read_source(source, request)
        labels = found.labels
        assert (np.isnan(labels) | ((labels >= 0) & (labels <= 1)) | (labels == -1)).all()
        assert all(text.isprintable() for text in (*found.names, *found.patients, *found.sexes, *found.views))
        assert not any(file.startswith("/") or ".." in file.split("/") for file in found.files)
        films = combine({source: found}, uncertain=Uncertain.parse("ignore"))
        parts = divide(films, "random", val_fraction=0.3)
        assert sorted(row for rows in parts.values() for row in rows) == list(range(len(films)))
        assert films.about().replace("\n", "").isprintable()

    accepted, refused = fuzz(f"source {source}", cases(150, 1500), case, tmp_path)
    assert min(accepted, refused) > cases(5, 50)


def test_predictions(tmp_path: Path) -> None:
    rows = [",".join([f"{k:08}_000.png", *(f"{(k * j % 97) / 97:.6f}" for j in range(14))]) for k in range(30)]
    text = "\n".join([",".join([predictions.NAME, *FINDINGS]), *rows])
    entries = {f"{k:08}_000.png": nih.Entry("", np.zeros(14, np.uint8), "1", 50, "M", "PA") for k in range(30)}

    def case(random: Random, folder: Path) -> None:
        (folder / "a.csv").write_bytes(damage_table(random, text))
        table = predictions.read_predictions(folder / "a.csv", FINDINGS)
        assert np.isfinite(table.probabilities).all()
        assert all(name.isprintable() for name in table.names)
        predictions.match(entries, [table], FINDINGS)

    accepted, refused = fuzz("predictions", cases(300, 3000), case, tmp_path)
    assert min(accepted, refused) > cases(5, 50)


def test_labels_to_score_against(tmp_path: Path) -> None:
    cells = ["1", "0", "", "nan", "-1", "0.5"] * 3
    rows = [",".join([f"{k:08}_000.png", f"p{k // 2}", *cells[k % 4 :][:14]]) for k in range(30)]
    text = "\n".join([",".join([predictions.NAME, "Patient ID", *FINDINGS]), *rows])

    def case(random: Random, folder: Path) -> None:
        (folder / "labels.csv").write_bytes(damage_table(random, text))
        entries, _, _ = predictions.read_labels(folder / "labels.csv", FINDINGS)
        labels = np.stack([entry.labels for entry in entries.values()])
        assert (np.isnan(labels) | ((labels >= 0) & (labels <= 1))).all()
        assert all((name + entry.patient).isprintable() for name, entry in entries.items())
        assert not any(".." in name.split("/") for name in entries)

    accepted, refused = fuzz("labels", cases(300, 3000), case, tmp_path)
    assert min(accepted, refused) > cases(5, 50)


# Configs


def test_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A config file is a program of the user's; what is typed after it is text."""
    config = REPOSITORY / "configs" / "dml.py"
    fields = [*config_fields(dml.get_config().to_dict()), "networks.net3.model", "none", "data", ""]

    def case(random: Random, folder: Path) -> None:
        texts = [text for text in TEXTS if "\0" not in text and len(text) < 1000]
        field = fields[random.integers(len(fields))]
        argv = ["main", f"--config={config}", f"--workdir={folder}"]
        argv += [f"--config.{field}={texts[random.integers(len(texts))]}"]
        if random.random() < 0.1:
            argv[1] += f":{texts[random.integers(len(texts))]}"
        monkeypatch.setattr(sys, "argv", argv)  # ml_collections looks there
        try:
            with flagsaver.flagsaver():
                main.parse(argv)
        except SystemExit:
            message = capsys.readouterr().err
            raise ConfigError(message.strip()) if message.startswith("error: ") else AssertionError(message) from None

    accepted, refused = fuzz("flags", cases(60, 500), case, tmp_path)
    assert min(accepted, refused) > cases(5, 50)


def config_fields(tree: dict[str, Any], above: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from config_fields(value, f"{above}{name}.")
        else:
            yield f"{above}{name}"


# What a workdir and a cache hold


def damaged_json(random: Random, tree: Any) -> bytes:
    text = json.dumps(damage_tree(random, tree)).encode("utf-8", "surrogatepass")
    if random.random() < 0.3:
        return damage(random, text, [text])
    return TEXTS[random.integers(len(TEXTS))].encode("utf-8", "surrogatepass") if random.random() < 0.05 else text


def test_json_of_workdirs(tmp_path: Path, small_dml: ConfigDict) -> None:
    config = json.loads(small_dml.to_json())
    youden = {finding: {"youden": 0.3} for finding in FINDINGS}
    results = {"step": 3, "networks": {"net1": {"thresholds": youden}}}
    restored = Restored(tmp_path, small_dml, 3, {"net1": None}, {}, {})  # type: ignore[dict-item]

    def case(random: Random, folder: Path) -> None:
        (folder / "config.json").write_bytes(damaged_json(random, config))
        (folder / "metrics.json").write_bytes(damaged_json(random, results))
        thresholds = read_thresholds(restored)
        assert thresholds.shape == (14,)
        assert ((thresholds >= 0) & (thresholds <= 1) | np.isnan(thresholds)).all()
        assert isinstance(read_config(folder), ConfigDict)
        check_config(folder, small_dml)

    _, refused = fuzz("json", cases(300, 2000), case, tmp_path)
    assert refused > cases(200, 1500)


def test_imported_weights(tmp_path: Path) -> None:
    about = torch_weights.About("resnet18", 0.5, 0.25, "a.pth")
    variables = {"params": {"head": {"kernel": np.ones((4, 14), np.float32), "bias": np.zeros(14, np.float32)}}}
    torch_weights.save_weights(tmp_path / "whole", variables, about)
    arrays = (tmp_path / "whole" / torch_weights.ARRAYS).read_bytes()
    message = json.loads((tmp_path / "whole" / torch_weights.ABOUT).read_text())
    (tmp_path / "hurt").mkdir()

    def case(random: Random, folder: Path) -> None:
        hurt = random.random() < 0.7
        (folder / torch_weights.ARRAYS).write_bytes(damage(random, arrays, [arrays]) if hurt else arrays)
        (folder / torch_weights.ABOUT).write_bytes(
            json.dumps(message).encode() if hurt else damaged_json(random, message)
        )
        found, known = torch_weights.load_weights(folder)
        assert isinstance(known.model, str)
        assert np.isfinite([float(known.mean), float(known.std)]).all()
        assert isinstance(found, dict)

    accepted, refused = fuzz("weights", cases(200, 1500), case, tmp_path / "hurt")
    assert min(accepted, refused) > cases(5, 50)


def test_prepared_sets(tmp_path: Path) -> None:
    features = {"featuresDict": {"features": {"image": {"image": {"shape": {"dimensions": ["32", "32", "1"]}}}}}}
    rows = [f"{part},{k}.png,{k},50,M,PA" + ",0" * 14 for k, part in enumerate(nih.SPLITS)]
    text = "\n".join([",".join(["split", "Image Index", "Patient ID", "age", "sex", "view", *FINDINGS]), *rows])

    def case(random: Random, folder: Path) -> None:
        hurt = random.random() < 0.5
        tree = json.dumps(features).encode()
        (folder / "features.json").write_bytes(damaged_json(random, features) if hurt else tree)
        (folder / prepared.TABLE).write_bytes(text.encode() if hurt else damage_table(random, text))
        files.write_manifest(folder)  # whoever damaged it made it look whole
        found = prepared.load(folder)
        assert 0 < found.size < 2**16
        assert all(part.labels.shape == (len(part.names), 14) for part in found.parts.values())

    accepted, refused = fuzz("prepared", cases(150, 1000), case, tmp_path)
    assert min(accepted, refused) > cases(5, 50)


def test_checkpoints(tmp_path: Path, small_baseline: ConfigDict) -> None:
    save_untrained(small_baseline, tmp_path)
    step = tmp_path / "checkpoints" / "1"
    whole = {name: json.loads((step / name).read_text()) for name in ("config.json", "metadata.json")}

    def case(random: Random, folder: Path) -> None:
        name = str(random.choice(list(whole)))
        for each, tree in whole.items():
            (step / each).write_bytes(damaged_json(random, tree) if each == name else json.dumps(tree).encode())
        files.write_manifest(step)  # whoever damaged it made it look whole
        restored = restore_best(folder)
        assert set(restored.variables) == set(restored.models)
        recipe_of(restored.config.data)

    accepted, refused = fuzz("checkpoints", cases(60, 1000), case, tmp_path)
    assert min(accepted, refused) > cases(5, 50)
