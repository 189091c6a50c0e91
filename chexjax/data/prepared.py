"""Prepares films once: reads and checks a source's tables, cleans and shrinks its films, writes them as ArrayRecord.

`prepare` handles a folder in the NIH's layout with its own lists, `prepare_source` all that `config.data` allows.
"""

if __name__ == "__main__":
    from chexjax.commands.prepare import main  # without the libraries below: --help needs none
    from chexjax.runtime import run

    run(main)

import csv
import hashlib
import io
import json
import math
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from PIL import Image

from chexjax.data import dicom
from chexjax.data.dicom import read_judged
from chexjax.data.images import MAX_SIDE, JudgedFilm, Placement
from chexjax.data.recipe import CHUNK, Recipe, clean_films, shrink
from chexjax.data.sources import NIH_LAYOUT, nih, open_folder
from chexjax.data.sources.entries import Box, why_missing
from chexjax.data.sources.gather import gather
from chexjax.data.sources.merge import Collection, Counts, count_by_source
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
from chexjax.errors import DataError, first_ten, printable, warn
from chexjax.files import cell, local_path, manifest_troubles, own_folder, text_of, write_manifest
from chexjax.findings import read_findings
from chexjax.runtime import progress_bar

VERSION: Final = "1.1.0"
TABLE: Final = "films.csv"  # beside the records, in the same order
SKIPPED: Final = "skipped.csv"
MISSING: Final = "missing"
NO_ROW: Final = "the entry file has no row for them"
ORIGINS: Final = "sources.csv"  # the source of each film, unless all are from one NIH folder
_COLUMNS: Final = ("split", "Image Index", "Patient ID", "age", "sex", "view")  # of `TABLE`, before the findings
_SMALL: Final = 16 << 20  # bytes; files up to this size are hashed whenever a set is opened


@dataclass(frozen=True)
class Part:
    """One part of the split, in the order of its records.

    `labels` is float32 (films, findings): 0 absent, 1 present, between them soft, NaN not known. `sources` names the
    source of each film; it is empty if all are from one folder in the NIH's layout.
    """

    names: tuple[str, ...]
    patients: tuple[str, ...]
    labels: np.ndarray
    sources: tuple[str, ...] = ()

    @property
    def known(self) -> np.ndarray:
        """The number of films where each finding is known, int (findings,)."""
        return (~np.isnan(self.labels)).sum(axis=0)

    @property
    def positives(self) -> np.ndarray:
        """The number of films labelled 1 for each finding, int (findings,)."""
        return (self.labels == 1).sum(axis=0)

    @property
    def healthy(self) -> int:
        """The number of films known to have none of the findings."""
        return int((self.labels == 0).all(axis=1).sum())


class Source:
    """Records by number, as TFDS gives them; `description` names them in messages."""

    def __init__(self, source: Any, description: str):
        self._source, self._description = source, description

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, record: int) -> dict[str, Any]:
        try:
            return self._source[record]
        except (RuntimeError, OSError) as error:  # ArrayRecord verifies the hash of each chunk that it reads
            reason = str(error).splitlines()[0]
            raise _rotten(self._description, f"seen at record {record}: {reason}") from None


@dataclass(frozen=True)
class Prepared:
    """A prepared set: its folder, its digest and its content.

    `findings` names the columns of the labels.
    """

    path: Path
    digest: str
    size: int
    findings: tuple[str, ...]
    parts: dict[str, Part]

    def source(self, split: str) -> Any:
        """A random-access source of the split's records, as TFDS gives them; films are still PNG bytes."""
        builder = tfds.builder_from_directory(str(self.path))
        source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
        return Source(source, f"the {split} records in {self.path}")

    def sources(self) -> dict[str, Counts]:
        """The counts of each source over all parts; empty if all films are from one folder in the NIH's layout."""
        parts = [part for part in self.parts.values() if part.sources]
        labels = np.concatenate([part.labels for part in parts]) if parts else np.zeros((0, len(self.findings)))
        sources = [source for part in parts for source in part.sources]
        return count_by_source(sources, [patient for part in parts for patient in part.patients], labels)

    def summary(self) -> str:
        """One line per part: films, patients, films without a finding, the rarest finding, unknown labels."""
        lines = []
        for name, part in self.parts.items():
            rarest = int(part.positives.argmin())
            unknown = int(np.isnan(part.labels).sum())
            lines.append(
                f"{name:>5}: {len(part.names):6d} films, {len(set(part.patients)):5d} patients, "
                f"{part.healthy:6d} without a finding, rarest {self.findings[rarest]} ({part.positives[rarest]})"
                + (f", {unknown:,} of {part.labels.size:,} labels are not known" if unknown else "")
            )
        for source, count in self.sources().items():
            pairs = zip(self.findings, count.positives, count.known, strict=True)
            labels = ", ".join(f"{finding} {positive:,}/{known:,}" for finding, positive, known in pairs)
            films = f"{source}: {count.films:,} films, {count.patients:,} patients"
            lines.append(f"{films}, positive of known: {labels}")
        if (self.path / SKIPPED).exists():
            lines.append(f"films were left out: {self.path / SKIPPED}")
        return "\n".join(lines)


def prepare(folder: str | Path, out: str | Path, recipe: Recipe, progress: bool = True) -> Prepared:
    """Finds the prepared set of `folder` and `recipe` below `out`, or makes it.

    The set gets its name only when complete: it is written to a temporary folder, verified, then renamed.

    Raises:
      DataError: something is wrong with the folder (see `nih`), films are missing or do not decode (all are counted,
        the first ten named), or the records cannot be written.
    """
    folder, out = local_path(folder, "the folder of films"), local_path(out, "the folder of prepared films")
    entries = read_entries(folder)
    lists = Path(recipe.lists).expanduser() if recipe.lists else folder
    unknown: list[str] | None = [] if recipe.skip_unreadable else None
    splits = read_splits(folder, entries, recipe.split, lists, recipe.val_fraction, recipe.split_seed, unknown)
    found, missing = find_films(folder, (name for names in splits.values() for name in names))
    skipped = _check_missing(missing, {folder: film_folders(folder)}, recipe, unknown or ())
    digest = _digest(folder, recipe, lists, splits, found)
    return _find_or_write(out / "chest_xray14", digest, nih.FINDINGS, entries, splits, found, skipped, recipe, progress)


def prepare_source(config: ConfigDict, out: str | Path, recipe: Recipe, progress: bool = True) -> Prepared:
    """Like `prepare`, for the films of `config` (a `config.data`): any source, several sources, chosen findings.

    Prints how the sources' names map to the findings, and the sources' notes.

    Raises:
      ConfigError: see `sources.gather`.
      DataError: see there and `prepare`.
    """
    if is_nih_alone(config):
        return prepare(open_folder(config), out, recipe, progress)
    films, parts = gather(config)
    if progress:
        print(films.about())
    return prepare_collection(films, parts, out, recipe, progress)


def prepare_collection(
    films: Collection, parts: Mapping[str, Sequence[int]], out: str | Path, recipe: Recipe, progress: bool = True
) -> Prepared:
    """The same of the rows of `films` that each of `parts` lists: "train", "val" and "test", or some of them.

    Raises:
      DataError: see `prepare`.
    """
    out = local_path(out, "the folder of prepared films")
    rows = [row for listed in parts.values() for row in listed]
    paths = films.find(rows)
    found = {films.names[row]: path for row, path in zip(rows, paths, strict=True) if path is not None}
    missing = [films.names[row] for row, path in zip(rows, paths, strict=True) if path is None]
    searched = {entries.folder: entries.subfolders for entries in films.parts.values()}
    skipped = _check_missing(missing, searched, recipe)
    splits = {part: [films.names[row] for row in listed] for part, listed in parts.items()}
    entries = {films.names[row]: _entry(films, row) for row in rows}
    digest = _digest_of_entries(recipe, films.findings, entries, splits, found)
    return _find_or_write(out / "films", digest, films.findings, entries, splits, found, skipped, recipe, progress)


def is_nih_alone(config: ConfigDict) -> bool:
    """Whether `config.data` is one folder in the NIH's layout, with all its findings and its own lists."""
    chosen = config.get("findings") or config.get("sources") or config.split not in nih.SPLIT_NAMES
    if config.source not in NIH_LAYOUT or chosen:
        return False
    if config.source == "phantom" or config.split != "official":
        return True
    lists = Path(config.lists).expanduser() if config.lists else None
    return not nih.is_sample(Path(config.dir).expanduser(), lists)


def _entry(films: Collection, row: int) -> Entry:
    name = films.names[row]
    return Entry(
        name=name,
        labels=films.labels[row],
        patient=films.patients[row],
        age=int(films.ages[row]),
        sex=films.sexes[row],
        view=films.views[row],
        boxes=films.boxes.get(name, ()),
        source=films.sources[row],
    )


def _check_missing(
    missing: Sequence[str], searched: Mapping[Path, Sequence[Path]], recipe: Recipe, unknown: Sequence[str] = ()
) -> dict[str, str]:
    """The films that are left out, with reasons; warns with their number.

    `searched` are the folders of the sources, and where in them films were looked for.
    """
    if missing and not recipe.skip_unreadable:
        folders = ", ".join(printable(folder) for folder in searched)
        lines = [line for folder, below in searched.items() for line in why_missing(folder, below, missing)]
        raise DataError(
            "\n".join(
                [
                    f"films are listed but missing in {folders}, {first_ten(missing)}",
                    *lines,
                    "to go on without them: --skip-unreadable (data.skip_unreadable)",
                ]
            )
        )
    skipped = dict.fromkeys(unknown, NO_ROW) | dict.fromkeys(missing, MISSING)
    for reason, count in Counter(skipped.values()).items():
        warn(f"{count:,} films of the lists are left out: {reason}")
    return skipped


def _find_or_write(
    out: Path, digest: str, findings: Sequence[str], entries: Mapping[str, Entry],
    splits: Mapping[str, Sequence[str]], found: Mapping[str, Path], skipped: dict[str, str], recipe: Recipe,
    progress: bool,
) -> Prepared:  # fmt: skip
    final = out / f"{recipe.size}px-{'clean-' if recipe.clean else ''}{digest[:12]}" / VERSION
    if not final.exists():
        try:
            write_set(final, findings, entries, splits, found, skipped, recipe, progress)
        except (OSError, RuntimeError) as error:  # ArrayRecord raises RuntimeError when the disk is full
            raise DataError(f"the prepared films cannot be written to {out.parent}: {error}") from error
    return load(final)


def load(path: str | Path) -> Prepared:
    """Opens a prepared set by its folder.

    The manifest is checked: the size of each file and the content of small ones. ArrayRecord checks the large ones, the
    records, while they are read; hashing 7 GB at every start would take too long.

    Raises:
      DataError: the folder holds no prepared set, or a damaged one.
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
        columns: dict[str, list[tuple[str, str, list[float]]]] = {part: [] for part in SPLITS}
        with (path / TABLE).open(newline="", encoding="utf-8") as file:
            table = csv.reader(file)
            head = next(table)
            first = len(_COLUMNS)
            if tuple(head[:first]) != _COLUMNS:
                raise ValueError(f"{TABLE} has other columns")
            findings = read_findings([text_of(name) for name in head[first:]])
            for row in table:
                if len(row) != len(head):
                    raise ValueError(f"{TABLE}, line {table.line_num}: {len(row)} cells for {len(head)} columns")
                split, name, patient = row[0], text_of(row[1]), text_of(row[2])
                columns[split].append((name, patient, [_label(label) for label in row[first:]]))
        origins = _read_origins(path)
    except (
        OSError,
        StopIteration,
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
            np.array([labels for _, _, labels in rows], np.float32).reshape(-1, len(findings)),
            tuple(origins.get(name, "") for name, _, _ in rows) if origins else (),
        )
        for split, rows in columns.items()
    }
    return Prepared(path, path.parent.name.rsplit("-", 1)[-1], size, findings, parts)


def _read_origins(path: Path) -> dict[str, str]:
    """The source of each film by its name; empty where all are the NIH's."""
    if not (path / ORIGINS).is_file():
        return {}
    with (path / ORIGINS).open(newline="", encoding="utf-8") as file:
        return {text_of(row["Image Index"]): text_of(row["source"]) for row in csv.DictReader(file)}


_LABELS: Final = {"0": 0.0, "1": 1.0, "": math.nan}  # nearly every cell


def _label(cell: str) -> float:
    """A label as `_label_cell` wrote it.

    Raises:
      ValueError: it is no label.
    """
    label = _LABELS.get(cell)
    if label is None:
        label = float(cell)
        if not 0.0 <= label <= 1.0:
            raise ValueError(f"a label of {cell!r}")
    return label


def _label_cell(label: float) -> str:
    """A float32 label, exact to the last bit; an unknown one is an empty cell."""
    return "" if math.isnan(label) else f"{label:.9g}"


def _check_classes(tree: Any) -> None:
    """TFDS imports any module that `features.json` names, so only its own are allowed.

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
    """A hash of the inputs: the recipe, the text of the tables, the split, and each film's name and size in bytes.

    A film's size stands for its content: hashing 45 GB would take as long as preparing them.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps({**recipe.identity(), "version": VERSION}, sort_keys=True).encode())
    first, second, *later = ENTRY_FILES  # a table added to the format later counts only if it is there
    for name in (first, second, BOX_FILE, *(name for name in later if (folder / name).is_file())):
        digest.update((folder / name).read_bytes() if (folder / name).is_file() else b"absent")
    for names in (ENTRY_FILES, (BOX_FILE,)):
        table = find_table(folder, *names, report=False)
        if table is not None and table.name not in names:  # see `nih`
            digest.update(table.read_bytes())
    sizes = {name: found[name].stat().st_size for name in sorted(found)}
    digest.update(json.dumps([splits, sizes], sort_keys=True).encode())
    return digest.hexdigest()


def _digest_of_entries(
    recipe: Recipe, findings: Sequence[str], entries: Mapping[str, Entry], splits: Mapping[str, Sequence[str]],
    found: Mapping[str, Path],
) -> str:  # fmt: skip
    """Like `_digest`, of what the tables became: labels of the run's findings, patients, boxes."""
    digest = hashlib.sha256()
    rows = [[e.name, e.patient, e.age, e.sex, e.view, e.source, list(map(astuple, e.boxes))] for e in entries.values()]
    sizes = {name: found[name].stat().st_size for name in sorted(found)}
    identity = {**recipe.identity(), "version": VERSION}
    if any(path.suffix.lower() in dicom.SUFFIXES for path in found.values()):
        identity["dicom"] = dicom.READER
    digest.update(json.dumps([identity, list(findings), splits, sizes, rows], sort_keys=True).encode())
    digest.update(np.stack([entry.labels for entry in entries.values()]).tobytes())
    return digest.hexdigest()


def write_set(
    final: Path, findings: Sequence[str], entries: Mapping[str, Entry], splits: Mapping[str, Sequence[str]],
    found: Mapping[str, Path], skipped: dict[str, str], recipe: Recipe, progress: bool = True,
) -> None:  # fmt: skip
    """Writes the set beside `final`, verifies it, and renames it; leaves nothing behind if that fails.

    Args:
      findings: the names of the entries' labels, in their order.
      entries: by film name; those in no split are ignored.
      splits: the film names of "train", "val" and "test".
      found: the file of each film that exists.
      skipped: reasons by film name; films that do not decode are added.

    Raises:
      DataError: a part has no film, or films do not decode and the recipe does not skip them.
      ValueError: `findings` are no names of findings.
    """
    findings = read_findings(list(findings))
    work = own_folder(final.parent, "preparing")
    try:
        names = {split: [name for name in listed if name in found] for split, listed in splits.items()}
        for split, present in names.items():
            if not present:
                raise DataError(
                    f"not one of the {len(splits[split])} films of the {split} part was found\n"
                    "--split=random (data.split) divides all films by patient instead"
                )
        total = sum(map(len, names.values()))
        with progress_bar(total, f"preparing {recipe.size} px", shown=progress) as bar:
            refused: dict[str, str] = {}
            films = {
                split: _read_films(listed, found, recipe, skipped, refused, bar.update)
                for split, listed in names.items()
            }
            records = {split: _records(entries, pairs) for split, pairs in films.items()}
            built = _build(work, findings, records, recipe.size)
        broken = [f"{name} ({reason})" for name, reason in skipped.items() if name in found]
        if broken and not recipe.skip_unreadable:
            raise DataError(
                f"films do not decode, {first_ten(broken)}\n"
                "replace them, or go on without them with --skip-unreadable (data.skip_unreadable)"
            )
        if refused:
            shown = first_ten([f"{name} ({reasons})" for name, reasons in refused.items()])
            warn(f"films are kept that `predict` would refuse for what their files say, {shown}")
        written = {split: [name for name in listed if name not in skipped] for split, listed in names.items()}
        _write_tables(built, findings, entries, written, skipped)
        _verify(built, written)
        write_manifest(built)
        built.rename(final)
    except OSError:
        if not final.exists():  # otherwise another process was faster, with the same films
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


class Placed(NamedTuple):
    """How a film lies to its file, and the film's size: boxes are those of the file."""

    placement: Placement
    height: int
    width: int

    def move(self, box: Box) -> Box:
        """The box in shares of the film."""
        box = box.in_shares(*self.placement.file_size(self.height, self.width))
        left, top, width, height = self.placement.move(box.left, box.top, box.width, box.height)
        return replace(box, left=left, top=top, width=width, height=height)


def _read_films(
    names: Sequence[str], found: Mapping[str, Path], recipe: Recipe, skipped: dict[str, str], refused: dict[str, str],
    done: Callable[[int], Any],
) -> Iterator[tuple[str, bytes, Placed]]:  # fmt: skip
    """Names, prepared PNG bytes, and where boxes lie, in order; films that do not decode go to `skipped`.

    What is no frontal chest film by its own header goes to `refused` with the reasons, and is kept: the table is right.
    """

    def read(name: str) -> JudgedFilm | DataError:
        try:
            return read_judged(found[name])
        except DataError as error:
            return error

    def finish(film: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(shrink(film, recipe.size, recipe.enlarge)).save(buffer, "png")
        return buffer.getvalue()

    chunks = [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)]
    # Pillow releases the interpreter lock while it decodes and encodes, so threads suffice.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting: deque[list[Future[JudgedFilm | DataError]]] = deque()
        for k in range(len(chunks) + 1):
            if k < len(chunks):
                waiting.append([pool.submit(read, name) for name in chunks[k]])
            if k == 0:
                continue  # the next chunk is read while this one is cleaned and written
            films = dict(zip(chunks[k - 1], (future.result() for future in waiting.popleft()), strict=True))
            judged = {name: film for name, film in films.items() if isinstance(film, JudgedFilm)}
            good = {name: film.pixels for name, film in judged.items()}
            skipped |= {name: str(error) for name, error in films.items() if isinstance(error, DataError)}
            worst = {name: film.verdict for name, film in judged.items() if film.verdict.status == "refused"}
            refused |= {name: "; ".join(verdict.reasons) for name, verdict in worst.items()}
            if recipe.clean and good:
                good = dict(zip(good, clean_films(list(good.values()), recipe), strict=True))
            placed = [Placed(film.placement, *film.pixels.shape) for film in judged.values()]
            yield from zip(good, pool.map(finish, good.values()), placed, strict=True)
            done(len(films))


def _records(
    entries: Mapping[str, Entry], films: Iterable[tuple[str, bytes, Placed]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Keyed examples, as `_build` wants them."""
    for key, (name, png, placed) in enumerate(films):
        entry = entries[name]
        yield (
            key,
            {
                # Bytes in a file object: TFDS would need TensorFlow to encode an array.
                "image": io.BytesIO(png),
                "label": np.asarray(entry.labels, np.float32),
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
                    for b in map(placed.move, entry.boxes)
                ],
            },
        )


class Films(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Films of one size with a label for each of `findings` and, on some, boxes.

    `records` holds keyed examples per split, `size` is the side of their films. Not registered with TFDS, because
    what it builds depends on a folder: use `prepare`. Older sets are called "chest_xray14"; TFDS takes names from
    files.
    """

    name = "films"
    VERSION = tfds.core.Version(VERSION)

    def __init__(
        self,
        *,
        findings: Sequence[str],
        records: Mapping[str, Iterable[tuple[int, dict[str, Any]]]],
        size: int,
        **kwargs: Any,
    ):
        self._findings, self._records, self._size = list(findings), records, size
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        box = {"bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(names=self._findings)}
        shape = (self._size, self._size, 1)
        features = {
            "image": tfds.features.Image(shape=shape, dtype=np.uint8, encoding_format="png"),
            "label": tfds.features.Tensor(shape=(len(self._findings),), dtype=np.float32),
            "id": tfds.features.Text(),
            "patient": tfds.features.Text(),
            "age": np.int32,
            "sex": tfds.features.Text(),
            "view": tfds.features.Text(),
            "bboxes": tfds.features.Sequence(box),
        }
        # In the order of the split, so `films.csv` has one row per record.
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> Any:
        return self._records

    def _generate_examples(self) -> Any:
        raise NotImplementedError("the records are given")


def _build(
    folder: Path, findings: Sequence[str], records: Mapping[str, Iterable[tuple[int, dict[str, Any]]]], size: int
) -> Path:
    """Runs the TFDS builder in `folder`; returns the folder of the records."""
    tfds.disable_progress_bar()  # our bar counts films over all parts
    with redirect_stdout(io.StringIO()):  # nothing is downloaded, despite the name
        builder = Films(findings=findings, records=records, size=size, data_dir=str(folder), file_format="array_record")
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig())
    return Path(builder.data_dir)


def _write_tables(
    folder: Path,
    findings: Sequence[str],
    entries: Mapping[str, Entry],
    written: dict[str, list[str]],
    skipped: dict[str, str],
) -> None:
    """Writes `films.csv`, one row per record in their order, and `skipped.csv` if films were left out."""
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([*_COLUMNS, *map(cell, findings)])
        for split, names in written.items():
            for entry in map(entries.__getitem__, names):
                name, patient, sex, view = map(cell, (entry.name, entry.patient, entry.sex, entry.view))
                labels = map(_label_cell, np.asarray(entry.labels, np.float32).tolist())
                table.writerow([split, name, patient, entry.age, sex, view, *labels])
    origins = [(name, entries[name].source) for names in written.values() for name in names]
    if any(source for _, source in origins):
        with (folder / ORIGINS).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("Image Index", "source"), *(map(cell, row) for row in origins)])
    if skipped:
        with (folder / SKIPPED).open("w", newline="", encoding="utf-8") as file:
            rows = [map(cell, row) for row in sorted(skipped.items())]
            csv.writer(file).writerows([("Image Index", "reason"), *rows])


def _verify(folder: Path, written: dict[str, list[str]]) -> None:
    """Reads every record's name back, in case a full disk cut a file short."""
    prepared = _load(folder)
    for split, names in written.items():
        source = prepared.source(split)
        if len(source) != len(names) or any(source[k]["id"].decode() != name for k, name in enumerate(names)):
            raise OSError(f"the {split} records read back differ from what was written")
