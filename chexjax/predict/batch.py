"""Predicts many films: reads ahead, batches them, draws overlays in other processes, and keeps a journal.

Memory does not grow with the number of films, and little with their size: after prediction, only a film's small picture
is kept until it is drawn.
"""

import math
import re
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

import chexjax
from chexjax.data import dicom
from chexjax.dicom_out.results import Algorithm, write_results
from chexjax.errors import ChexjaxError, DataError, Interrupted, printable, warn
from chexjax.explain import overlay
from chexjax.explain.evidence import UNPROVEN
from chexjax.explain.maps import boxes_on_film
from chexjax.formats import format_figure, format_name, format_threshold
from chexjax.predict.classifier import Classifier, Prediction, Ready, Scores
from chexjax.predict.drawing import cores, drawing
from chexjax.predict.films import as_judged, without_path
from chexjax.predict.journal import Journal, Record, digest_of, fingerprint, remove_journals
from chexjax.predict.tables import OVERLAYS, write_tables
from chexjax.runtime import progress_bar

LARGE: Final = 4 * 2**20  # bytes of a file whose film takes hundreds of megabytes while it is decoded
LARGE_AT_ONCE: Final = 2
PENDING: Final = 48  # films whose pictures are being drawn
MANY: Final = 32  # films from which on processes that draw are worth their start
_EMPTY: Final = np.zeros((1, 1), np.uint8)


@dataclass(frozen=True)
class Options:
    """Options for predicting many films.

    `overlays`: the most findings drawn per film; 0 for tables alone, without maps or boxes. `strict`: doubtful films
    are refused. `uids`, `paths`: whether to write a table of them. `shard`: (number, count), from 1. `processes`: the
    number that draw; 0 draws in threads, for programs whose main module cannot be imported again. `dicom_out`: the
    folder for DICOM results of DICOM films.
    """

    overlays: int = 3
    strict: bool = False
    uids: bool = False
    paths: bool = False
    shard: tuple[int, int] = (1, 1)
    processes: int = 0
    dicom_out: Path | None = None


@dataclass(frozen=True)
class _Read:
    """A film that was read: `shape` is that of the film, `ready` holds a smaller one for its picture."""

    path: Path
    shape: tuple[int, int]
    ready: Ready
    uids: tuple[str, str, str] | None


def predict_files(
    classifier: Classifier,
    files: dict[str, Path],
    out: Path,
    overlays: int = 3,
    progress: bool = True,
) -> dict[str, str]:
    """Predicts all files and writes the tables, the overlays and the page; returns what could not be read, by name.

    After an interruption, a call with the same arguments continues. The tables and the page get their final names only
    after the last film, so a file with such a name is complete.
    """
    journal = score_films(classifier, files, out, Options(overlays), progress)
    summary = write_tables(out, [journal])
    remove_journals(out)
    return summary.errors


def score_films(
    classifier: Classifier,
    files: dict[str, Path],
    out: Path,
    options: Options,
    progress: bool = True,
    tell: Callable[[Record], None] | None = None,
    about: Record | None = None,
) -> Path:
    """Predicts and draws the files that are not done yet, and returns the journal of all.

    Args:
      files: all files; `options.shard` selects a part of them.
      tell: called with the record of each film when it is done.
      about: saved with the journal, for joining it with those of other shards.

    Raises:
      ConfigError: another process writes to `out`.
      Interrupted: by Ctrl-C; what is done is kept.
    """
    stems, whole = _stems(files), [len(files), digest_of(*files)]
    number, count = options.shard
    start, stop = (len(files) * shard // count for shard in (number - 1, number))
    files = dict(list(files.items())[start:stop])
    journal = Journal(out, head_of(classifier, options), {name: fingerprint(path) for name, path in files.items()})
    try:
        left = {name: path for name, path in files.items() if name not in journal.done}
        if options.overlays:
            (out / OVERLAYS).mkdir(exist_ok=True)
        work = _Work(classifier, options, out, stems)
        with (
            progress_bar(len(files), "predicting", done=len(files) - len(left), shown=progress) as bar,
            drawing(options.processes if len(left) >= MANY and options.overlays else 0) as pool,
        ):
            for record in work.records(left, pool):
                journal.add(record)
                if tell:
                    tell({key: value for key, value in record.items() if key != "seen"})
                bar.update()
        journal.complete({**(about or {}), "films": whole})
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; what is done is kept in {printable(out)}, and the same command goes on"
        ) from None
    except BrokenProcessPool:
        raise ChexjaxError(
            "a process that draws was ended from outside, perhaps for want of memory; the same command goes on"
        ) from None
    finally:
        journal.close()
    return journal.path


def head_of(classifier: Classifier, options: Options) -> Record:
    """The head of a journal: what the tables need, and everything that affects a film's result."""
    return {
        "version": chexjax.__version__,
        "classifier": classifier.identity,
        "step": classifier.step,
        "maps": classifier.maps,
        "map_notes": classifier.map_notes,
        "findings": list(classifier.findings),
        "thresholds": [None if math.isnan(t) else float(t) for t in classifier.thresholds],
        "overlays": options.overlays,
        "strict": options.strict,
        "uids": options.uids,
        "paths": options.paths,
        "dicom_out": options.dicom_out and digest_of(str(options.dicom_out)),
        "shard": list(options.shard),
    }


class _Work:
    """Turns files into lines of the journal."""

    def __init__(self, classifier: Classifier, options: Options, out: Path, stems: dict[str, str]) -> None:
        self.classifier, self.options, self.out, self.stems = classifier, options, out, stems
        self.finding_stems = _stems(classifier.findings)
        self.noted = classifier.map_notes
        self.large = threading.Semaphore(LARGE_AT_ONCE)

    def records(self, files: dict[str, Path], pool: Executor) -> Iterator[Record]:
        """The records of the files, in order, each after its pictures are on disk."""
        waiting: deque[tuple[Record, list[Future[None]]]] = deque()
        for item in self._scored(files):
            waiting.append(self._refused(*item) if isinstance(item[1], str) else self._found(*item, pool))
            while waiting and (len(waiting) > PENDING or all(future.done() for future in waiting[0][1])):
                yield _drawn(waiting.popleft())
        while waiting:
            yield _drawn(waiting.popleft())

    def _scored(self, files: dict[str, Path]) -> Iterator[tuple[Any, Any]]:
        """(_Read, Scores) of a film, or (path, error message with its name) for one that cannot be read."""
        size = self.classifier.batch_size
        with _reading() as readers:
            read = _ahead(readers, self._read, files.items(), ahead=size + 2 * cores())
            while chunk := list(islice(read, size)):
                good = [film for film in chunk if isinstance(film, _Read)]
                ready = [film.ready for film in good]
                found: Iterable[Scores]
                found = self.classifier.explain(ready) if self.options.overlays else self.classifier.score(ready)
                scores = iter(found)
                for film in chunk:
                    yield (film, next(scores)) if isinstance(film, _Read) else film

    def _read(self, item: tuple[str, Path]) -> Any:
        """In a thread: reads a film, and makes a copy no larger than its picture."""
        name, path = item
        try:
            with self.large if _is_large(path) else nullcontext():
                judged = as_judged(path)
                ready = self.classifier.prepare(name, judged)
                shape = judged.pixels.shape
                shown = overlay.reduced(judged.pixels) if self.options.overlays else _EMPTY
            uids = dicom.read_uids(path) if self.options.uids else None
        except (ChexjaxError, OSError, MemoryError) as error:
            reason = error if isinstance(error, ChexjaxError) else type(error).__name__
            return (name, path), without_path(reason, path, name)
        return _Read(path, shape, ready._replace(film=shown, cleaned=None), uids)

    def _refused(self, item: tuple[str, Path], reason: str) -> tuple[Record, list[Future[None]]]:
        name, path = item
        return self._record(name, path) | {"error": reason}, []

    def _found(self, film: _Read, scores: Scores, pool: Executor) -> tuple[Record, list[Future[None]]]:
        """A film's record for the journal, and its pictures in progress."""
        verdict = scores.verdict
        refused = verdict.status == "refused" or (self.options.strict and verdict.status == "doubtful")
        called = [] if refused else scores.called
        found = None if refused else dict(zip(scores.findings, scores.probabilities.tolist(), strict=True))
        record = self._record(scores.name, film.path) | {
            "status": "refused" if refused else verdict.status,
            "reasons": list(verdict.reasons),
            "probabilities": found,
            "called": called,
        }
        if self.options.uids:
            record["uids"] = list(film.uids or ("", "", ""))
        drawings: list[Future[None]] = []
        if isinstance(scores, Prediction):
            shown = [] if refused else (called or scores.ranked[:1])[: self.options.overlays]
            flat = [finding for finding in called if scores.is_flat(finding)]
            boxes: list[list[Any]] = []
            pictures = []
            height, width = film.shape
            for finding in dict.fromkeys([*called, *shown]):
                own = boxes_on_film(scores.map(finding), width, height)
                if finding in called:
                    boxes += [[finding, *box[:4]] for box in own] or [[finding, "", "", "", ""]]
                if finding in shown:
                    name = f"{OVERLAYS}/{self.stems[scores.name]}-{self.finding_stems[finding]}.jpg"
                    drawing = (
                        self.out / name,
                        scores.film,
                        scores.map(finding),
                        own,
                        title_of(scores, finding, self.noted),
                    )
                    drawings.append(pool.submit(overlay.write, *drawing, film.shape))
                    pictures.append([finding, name])
            record |= {"boxes": boxes, "flat": flat, "pictures": pictures}
            if self.options.dicom_out and not refused and dicom.is_dicom(film.path):
                algorithm = Algorithm(self.classifier.restored.digest, self.classifier.step, self.noted)
                where = film.path, scores, film.shape, algorithm, self.options.dicom_out
                drawings.append(pool.submit(_write_dicom, *where))
        return record, drawings

    def _record(self, name: str, path: Path) -> Record:
        record = {"name": name, "seen": fingerprint(path)}
        return record | ({"path": printable(path)} if self.options.paths else {})


def draw(prediction: Prediction, finding: str, path: Path) -> None:
    """Writes the overlay of one finding, as PNG or JPEG by its suffix."""
    boxes = prediction.boxes(finding)
    overlay.write(path, prediction.film, prediction.map(finding), boxes, title_of(prediction, finding))


def _write_dicom(
    path: Path, prediction: Prediction, extent: tuple[int, int], algorithm: Algorithm, folder: Path
) -> None:
    """DICOM results, or a warning why there are none."""
    try:
        write_results(path, prediction, extent, algorithm, folder)
    except DataError as error:
        warn(f"{prediction.name}: {without_path(error, path, prediction.name)}")


def title_of(prediction: Prediction, finding: str, noted: Collection[str] = ()) -> str:
    """The heading of an overlay; `noted` are the findings whose maps were not shown to point."""
    probability, threshold = format_figure(prediction.probability(finding), 3), prediction.threshold(finding)
    flat = "flat map: no place is shown   " if prediction.is_flat(finding) else ""
    flat = flat or (f"{UNPROVEN}   " if finding in noted else "")
    return f"{format_name(finding)} {probability} (threshold {format_threshold(threshold)})   {flat}{prediction.name}"


# Threads


def _is_large(path: Path) -> bool:
    try:
        return path.stat().st_size > LARGE
    except (OSError, ValueError):
        return False  # whoever reads it will say why


@contextmanager
def _reading() -> Iterator[ThreadPoolExecutor]:
    """Threads that read; if the work ends early, pending reads are cancelled."""
    pool = ThreadPoolExecutor(min(cores() + 1, 8))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(pool: Executor, function: Callable[[Any], Any], items: Iterable[Any], ahead: int) -> Iterator[Any]:
    """`map`, with at most `ahead` results waiting to be asked for."""
    items = iter(items)
    waiting = deque(pool.submit(function, item) for item in islice(items, ahead))
    while waiting:
        result = waiting.popleft().result()
        waiting.extend(pool.submit(function, item) for item in islice(items, 1))
        yield result


def _drawn(item: tuple[Record, list[Future[None]]]) -> Record:
    record, drawings = item
    for picture in drawings:
        picture.result()  # raises what went wrong
    return record


# Names of pictures


def _stems(names: Iterable[str]) -> dict[str, str]:
    """A unique file name of plain characters for each name, determined by the names and their order alone."""
    used: set[str] = set()
    counts: Counter[str] = Counter()
    stems = {}
    for name in names:
        stem = plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".")[:120] or "film"
        while stem.lower() in used:
            counts[plain] += 1
            stem = f"{plain}-{counts[plain] + 1}"
        used.add(stem.lower())
        stems[name] = stem
    return stems
