"""ChestX-ray14, prepared once: an NIH folder is read, checked, cleaned, shrunk and written as ArrayRecord by TFDS.

Simulated films (`sources.phantom`) come in the same layout and through the same door.

    python -m chexjax.data.prepared --source=chestxray14 --dir=NIH_FOLDER --out=DIR --size=256 --clean
"""

import csv
import hashlib
import io
import json
import os
import shutil
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorflow_datasets as tfds
from absl import flags
from PIL import Image

from chexjax.data.images import MAX_SIDE, read_grey
from chexjax.data.recipe import CHUNK, Recipe, clean_films, prepared_below, shrink
from chexjax.data.sources import SOURCES
from chexjax.data.sources.nih import (
    BOX_FILE,
    ENTRY_FILES,
    SPLITS,
    Entry,
    film_folders,
    find_films,
    find_table,
    read_entries,
    read_splits,
)
from chexjax.devices import find_devices
from chexjax.errors import ConfigError, DataError, command, first_ten, printable, warn
from chexjax.files import cell, local_path, manifest_troubles, own_folder, text_of, write_manifest
from chexjax.findings import FINDINGS
from chexjax.runtime import cache_folder, parse, progress_bar
from chexjax.scanline import MAX_WIDTH, THRESHOLD

VERSION: Final = "1.1.0"
TABLE: Final = "films.csv"  # beside the records, in their order
SKIPPED: Final = "skipped.csv"
NO_ROW: Final = "the entry file has no row of them"
_SMALL: Final = 16 << 20  # bytes; a file of at most so many is hashed whenever a set is opened


@dataclass(frozen=True)
class Part:
    """One part of the split, in the order of its records. `labels` is uint8 (films, 14)."""

    names: tuple[str, ...]
    patients: tuple[str, ...]
    labels: np.ndarray


class Source:
    """Records by number, as TFDS gives them; `told` says in messages which they are."""

    def __init__(self, source: Any, told: str):
        self._source, self._told = source, told

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, record: int) -> dict[str, Any]:
        try:
            return self._source[record]
        except (RuntimeError, OSError) as error:  # ArrayRecord hashes each chunk, and holds what it reads against that
            reason = str(error).splitlines()[0]
            raise _rotten(self._told, f"seen at record {record}: {reason}") from None


@dataclass(frozen=True)
class Prepared:
    """A prepared record set: where it lies, by which digest it is known, and what it holds."""

    path: Path
    digest: str
    size: int
    parts: dict[str, Part]

    def source(self, split: str) -> Any:
        """A random-access source of the split's records, as TFDS gives them; the film still as PNG bytes."""
        builder = tfds.builder_from_directory(str(self.path))
        source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
        return Source(source, f"the {split} records in {self.path}")

    def summary(self) -> str:
        """A line a part: films, patients, films without a finding, and the rarest finding."""
        lines = []
        for name, part in self.parts.items():
            positives = part.labels.sum(axis=0)
            rarest = int(positives.argmin())
            lines.append(
                f"{name:>5}: {len(part.names):6d} films, {len(set(part.patients)):5d} patients, "
                f"{int((part.labels.sum(axis=1) == 0).sum()):6d} without a finding, "
                f"rarest {FINDINGS[rarest]} ({positives[rarest]})"
            )
        if (self.path / SKIPPED).exists():
            lines.append(f"films were left out: {self.path / SKIPPED}")
        return "\n".join(lines)


def prepare(folder: str | Path, out: str | Path, recipe: Recipe, progress: bool = True) -> Prepared:
    """Finds the prepared set of `folder` and `recipe` below `out`, or makes it.

    The set appears under its name only when it is whole: it is written beside, verified, then renamed.

    Raises:
      DataError: whatever is wrong with the folder (see `nih`), a film that is missing or does not decode (all are
        counted, the first ten named), or a disk that cannot take the records.
    """
    folder, out = local_path(folder, "the folder of films"), local_path(out, "the folder of prepared films")
    entries = read_entries(folder)
    lists = Path(recipe.lists).expanduser() if recipe.lists else folder
    unknown: list[str] | None = [] if recipe.skip_unreadable else None
    splits = read_splits(folder, entries, recipe.split, lists, recipe.val_fraction, recipe.split_seed, unknown)
    found, missing = find_films(folder, (name for names in splits.values() for name in names))
    if missing and not recipe.skip_unreadable:
        places = [str(place.relative_to(folder)) for place in film_folders(folder)]
        raise DataError(
            f"films are listed but missing in {folder}, {first_ten(missing)}; looked in images*/ and images*/images*/, "
            f"{first_ten(places) if places else 'and there is no such folder'}\n"
            "put them there, or go on without them with --skip-unreadable (data.skip_unreadable)"
        )
    skipped = dict.fromkeys(unknown or [], NO_ROW) | dict.fromkeys(missing, "missing")
    for reason, count in Counter(skipped.values()).items():
        warn(f"{count:,} films of the lists are left out: {reason}")
    digest = _digest(folder, recipe, lists, splits, found)
    final = out / "chest_xray14" / f"{recipe.size}px-{'clean-' if recipe.clean else ''}{digest[:12]}" / VERSION
    if not final.exists():
        try:
            _write(final, entries, splits, found, skipped, recipe, progress)
        except (OSError, RuntimeError) as error:  # ArrayRecord tells of a full disk by a RuntimeError
            raise DataError(f"the prepared films cannot be written to {out}: {error}") from error
    return load(final)


def load(path: str | Path) -> Prepared:
    """Opens a prepared set by its folder.

    Its manifest is checked: the size of each file, and the content of the small ones. The large ones, the records, are
    checked by ArrayRecord as they are read; hashing 7 GB at each start would take longer than starting.

    Raises:
      DataError: the folder holds none, or one that is not as it was written.
    """
    path = Path(path)
    if path.is_dir() and (troubles := manifest_troubles(path, _SMALL)):
        raise _rotten(f"the prepared films in {path}", first_ten(troubles))
    return _load(path)


def _rotten(which: str, how: str) -> DataError:
    return DataError(f"{which} are not as they were written, {how}\nremove that folder, and they are prepared anew")


def _load(path: Path) -> Prepared:
    try:
        features = json.loads((path / "features.json").read_text())
        _check_classes(features)
        names = features["featuresDict"]["features"]
        size = int(names["image"]["image"]["shape"]["dimensions"][0])
        if not 0 < size <= MAX_SIDE:
            raise ValueError(f"films of {size} pixels a side")
        columns: dict[str, list[tuple[str, str, list[int]]]] = {part: [] for part in SPLITS}
        with (path / TABLE).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                name, patient = (text_of(row[column]) for column in ("Image Index", "Patient ID"))
                columns[row["split"]].append((name, patient, [{"0": 0, "1": 1}[row[f]] for f in FINDINGS]))
    except (
        OSError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        csv.Error,
    ) as error:
        reason = printable(str(error)[:200])
        raise DataError(f"{path} holds no prepared films ({type(error).__name__}: {reason})") from None
    parts = {
        split: Part(
            tuple(name for name, _, _ in rows),
            tuple(patient for _, patient, _ in rows),
            np.array([labels for _, _, labels in rows], np.uint8).reshape(-1, len(FINDINGS)),
        )
        for split, rows in columns.items()
    }
    return Prepared(path, path.parent.name.rsplit("-", 1)[-1], size, parts)


def _check_classes(tree: Any) -> None:
    """TFDS imports whatever module `features.json` names: only its own may be named.

    Raises:
      ValueError: another is.
    """
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if key in ("pythonClassName", "type") and not str(value).startswith("tensorflow_datasets.core.features."):
            raise ValueError(f"a feature of class {value!r}")
        _check_classes(value)
    for value in tree if isinstance(tree, list) else ():
        _check_classes(value)


def _digest(
    folder: Path, recipe: Recipe, lists: Path, splits: dict[str, list[str]], found: dict[str, Path]
) -> str:  # fmt: skip
    """A hash of what goes in: the recipe, the tables' text, the split, and each film's name and size in bytes.

    Films are known by their size, not their content: hashing 45 GB would take as long as preparing them.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps({**recipe.identity(), "version": VERSION}, sort_keys=True).encode())
    for name in (*ENTRY_FILES, BOX_FILE):
        digest.update((folder / name).read_bytes() if (folder / name).is_file() else b"absent")
    for names in (ENTRY_FILES, (BOX_FILE,)):
        table = find_table(folder, *names, report=False)
        if table is not None and table.name not in names:  # see `nih`
            digest.update(table.read_bytes())
    sizes = {name: found[name].stat().st_size for name in sorted(found)}
    digest.update(json.dumps([splits, sizes], sort_keys=True).encode())
    return digest.hexdigest()


def _write(
    final: Path, entries: dict[str, Entry], splits: dict[str, list[str]], found: dict[str, Path],
    skipped: dict[str, str], recipe: Recipe, progress: bool,
) -> None:  # fmt: skip
    """Writes the set beside `final`, verifies it, and renames it; leaves nothing behind where that fails."""
    work = own_folder(final.parent, "preparing")
    try:
        names = {split: [name for name in listed if name in found] for split, listed in splits.items()}
        for split, present in names.items():
            if not present:
                raise DataError(f"not one of the {len(splits[split])} films of the {split} part was found")
        total = sum(map(len, names.values()))
        with progress_bar(total, f"preparing {recipe.size} px", shown=progress) as bar:
            films = {split: _read_films(listed, found, recipe, skipped, bar.update) for split, listed in names.items()}
            built = _build(work, {split: _records(entries, pairs) for split, pairs in films.items()}, recipe.size)
        broken = [f"{name} ({reason})" for name, reason in skipped.items() if name in found]
        if broken and not recipe.skip_unreadable:
            raise DataError(
                f"films do not decode, {first_ten(broken)}\n"
                "replace them, or go on without them with --skip-unreadable (data.skip_unreadable)"
            )
        written = {split: [name for name in listed if name not in skipped] for split, listed in names.items()}
        _write_tables(built, entries, written, skipped)
        _verify(built, written)
        write_manifest(built)
        built.rename(final)
    except OSError:
        if not final.exists():  # else another process was quicker, with the same films
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _read_films(
    names: list[str], found: dict[str, Path], recipe: Recipe, skipped: dict[str, str], done: Callable[[int], Any]
) -> Iterator[tuple[str, bytes]]:
    """Film names with their prepared PNG bytes, in order; a film that does not decode goes to `skipped` instead."""

    def read(name: str) -> np.ndarray | DataError:
        try:
            return read_grey(found[name])
        except DataError as error:
            return error

    def finish(film: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(shrink(film, recipe.size)).save(buffer, "png")
        return buffer.getvalue()

    chunks = [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)]
    # Pillow lets go of the interpreter lock while it decodes and encodes, so threads are as good as processes here.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting: deque[list[Future[np.ndarray | DataError]]] = deque()
        for turn in range(len(chunks) + 1):
            if turn < len(chunks):
                waiting.append([pool.submit(read, name) for name in chunks[turn]])
            if turn == 0:
                continue  # the next chunk is always being read while this one is cleaned and written
            films = dict(zip(chunks[turn - 1], (future.result() for future in waiting.popleft()), strict=True))
            good = {name: film for name, film in films.items() if isinstance(film, np.ndarray)}
            skipped |= {name: str(error) for name, error in films.items() if isinstance(error, DataError)}
            if recipe.clean and good:
                good = dict(zip(good, clean_films(list(good.values()), recipe), strict=True))
            yield from zip(good, pool.map(finish, good.values()), strict=True)
            done(len(films))


def _records(entries: dict[str, Entry], films: Iterable[tuple[str, bytes]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Keyed examples, as `_build` wants them."""
    for key, (name, png) in enumerate(films):
        entry = entries[name]
        yield (
            key,
            {
                # Bytes in a file object: TFDS would need TensorFlow to encode an array.
                "image": io.BytesIO(png),
                "label": entry.labels,
                "id": name,
                "patient": entry.patient,
                "age": entry.age,
                "sex": entry.sex,
                "view": entry.view,
                "bboxes": [
                    {
                        "bbox": tfds.features.BBox(
                            *np.clip([b.top, b.left, b.top + b.height, b.left + b.width], 0.0, 1.0).tolist()
                        ),
                        "label": b.finding,
                    }
                    for b in entry.boxes
                ],
            },
        )


class ChestXRay14(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """ChestX-ray14 films of one size with 14 labels and, on some, boxes (Wang et al., CVPR 2017).

    `records` holds keyed examples per split, `size` is the side of their films. Not registered with TFDS: what there
    is to build depends on a folder, so `prepare` is the way in.
    """

    name = "chest_xray14"
    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, records: dict[str, Iterable[tuple[int, dict[str, Any]]]], size: int, **kwargs: Any):
        self._records, self._size = records, size
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        box = {"bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(names=list(FINDINGS))}
        shape = (self._size, self._size, 1)
        features = {
            "image": tfds.features.Image(shape=shape, dtype=np.uint8, encoding_format="png"),
            "label": tfds.features.Tensor(shape=(len(FINDINGS),), dtype=np.uint8),
            "id": tfds.features.Text(),
            "patient": tfds.features.Text(),
            "age": np.int32,
            "sex": tfds.features.Text(),
            "view": tfds.features.Text(),
            "bboxes": tfds.features.Sequence(box),
        }
        # In the order of the split: `films.csv` then has a row a record.
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> Any:
        return self._records

    def _generate_examples(self) -> Any:
        raise NotImplementedError("the records are given")


def _build(folder: Path, records: dict[str, Iterable[tuple[int, dict[str, Any]]]], size: int) -> Path:
    """Runs the TFDS builder in `folder`; returns where the records lie."""
    tfds.disable_progress_bar()  # ours counts films over all parts
    with redirect_stdout(io.StringIO()):  # nothing is downloaded, whatever it says
        builder = ChestXRay14(records=records, size=size, data_dir=str(folder), file_format="array_record")
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig())
    return Path(builder.data_dir)


def _write_tables(
    folder: Path, entries: dict[str, Entry], written: dict[str, list[str]], skipped: dict[str, str]
) -> None:
    """`films.csv`, a row a record in the records' order; and `skipped.csv` where films were left out."""
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["split", "Image Index", "Patient ID", "age", "sex", "view", *FINDINGS])
        for split, names in written.items():
            for entry in map(entries.__getitem__, names):
                name, patient, sex, view = map(cell, (entry.name, entry.patient, entry.sex, entry.view))
                table.writerow([split, name, patient, entry.age, sex, view, *entry.labels.tolist()])
    if skipped:
        with (folder / SKIPPED).open("w", newline="", encoding="utf-8") as file:
            rows = [map(cell, row) for row in sorted(skipped.items())]
            csv.writer(file).writerows([("Image Index", "reason"), *rows])


def _verify(folder: Path, written: dict[str, list[str]]) -> None:
    """Reads every record's name back: a file cut short by a full disk must not be taken for whole."""
    prepared = _load(folder)
    for split, names in written.items():
        source = prepared.source(split)
        if len(source) != len(names) or any(source[k]["id"].decode() != name for k, name in enumerate(names)):
            raise OSError(f"the {split} records read back differ from what was written")


@command
def main() -> None:
    """The command line: prepares a set, and says where it lies and what it holds."""
    values = flags.FlagValues()
    flags.DEFINE_enum("source", "chestxray14", list(SOURCES), "What lies in the folder.", flag_values=values)
    flags.DEFINE_string("dir", None, "The unpacked folder, or one of simulated films.", flag_values=values)
    flags.DEFINE_string("out", None, "Where runs find them: their data.cache.", flag_values=values)
    flags.DEFINE_integer("size", 256, "Side of the prepared films, in pixels.", lower_bound=16, flag_values=values)
    flags.DEFINE_bool("clean", False, "Remove bright artefacts by scan line, before shrinking.", flag_values=values)
    flags.DEFINE_integer("threshold", THRESHOLD, "Cleaning: least jump, 1 to 255 grey levels.", flag_values=values)
    flags.DEFINE_integer("max_width", MAX_WIDTH, "Cleaning: the widest object, in pixels.", flag_values=values)
    flags.DEFINE_integer("edge_span", 1, "Cleaning: pixels over which a jump may ramp.", flag_values=values)
    flags.DEFINE_string("axes", "rows", "Cleaning: rows, columns, or rows,columns.", flag_values=values)
    flags.DEFINE_bool("spare_wide", False, "Cleaning: leave too wide objects wholly alone.", flag_values=values)
    flags.DEFINE_string("split", "official", "official, arnoweng or folds.", flag_values=values)
    flags.DEFINE_string("lists", "", "The folder of the split's lists; --dir by default.", flag_values=values)
    flags.DEFINE_float("val_fraction", 0.1, "Share of train_val patients held out.", 0.0, 1.0, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Which patients are held out.", flag_values=values)
    flags.DEFINE_bool("skip_unreadable", False, "Go on without unreadable films; list them.", flag_values=values)
    flags.DEFINE_alias("skip-unreadable", "skip_unreadable", flag_values=values)
    if rest := parse(sys.argv, values, __doc__):
        raise ConfigError(f"unexpected argument {rest[0]}: options are written --name=value")
    if not values.dir:
        raise ConfigError(
            "usage: python -m chexjax.data.prepared --source=NAME --dir=FOLDER [--out=DIR]; --help says more"
        )
    names = {field.name: "seed" if field.name == "split_seed" else field.name for field in fields(Recipe)}
    given: dict[str, Any] = {name: values[flag].value for name, flag in names.items()}
    recipe = Recipe(**given)
    try:
        recipe.check()
    except ValueError as error:
        raise ConfigError(f"--{error}") from None
    find_devices()
    out = local_path(values.out, "--out") if values.out else cache_folder()
    prepared = prepare(values.dir, prepared_below(out), recipe)
    print(prepared.summary())
    print(f"prepared films: {prepared.path}")
    cache = f"--config.data.cache={values.out} and " if values.out else ""
    print(f"a run finds them by {cache}--config.data.dir={values.dir}, with the same options")


if __name__ == "__main__":
    main()
