"""The folder of simulated films, in the layout of ChestX-ray14."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Final

from ml_collections import ConfigDict
from PIL import Image

from chexjax.data.recipe import cache_of
from chexjax.data.sources.phantom.drawing import ARTIFACTS, Film, FindingBox, render_film
from chexjax.data.sources.phantom.table import plan_films
from chexjax.errors import ConfigError, DataError
from chexjax.files import folder_path, own_folder
from chexjax.runtime import progress_bar

VERSION: Final = 1  # raise it when a seed gives different films: cached films are then drawn again
ENTRY_HEADER: Final = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOX_HEADER: Final = "Image Index,Finding Label,Bbox [x,y,w,h],,,"


def open_folder(config: ConfigDict) -> Path:
    """The folder of the simulated films that `config.data` describes, drawn if the cache lacks it.

    Raises:
      ConfigError: `data.dir` names a folder, or an option cannot be used.
      DataError: the cache cannot be written to.
    """
    folder = cache_of(config) / "phantom" / _name(config.phantom)
    if config.dir:
        raise ConfigError(
            f"config.data.dir is {config.dir}, but data.source is phantom, simulated films\n"
            "for real films choose --config=configs/dml.py:chestxray14, or add --config.data.source=chestxray14"
        )
    if not folder.is_dir():
        try:
            write_films(folder, **config.phantom, workers=config.threads)
        except DataError:
            if not folder.is_dir():  # else another run was faster; its films are the same
                raise
    return folder


def _name(phantom: ConfigDict) -> str:
    """A folder name for simulated films, from all options that change them."""
    described = json.dumps([VERSION, phantom.to_dict()], sort_keys=True)
    return f"{phantom.count}-{phantom.size}px-{hashlib.sha256(described.encode()).hexdigest()[:8]}"


def write_films(
    out: str | Path,
    *,
    count: int = 2000,
    size: int = 256,
    seed: int = 0,
    rare_share: float = 0.07,
    artifact_share: float = 0.2,
    artifact_kinds: Sequence[str] = ARTIFACTS,
    cue_finding: str | None = None,
    cue_share: float = 0.9,
    workers: int = 1,
    progress: bool = True,
) -> None:
    """Writes a folder of simulated films in the layout of ChestX-ray14; `plan_films` gives its table.

    The folder appears whole or not at all: it is written beside `out` under a hidden name and renamed at the end. What
    a run leaves that is killed outright, the next one removes.

    Args:
      out: the folder; it must not exist, or be empty.
      count: number of films.
      size: width and height of the PNGs in pixels. Boxes are in units of 1,024 to the width, as the real ones are.
      seed: equal seeds give equal bytes.
      rare_share: share of films with the rarest finding; see `prevalence`. 0 gives the real prevalences.
      artifact_share: share of films with bright artefacts (pacemaker, wires, tubes, letters).
      artifact_kinds: which of `ARTIFACTS` may occur.
      cue_finding: a finding whose films carry artefacts with chance `cue_share` instead: a spurious cue. The folder of
        the same seed without it holds the same films without the cue.
      cue_share: see `cue_finding`.
      workers: processes that draw. Above 1, a script needs the usual `if __name__ == "__main__"`.
      progress: shows a bar on stderr.

    Raises:
      ConfigError: an argument cannot be used.
      DataError: `out` is not empty, or cannot be written.
    """
    if not 32 <= size <= 4096:
        raise ConfigError(f"size is {size}: it must lie between 32 and 4096 pixels")
    if workers < 1:
        raise ConfigError(f"workers is {workers}: at least one is needed")
    films = plan_films(
        count,
        seed=seed,
        rare_share=rare_share,
        artifact_share=artifact_share,
        artifact_kinds=artifact_kinds,
        cue_finding=cue_finding,
        cue_share=cue_share,
    )
    target = folder_path(out, "--out").absolute()
    part: Path | None = None
    try:
        if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
            raise DataError(f"{out} exists and is not an empty folder: films are written into a new one")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = own_folder(target.parent, f".{target.name}")
        _write_folder(part, films, size, workers, progress)
        os.replace(part, target)
    except OSError as error:
        raise DataError(f"cannot write the films to {out}: {error.strerror or error}") from error
    except BrokenProcessPool as error:
        raise DataError(
            "a process that drew films ended early, most often for want of memory: use fewer workers"
        ) from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def _write_folder(folder: Path, films: Sequence[Film], size: int, workers: int, progress: bool) -> None:
    (folder / "images").mkdir()
    write = partial(_write_film, folder / "images", size)
    boxes: list[str] = []
    with progress_bar(len(films), "simulated films", shown=progress) as bar:
        for film, found in zip(films, _map(write, films, workers), strict=True):
            boxes += [_box_row(film, box) for box in found]
            bar.update()
    names = [film.name for film in films]
    _write_lines(folder / "Data_Entry_2017_v2020.csv", [ENTRY_HEADER, *map(_entry_row, films)])
    _write_lines(folder / "BBox_List_2017.csv", [BOX_HEADER, *boxes])
    _write_lines(folder / "train_val_list.txt", [n for n, film in zip(names, films, strict=True) if not film.in_test])
    _write_lines(folder / "test_list.txt", [n for n, film in zip(names, films, strict=True) if film.in_test])


def _map(write: Callable[[Film], list[FindingBox]], films: Sequence[Film], workers: int) -> Iterator[list[FindingBox]]:
    """`map`, in order, over one or several processes; they are spawned, because a forked JAX may hang."""
    if workers == 1:
        yield from map(write, films)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_follow_parent) as pool:
        try:
            yield from pool.map(write, films, chunksize=16)
        finally:
            pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Leaves Ctrl-C, which reaches every process, to the parent, and ends with it, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _write_film(folder: Path, size: int, film: Film) -> list[FindingBox]:
    image, boxes = render_film(film, size)
    Image.fromarray(image).save(folder / film.name, compress_level=3)
    return boxes


def _entry_row(film: Film) -> str:
    return (
        f"{film.name},{film.labels},{film.follow_up},{film.patient},{film.age},{film.sex},{film.view},"
        "2992,2991,0.143,0.143"
    )


def _box_row(film: Film, found: FindingBox) -> str:
    """A row like those of the real list, with its name for Infiltration and three empty columns."""
    name = "Infiltrate" if found.finding == "Infiltration" else found.finding
    return ",".join([film.name, name, *(f"{value:.6f}" for value in found.box), "", "", ""])


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
