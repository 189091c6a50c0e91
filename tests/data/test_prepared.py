"""Preparing: what comes out equals what went in, once; and nothing half-made is ever taken for whole."""

import io
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from PIL import Image

from chexjax.data import prepared as prepared_module
from chexjax.data.images import read_grey
from chexjax.data.pipeline import training_batches
from chexjax.data.prepared import prepare, prepare_source
from chexjax.data.recipe import Recipe, recipe_of, shrink
from chexjax.data.sources.nih import read_entries
from chexjax.errors import DataError
from chexjax.scanline import remove_artifacts, remove_artifacts_reference

RECIPE = Recipe(size=32)


@pytest.fixture(scope="module")
def prepared(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> prepared_module.Prepared:
    return prepare(phantom_folder, tmp_path_factory.mktemp("prepared"), RECIPE, progress=False)


@pytest.fixture
def folder(phantom_folder: Path, tmp_path: Path) -> Path:
    """A copy of the simulated folder that a test may spoil."""
    return Path(shutil.copytree(phantom_folder, tmp_path / "nih"))


def pixels(record: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(record["image"])))


def test_records_hold_the_shrunk_films_with_their_labels_and_boxes(prepared, phantom_folder: Path) -> None:
    entries = read_entries(phantom_folder)
    total = boxes = 0
    for split, part in prepared.parts.items():
        source = prepared.source(split)
        assert len(source) == len(part.names)
        for name, labels, record in zip(part.names, part.labels, (source[k] for k in range(len(source))), strict=True):
            assert record["id"].decode() == name
            np.testing.assert_array_equal(record["label"], entries[name].labels)
            np.testing.assert_array_equal(labels, entries[name].labels)
            film = np.asarray(Image.open(phantom_folder / "images" / name))
            np.testing.assert_array_equal(pixels(record), shrink(film, 32))
            assert record["age"] == entries[name].age
            for found, box in zip(record["bboxes"]["bbox"], entries[name].boxes, strict=True):
                expected = [box.top, box.left, box.top + box.height, box.left + box.width]
                np.testing.assert_allclose(found, np.clip(expected, 0, 1), atol=1e-6)
                boxes += 1
            total += 1
    assert total == len(entries)
    assert boxes > 0


def test_labels_not_known_and_soft_ones_come_back_to_the_bit(
    phantom_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    entries = read_entries(phantom_folder)
    for entry in entries.values():
        chance = rng.random(14)
        entry.labels[chance < 0.3] = np.nan
        entry.labels[chance > 0.7] = rng.random(14).astype(np.float32)[chance > 0.7]
    monkeypatch.setattr(prepared_module, "read_entries", lambda folder: entries)
    found = prepare(phantom_folder, tmp_path, RECIPE, progress=False)
    for split, part in found.parts.items():
        expected = np.stack([entries[name].labels for name in part.names])
        assert part.labels.dtype == np.float32
        np.testing.assert_array_equal(part.labels, expected)
        source = found.source(split)
        np.testing.assert_array_equal(np.stack([source[k]["label"] for k in range(len(source))]), expected)
        np.testing.assert_array_equal(part.known, (~np.isnan(expected)).sum(axis=0))
        np.testing.assert_array_equal(part.positives, (expected == 1).sum(axis=0))
        assert part.healthy == sum(set(labels.tolist()) == {0.0} for labels in expected)
        line = next(line for line in found.summary().splitlines() if line.strip().startswith(split))
        assert line.endswith(f"{np.isnan(expected).sum()} of {expected.size} labels are not known")


def test_a_set_made_when_labels_were_whole_numbers_is_read_as_ever(
    prepared, phantom_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its records hold uint8; its digest is the same, so that runs on it go on."""
    info = prepared_module.Films._info

    def old_info(self):
        features = dict(info(self).features)
        features["label"] = tfds.features.Tensor(shape=(14,), dtype=np.uint8)
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    records = prepared_module._records

    def old_records(*arguments):
        return ((key, record | {"label": record["label"].astype(np.uint8)}) for key, record in records(*arguments))

    with monkeypatch.context() as patched:
        patched.setattr(prepared_module.Films, "_info", old_info)
        patched.setattr(prepared_module, "_records", old_records)
        old = prepare(phantom_folder, tmp_path, RECIPE, progress=False)
    assert old.digest == prepared.digest
    found = prepared_module.load(old.path)
    assert found.source("train")[0]["label"].dtype == np.uint8
    np.testing.assert_array_equal(found.parts["train"].labels, prepared.parts["train"].labels)
    batch = next(training_batches(found.source("train"), 8, seed=0))
    assert batch["label"].dtype == np.float32
    np.testing.assert_array_equal(batch["label"], next(training_batches(prepared.source("train"), 8, seed=0))["label"])


def test_shrink_averages_areas() -> None:
    film = np.arange(16, dtype=np.uint8).reshape(4, 4)
    np.testing.assert_array_equal(shrink(film, 2), [[3, 5], [11, 13]])  # 2.5, 4.5, 10.5, 12.5, rounded up
    assert shrink(film, 4) is film


def test_enlarging_is_torchs_bicubic_and_a_network_may_ask_for_areas() -> None:
    torch = pytest.importorskip("torch")
    film = np.random.default_rng(0).integers(60, 200, (40, 50), np.uint8)
    expected = torch.nn.functional.interpolate(
        torch.tensor(film)[None, None].float(), (96, 96), mode="bicubic", antialias=True
    )
    np.testing.assert_allclose(shrink(film, 96), expected[0, 0], atol=1.2)  # rounded between the passes and after
    np.testing.assert_array_equal(shrink(film[:4, :4], 8, "area"), np.repeat(np.repeat(film[:4, :4], 2, 0), 2, 1))


def test_a_second_call_finds_what_the_first_made(prepared, phantom_folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(prepared_module, "write_set", lambda *args: pytest.fail("prepared anew"))
    again = prepare(phantom_folder, prepared.path.parents[2], RECIPE, progress=False)
    assert again.path == prepared.path
    assert again.digest == prepared.digest


def test_other_recipes_and_other_films_have_other_digests(prepared, folder: Path, tmp_path: Path) -> None:
    digests = {prepared.digest, prepare(folder, tmp_path, Recipe(size=16), progress=False).digest}
    digests.add(prepare(folder, tmp_path, Recipe(size=32, clean=True), progress=False).digest)
    digests.add(prepare(folder, tmp_path, Recipe(size=32, val_fraction=0.4), progress=False).digest)
    assert prepare(folder, tmp_path, RECIPE, progress=False).digest == prepared.digest  # a copy is the same
    film = next((folder / "images").iterdir())
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(film)
    digests.add(prepare(folder, tmp_path, RECIPE, progress=False).digest)
    assert len(digests) == 5


def test_cleaning_happens_at_native_resolution(phantom_folder: Path, tmp_path: Path) -> None:
    recipe = Recipe(size=32, clean=True, max_width=4)
    cleaned = prepare(phantom_folder, tmp_path, recipe, progress=False)
    changed = 0
    for split, part in cleaned.parts.items():
        source = cleaned.source(split)
        for k, name in enumerate(part.names):
            film = np.asarray(Image.open(phantom_folder / "images" / name))
            expected = np.asarray(remove_artifacts(film, 50, 4))
            np.testing.assert_array_equal(pixels(source[k]), shrink(expected, 32))
            changed += (expected != film).any()
    assert changed > 3  # a fifth of the films bear artefacts


def test_every_option_of_the_cleaning_is_the_rules_own(phantom_folder: Path, tmp_path: Path) -> None:
    options = {"threshold": 30, "max_width": 6, "edge_span": 3, "spare_wide": True}
    recipe = Recipe(size=64, clean=True, axes="columns,rows", **options)
    split = prepare(phantom_folder, tmp_path, recipe, progress=False)
    part, source = split.parts["val"], split.source("val")
    films = [np.asarray(Image.open(phantom_folder / "images" / name)) for name in part.names]
    expected = [remove_artifacts_reference(film, axes=(-2, -1), **options) for film in films]
    for k, film in enumerate(expected):
        np.testing.assert_array_equal(pixels(source[k]), film)
    assert any((film != remove_artifacts_reference(raw)).any() for film, raw in zip(expected, films, strict=True))


def test_what_tells_prepared_sets_apart() -> None:
    before = {"size": 32, "clean": False, "threshold": 50, "max_width": 40, "split": "official", "lists": ""}
    before |= {"val_fraction": 0.1, "split_seed": 0, "skip_unreadable": False}  # all that there was in version 1.1.0
    assert Recipe(size=32).identity() == before | {"enlarge": "bicubic"}
    assert recipe_of(ConfigDict({"size": 32})).identity() == before  # made before films could be enlarged otherwise
    before |= {"enlarge": "bicubic"}
    assert Recipe(size=32, clean=True).identity() == before | {"clean": True}
    assert Recipe(size=32, lists="elsewhere", axes="columns", threshold=9).identity() == before  # nothing is cleaned
    later = {"edge_span": 2, "axes": "columns", "spare_wide": True}
    assert Recipe(size=32, clean=True, **later).identity() == before | {"clean": True} | later


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("threshold", 0, "threshold is 0; it must lie between 1 and 255"),
        ("max_width", 0, "max_width is 0; it must lie"),
        ("edge_span", 65, "edge_span is 65; it must lie between 1 and 64"),
        ("axes", "rows,depth", "axes is 'rows,depth'; it may be rows, columns"),
        ("axes", "rows,rows", "axes is 'rows,rows'"),
        ("size", 16, "size is 16; it must lie between 32 and 4096"),
        ("enlarge", "nearest", "enlarge is 'nearest'; it may be bicubic, area"),
    ],
)
def test_a_preparation_takes_what_a_config_may_hold(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(clean=True, **{field: value}).check()


def test_colour_and_palette_films_become_grey(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    for mode in ("RGBA", "RGB", "P", "LA"):
        Image.fromarray(grey).convert(mode).save(tmp_path / f"{mode}.png")
        np.testing.assert_array_equal(read_grey(tmp_path / f"{mode}.png"), grey)


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png: more than 8 bits"):
        read_grey(tmp_path / "deep.png")


def test_missing_films_are_counted_and_named(folder: Path, tmp_path: Path) -> None:
    gone = sorted((folder / "images").iterdir())[:12]
    for path in gone:
        path.unlink()
    with pytest.raises(DataError, match=rf"12: {gone[0].name}, .*\(2 more\)") as caught:
        prepare(folder, tmp_path / "out", RECIPE, progress=False)
    assert str(caught.value).count(".png") == 10
    assert not list((tmp_path / "out").rglob("*.array_record*"))


def test_missing_films_are_said_to_be_where_they_are(folder: Path, tmp_path: Path) -> None:
    count = len(list((folder / "images").iterdir()))
    (folder / "images_001.tar.gz").touch()
    moved = (folder / "images").rename(folder / "png")
    where = re.escape(str(folder))
    message = (
        rf"missing in {where}, {count}: .*\nlooked in 1: the folder itself\n{count} lie in png; rename it to images"
    )
    with pytest.raises(DataError, match=message):
        prepare(folder, tmp_path / "out", RECIPE, progress=False)
    films = moved.rename(folder / "images_a")
    for path in films.iterdir():
        path.rename(path.with_suffix(".PNG"))
        path.with_suffix(".jpg").touch()
    message = rf"images_a\nof {count} there are several files, such as \S+\.PNG and \S+\.jpg for"
    with pytest.raises(DataError, match=message):
        prepare(folder, tmp_path / "out", RECIPE, progress=False)
    shutil.rmtree(films)
    with pytest.raises(DataError, match=r"there are archives, 1: images_001\.tar\.gz; unpack them there"):
        prepare(folder, tmp_path / "out", RECIPE, progress=False)


def test_the_sample_without_lists_is_divided_by_patient(folder: Path, tmp_path: Path, capsys) -> None:
    (table,) = folder.glob("Data_Entry*.csv")
    table.rename(folder / "sample_labels.csv")
    (folder / "sample" / "sample").mkdir(parents=True)
    (folder / "images").rename(folder / "sample" / "sample" / "images")
    lists = [path.rename(tmp_path / path.name) for path in folder.glob("*_list.txt")]
    recipe = asdict(RECIPE)
    config = ConfigDict({**recipe, "source": "chestxray14", "dir": str(folder)})
    found = prepare_source(config, tmp_path / "out", RECIPE)
    assert f"{folder} has no official lists: its films are divided by patient" in capsys.readouterr().out
    homes = {part: {*found.parts[part].patients} for part in found.parts}
    assert not homes["train"] & homes["test"]
    assert all(homes.values())
    config.lists = str(tmp_path)  # the complete set's, beside the sample
    assert sorted(path.name for path in lists) == ["test_list.txt", "train_val_list.txt"]
    official = prepare_source(config, tmp_path / "out", replace(RECIPE, lists=str(tmp_path)), progress=False)
    assert {*official.parts["test"].names} == {*(tmp_path / "test_list.txt").read_text().split()}


def test_a_part_of_the_set_is_prepared_beside_the_complete_lists(folder: Path, tmp_path: Path, capsys) -> None:
    """As a test of the whole: a tenth of the patients, their rows and films; the lists name all."""
    (table,) = folder.glob("Data_Entry*.csv")
    header, *rows = table.read_text().splitlines()
    kept = [row for row in rows if int(row.split(",")[3]) % 3]
    names = {row.split(",")[0] for row in kept}
    table.write_text("\n".join([header, *kept]))
    for path in (folder / "images").iterdir():
        if path.name not in names:
            path.unlink()
        else:
            path.rename(path.with_suffix(".PNG"))
    with pytest.raises(DataError, match=r"name films that the entry file does not have, \d+: .*\n.*--skip-unreadable"):
        prepare(folder, tmp_path / "out", RECIPE, progress=False)
    found = prepare(folder, tmp_path / "out", replace(RECIPE, skip_unreadable=True), progress=False)
    assert {name for part in found.parts.values() for name in part.names} == names
    count = len(rows) - len(kept)
    message = capsys.readouterr().err
    assert f"warning: {count} films of the lists are left out: the entry file has no row for them\n" in message
    assert f"warning: {len(names)} film names differ from the table's in suffix or case" in message
    assert len((found.path / "skipped.csv").read_text().splitlines()) == 1 + count


def test_films_that_do_not_decode_are_all_named_and_may_be_skipped(folder: Path, tmp_path: Path) -> None:
    first, second, third = sorted((folder / "images").iterdir())[:3]
    first.write_bytes(first.read_bytes()[:200])  # cut short
    second.write_bytes(b"")
    third.unlink()
    with pytest.raises(DataError, match="missing"):
        prepare(folder, tmp_path / "out", RECIPE, progress=False)
    names = [line for line in (folder / "train_val_list.txt").read_text().split() if line != third.name]
    kept_test = [line for line in (folder / "test_list.txt").read_text().split() if line != third.name]
    (folder / "train_val_list.txt").write_text("\n".join(names))
    (folder / "test_list.txt").write_text("\n".join(kept_test))
    with pytest.raises(DataError, match=rf"2: {first.name} .*{second.name}") as caught:
        prepare(folder, tmp_path / "out", RECIPE, progress=False)
    assert "--skip-unreadable" in str(caught.value)
    assert not list((tmp_path / "out").rglob("*.array_record*"))
    skipping = prepare(folder, tmp_path / "out", Recipe(size=32, skip_unreadable=True), progress=False)
    readable = {name for part in skipping.parts.values() for name in part.names}
    assert len(readable) == 93
    assert not readable & {first.name, second.name, third.name}
    listed = (skipping.path / prepared_module.SKIPPED).read_text()
    assert first.name in listed
    assert second.name in listed


def test_what_a_killed_process_left_is_removed_and_not_taken_for_whole(folder: Path, tmp_path: Path) -> None:
    made = prepare(folder, tmp_path, RECIPE, progress=False)
    left = made.path.parent / f"preparing-{socket.gethostname()}-999999999"
    made.path.rename(left)  # as if killed just before the last step
    again = prepare(folder, tmp_path, RECIPE, progress=False)
    assert again.path == made.path
    assert not left.exists()


def test_records_cut_short_are_not_accepted(folder: Path, tmp_path: Path, monkeypatch) -> None:
    write_tables = prepared_module._write_tables

    def one_too_many(built, findings, entries, written, skipped):
        write_tables(built, findings, entries, written, skipped)
        written["train"].append("one.png")

    monkeypatch.setattr(prepared_module, "_write_tables", one_too_many)
    with pytest.raises(DataError, match="differ from what was written"):
        prepare(folder, tmp_path / "out", RECIPE, progress=False)
    assert not list((tmp_path / "out").rglob("*.array_record*"))


def test_full_disk(folder: Path, tmp_path: Path) -> None:
    """On a real full file system, where this machine lets us mount one."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        with pytest.raises(DataError, match=r"cannot be written to .*small.*[Nn]o space left"):
            prepare(folder, small, Recipe(size=64), progress=False)
        assert not list(small.rglob("*.array_record*"))
    finally:
        subprocess.run(["umount", small], check=True)


def test_rot_of_a_prepared_set_is_found_as_it_is_opened_or_as_it_is_read(prepared, tmp_path: Path) -> None:
    """Every file, flipped, cut short or removed, 60 times: our error, or the very same films."""
    rng, refused, named = np.random.default_rng(0), 0, 0
    whole = {
        split: [pixels(prepared.source(split)[k]) for k in range(len(part.names))]
        for split, part in prepared.parts.items()
    }
    for trial in range(60):
        path = Path(
            shutil.copytree(
                prepared.path, tmp_path / prepared.path.parent.name / prepared.path.name, dirs_exist_ok=True
            )
        )
        files = sorted(path.iterdir())
        file = files[trial % len(files)]
        content = bytearray(file.read_bytes())
        if trial % 3 == 0:
            content[rng.integers(min(len(content), 30_000))] ^= 1 << rng.integers(8)  # records are padded with nothing
            file.write_bytes(content)
        elif trial % 3 == 1:
            file.write_bytes(content[: rng.integers(len(content))])
        else:
            file.unlink()
        try:
            opened = prepared_module.load(path)
            for split, part in opened.parts.items():
                assert part.names == prepared.parts[split].names
                np.testing.assert_array_equal(part.labels, prepared.parts[split].labels)
                source = opened.source(split)
                np.testing.assert_array_equal([pixels(source[k]) for k in range(len(source))], whole[split])
        except DataError as error:
            named += file.name in str(error)
            refused += 1
        shutil.rmtree(path)
    assert refused > 50
    assert named >= refused - 10  # a flip in the manifest accuses another file


def test_a_large_record_file_is_not_hashed_at_each_start_but_its_reader_finds_rot(
    prepared, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(prepared_module, "_SMALL", 10_000)
    path = Path(shutil.copytree(prepared.path, tmp_path / prepared.path.parent.name / prepared.path.name))
    file = next(path.glob("*train.array_record*"))
    content = bytearray(file.read_bytes())
    content[len(content.rstrip(b"\0")) // 2] ^= 1
    file.write_bytes(content)
    source = prepared_module.load(path).source("train")
    with pytest.raises(DataError, match=r"the train records in .* are not as they were written, seen at record \d+"):
        [source[k] for k in range(len(source))]
    with pytest.raises(DataError, match="the train records in"):  # through grain's threads, too
        list(zip(range(20), training_batches(source, 4, seed=0), strict=False))


def test_command_line(phantom_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chexjax.data.chestxray14", f"--out={tmp_path}", "--size=32"]
    done = subprocess.run([*command, f"--dir={phantom_folder}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "test:" in done.stdout
    assert "prepared films:" in done.stdout
    command[2] = "chexjax.data.prepared"
    general = subprocess.run([*command, "--source=phantom", f"--dir={phantom_folder}"], capture_output=True, text=True)
    assert general.stdout == done.stdout
    failed = subprocess.run(
        [*command, f"--dir={tmp_path / 'nowhere'}", "--skip-unreadable"], capture_output=True, text=True
    )
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ")
    assert "is not a folder" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_dicom_films_are_prepared_as_prediction_sees_them(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("pydicom")
    from chexjax.predict import as_film
    from tests.dicom_files import write_dicom

    (tmp_path / "train").mkdir()
    random = np.random.default_rng(0)
    rows = ["image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"]
    for film in range(20):
        pixels = random.integers(0, 4096, (40, 64)).astype(np.uint16)
        lying = {"PatientOrientation": ["R", "F"], "PixelAspectRatio": [2, 1]}
        fields = {"PhotometricInterpretation": "MONOCHROME1", **lying} if film % 2 else {}
        fields |= {"Modality": "CT"} if film == 4 else {}
        write_dicom(tmp_path / "train" / f"f{film}.dicom", pixels, BitsStored=12, **fields)
        rows.append(f"f{film},Cardiomegaly,3,R1,8,10,48,30" if film % 3 else f"f{film},No finding,14,R1,,,,")
    (tmp_path / "train.csv").write_text("\n".join(rows) + "\n")
    config = ConfigDict({"source": "vindr", "dir": str(tmp_path), "split": "official", "lists": ""})
    config.update({"val_fraction": 0.2, "split_seed": 0})
    found = prepare_source(config, tmp_path / "out", Recipe(size=16), progress=False)
    assert found.findings == ("Cardiomegaly",)
    assert sum(len(part.names) for part in found.parts.values()) == 20
    message = capsys.readouterr().err
    assert "warning: films are kept that `predict` would refuse for what their files say, 1: f4 (modality CT" in message
    source, part = found.source("train"), found.parts["train"]
    for row, name in enumerate(part.names):
        record = source[row]
        with Image.open(io.BytesIO(record["image"])) as image:
            expected = shrink(as_film(tmp_path / "train" / f"{name}.dicom"), 16)
            np.testing.assert_array_equal(np.asarray(image), expected)
        boxes = record["bboxes"]["bbox"]  # TFDS: ymin, xmin, ymax, xmax
        assert len(boxes) == part.labels[row, 0] == (int(name[1:]) % 3 > 0)
        if len(boxes):
            across = [0.25, 0.875] if int(name[1:]) % 2 else [0.125, 0.75]  # the boxes are those of the file
            np.testing.assert_allclose(boxes[0], [0.25, across[0], 0.75, across[1]])
    assert prepare_source(config, tmp_path / "out", Recipe(size=16), progress=False).digest == found.digest
    (tmp_path / "train.csv").write_text("\n".join(rows).replace("f1,Cardiomegaly", "f1,Edema") + "\n")
    assert prepare_source(config, tmp_path / "out", Recipe(size=16), progress=False).digest != found.digest
