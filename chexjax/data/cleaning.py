"""Removes bright objects from a film or a folder of films: reads, cleans by scan line, writes, and compares."""

import csv
import itertools
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from chexjax import scanline
from chexjax.data.images import SUFFIXES, read_grey
from chexjax.errors import DataError, printable
from chexjax.files import PARTIAL, cell, folder_path, whole
from chexjax.runtime import progress_bar

BATCH: Final = 16  # films cleaned at once
WAITING: Final = 4 * BATCH  # films in memory at most
TABLE: Final = "changed.csv"
UNFINISHED: Final = f"{TABLE}{PARTIAL}"  # names the films of a run that has not ended
COLUMNS: Final = ("Image Index", "changed_share", "changed_pixels", "path")


class Job(NamedTuple):
    """A film to clean, and where its results go."""

    source: Path
    name: Path  # relative to the input folder and to the output folder
    cleaned: Path
    sheet: Path


def clean_files(source: Path, out: Path, cleaning: Mapping[str, Any], compare: bool = False) -> dict[Path, str]:
    """Cleans a film or a folder of films into `out`; returns the films that could not be read.

    Writes PNGs under the films' own names, `changed.csv` with the share of pixels changed, and with `compare` a sheet
    `sheets/NAME` for each film: before, after, difference. What an earlier run wrote into `out` is removed, even if
    that run was interrupted.

    Args:
      cleaning: arguments of `scanline.remove_artifacts`, as `Recipe.cleaning` gives them.

    Raises:
      DataError: the input is missing or empty, or an output would overwrite an input.
    """
    jobs = _plan(source, out)
    broken: dict[Path, str] = {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        _remove_old(out, jobs)
        _clean_jobs(jobs, out, cleaning, compare, broken)
    except OSError as error:
        raise DataError(f"cannot write to --out={out}: {error}") from error
    if broken and not source.is_dir():
        raise DataError(broken[source])
    return broken


def _clean_jobs(
    jobs: list[Job], out: Path, cleaning: Mapping[str, Any], compare: bool, broken: dict[Path, str]
) -> None:
    """Reads and writes in threads while the device computes; memory holds a few batches, whatever the folder's size."""
    rows: dict[Path, tuple[str, str]] = {}
    # Should this be killed, the next run knows what to remove.
    _write_table(out / UNFINISHED, ((job.name, "", "") for job in jobs))
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress_bar(len(jobs), "cleaning") as bar:
        for batch in _batches(jobs, pool, broken, bar):
            films = np.stack([film for _, film in batch])
            films = np.concatenate([films, np.zeros_like(films[:1]).repeat(min(BATCH, len(jobs)) - len(films), axis=0)])
            cleaned, mask = jax.device_get(scanline.remove_artifacts(films, **cleaning, return_mask=True))
            writing = [
                pool.submit(_write, job, film, cleaned[index], mask[index], compare)
                for index, (job, film) in enumerate(batch)
            ]
            for index, (job, film) in enumerate(batch):
                writing[index].result()
                changed = int(mask[index].sum())
                rows[job.name] = (f"{changed / film.size:.6f}", str(changed))
            bar.update(len(batch))
    with whole(out / TABLE) as partial:
        _write_table(partial, ((job.name, *rows[job.name]) for job in jobs if job.name in rows))


def _plan(source: Path, out: Path) -> list[Job]:
    if source.is_dir():
        names = sorted(
            path.relative_to(source) for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()
        )
        folder = source
    elif source.is_file():
        names, folder = [Path(source.name)], source.parent
    else:
        raise DataError(f"{source}: no such file or folder")
    if not names:
        raise DataError(f"{source}: no film in it or below it (looked for {', '.join(SUFFIXES)})")
    folder_path(out, "--out")
    real_out, real_folder = (Path(os.path.realpath(path)) for path in (out, folder))
    if real_out == real_folder or (source.is_dir() and real_folder in real_out.parents):
        raise DataError(f"--out={out} lies in the input folder {folder}: films would be overwritten, or cleaned twice")
    jobs = []
    for name in names:
        written = Path(_written(name.as_posix()))
        jobs.append(Job(folder / name, name, out / written, out / "sheets" / written))
    _check_outputs(jobs)
    return jobs


def _written(name: str) -> str:
    """The PNG that a film becomes."""
    return name if name.lower().endswith(".png") else f"{name}.png"


def _remove_old(out: Path, jobs: Sequence[Job]) -> None:
    """Removes an earlier table and the pictures that it names, so that each picture in `out` has a row in the new one.

    A film that is to be read stays, and so does what no table names. A run that was killed has left a partial table.
    """
    tables = [out / TABLE, out / UNFINISHED]
    named = {_written(name) for table in tables for name in _names(table)}
    if not named:
        return
    sources = {os.path.realpath(job.source) for job in jobs}
    for path in [path for path in out.rglob("*") if path.suffix.lower() == ".png"]:
        name = path.relative_to(out).as_posix()
        is_named = not named.isdisjoint(map(_cell, (name, name.removeprefix("sheets/"))))
        if is_named and os.path.realpath(path) not in sources:
            path.unlink()
    for table in tables:
        table.unlink(missing_ok=True)


def _names(table: Path) -> list[str]:
    """The paths in a table of ours; none if it is absent or somebody else's."""
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            return [row[-1] for row in rows if len(row) == len(COLUMNS)] if tuple(next(rows, ())) == COLUMNS else []
    except (FileNotFoundError, ValueError, csv.Error):
        return []


def _check_outputs(jobs: Sequence[Job]) -> None:
    """Refuses two films with one output, and an output that is an input."""
    sources = {os.path.realpath(job.source) for job in jobs}
    taken: dict[str, Path] = {}
    for job in jobs:
        for path in (job.cleaned, job.sheet):
            real = os.path.realpath(path)
            if real in sources:
                raise DataError(f"{path}: this film would be overwritten; choose another --out")
            if taken.setdefault(real, job.source) != job.source:
                raise DataError(f"{taken[real]} and {job.source} would both become {path}; rename one")


def _batches(
    jobs: Iterable[Job], pool: ThreadPoolExecutor, broken: dict[Path, str], bar: Any
) -> Iterator[list[tuple[Job, np.ndarray]]]:
    """Batches of `BATCH` films of equal size, so each size is compiled once, whatever the order of the files.

    At most `WAITING` films wait for others of their size; beyond that, the largest group goes out incomplete.
    """
    waiting: dict[tuple[int, ...], list[tuple[Job, np.ndarray]]] = defaultdict(list)
    jobs = iter(jobs)
    while some := list(itertools.islice(jobs, BATCH)):
        for job, film in zip(some, pool.map(_read_or_reason, some), strict=True):
            if isinstance(film, str):
                broken[job.source] = film
                bar.update(1)
                continue
            same = waiting[film.shape]
            same.append((job, film))
            if len(same) == BATCH:
                yield waiting.pop(film.shape)
            elif sum(map(len, waiting.values())) > WAITING:
                yield waiting.pop(max(waiting, key=lambda shape: len(waiting[shape])))
    yield from waiting.values()


def _read_or_reason(job: Job) -> np.ndarray | str:
    try:
        return read_grey(job.source)
    except DataError as error:
        return str(error)


def _write(job: Job, before: np.ndarray, after: np.ndarray, mask: np.ndarray, compare: bool) -> None:
    for path, wanted in ((job.cleaned, True), (job.sheet, compare)):
        if wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            sheet = path == job.sheet
            image = comparison(before, after, mask, printable(job.name)) if sheet else Image.fromarray(after)
            image.save(path, format="PNG")


def comparison(before: np.ndarray, after: np.ndarray, mask: np.ndarray, title: str = "") -> Image.Image:
    """A sheet of three panels: before, after, and the film dimmed with its changed pixels in colour.

    Red pixels became darker, blue ones brighter; stronger colours mean larger changes. All (H, W): uint8, uint8, bool.
    """
    change = np.where(mask, after.astype(np.int16) - before, 0)[..., None]
    strength = 128 + np.abs(change) // 2
    colour = np.where(change < 0, np.array([1, 0.25, 0.1]), np.array([0.2, 0.5, 1])) * strength
    difference = np.where(mask[..., None], colour, before[..., None] * 0.45).astype(np.uint8)
    height, width = before.shape
    size = max(10, min(28, width // 28))
    font, bar = ImageFont.load_default(size), size + 10
    sheet = Image.new("RGB", (3 * width, height + bar), "black")
    draw = ImageDraw.Draw(sheet)
    labels = (f"before  {title}", "after", f"{mask.mean():.3%} changed: red darker, blue brighter")
    for index, (panel, label) in enumerate(zip((before, after, difference), labels, strict=True)):
        sheet.paste(Image.fromarray(panel), (index * width, bar))
        while len(label) > 1 and draw.textlength(label, font=font) > width - 8:
            label = label[:-1]
        draw.text((index * width + 4, 3), label, fill="white", font=font)
    return sheet


def _write_table(path: Path, rows: Iterable[tuple[Path, str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows([_cell(name.name), share, changed, _cell(name.as_posix())] for name, share, changed in rows)


def _cell(name: str) -> str:
    return cell(printable(name))
