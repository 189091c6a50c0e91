"""What happens to a film, whichever door it comes through: admitted, read, scored in a batch, drawn.

All of it is called from threads and waits there. A film is a file's content in memory; nothing is written to disk, and
no name that came with it is kept.
"""

import base64
import io
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

import chexjax
from chexjax.data.verdict import Status
from chexjax.dicom_out.results import Algorithm, encode_results
from chexjax.errors import ChexjaxError, ConfigError, DataError
from chexjax.explain import overlay
from chexjax.explain.maps import MapBox, boxes_on_film
from chexjax.predict.batch import LARGE, LARGE_AT_ONCE, cores, title_of
from chexjax.predict.classifier import Classifier, Prediction, Scores, clean_film
from chexjax.predict.films import as_judged
from chexjax.serve.answers import Answer, Box, Finding, Model, Overlay
from chexjax.serve.batching import Batcher
from chexjax.serve.metrics import Metrics

OVERLAYS: Final = 3  # pictures of a film, at most
_SIDES: Final = (512, 1024, 2048, 4096)  # what most films are padded to where they are cleaned
_COMPRESSION: Final = 1  # of a PNG: a third larger than at 6, in a quarter of the time
_EMPTY: Final = np.zeros((1, 1), np.uint8)


class Busy(ChexjaxError):
    """As many requests as are taken at once are under way."""


class Late(ChexjaxError):
    """A film's time was up before its turn came."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is taken at once, and at most.

    Attributes:
      batch: films that go through the networks at once.
      wait: seconds that the first of them waits for others.
      queue: requests under way, of all doors together.
      body: bytes of a request, or of a film by C-STORE.
      timeout: seconds for a request's body to arrive, and again for a film to be read and scored.
    """

    batch: int = 8
    wait: float = 0.005
    queue: int = 64
    body: int = 64 * 2**20
    timeout: float = 30.0

    def __post_init__(self) -> None:
        low = {"batch": 1, "wait": 0, "queue": 1, "body": 1, "timeout": 0.001}
        for name, least in low.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name):g}; it must be at least {least:g}")


@dataclass(frozen=True)
class Found:
    """What was found of a film, and its (height, width) as it is shown."""

    scores: Scores
    extent: tuple[int, int]
    status: Status


class Service:
    """A classifier for many callers at once."""

    def __init__(self, classifier: Classifier, limits: Limits, metrics: Metrics, strict: bool = False) -> None:
        """`strict` refuses what is doubtful."""
        self.classifier, self.limits, self.metrics, self.strict = classifier, limits, metrics, strict
        self.is_ready = False
        self.is_closing = False
        self._map_notes = classifier.map_notes
        self._batcher = Batcher(classifier, limits.batch, limits.wait, metrics.observe_batch)
        self._slots = threading.BoundedSemaphore(limits.queue)
        self._readers = threading.Semaphore(cores() + 1)
        self._large = threading.Semaphore(LARGE_AT_ONCE)
        self._model = Model(
            checkpoint=classifier.restored.digest,
            step=classifier.step,
            version=chexjax.__version__,
            networks=list(classifier.restored.models),
            calibrated=classifier.is_calibrated,
        )

    # Its life

    def warm_up(self) -> None:
        """Compiles every program that a film of usual size can need; ready after that."""
        self._batcher.warm_up(lambda: self.is_closing)
        if self.classifier.recipe.clean:
            for height in _SIDES:
                for width in _SIDES:
                    if 0.5 <= width / height <= 2 and not self.is_closing:
                        clean_film(np.zeros((height, width), np.uint8), self.classifier.recipe)
        self.is_ready = not self.is_closing

    @property
    def is_sound(self) -> bool:
        """Whether the device still computes."""
        return self._batcher.is_sound

    def close(self) -> None:
        """Finishes what is under way and takes nothing more."""
        self.is_closing, self.is_ready = True, False
        self._batcher.close()

    # A film

    def enter(self) -> Callable[[], None]:
        """Takes a place among the requests under way; returns what gives it back, once.

        Raises:
          Busy: all are taken.
        """
        if not self._slots.acquire(blocking=False):
            raise Busy(f"{self.limits.queue} requests are under way; try again in a moment")
        self.metrics.under_way.inc()
        left = threading.Lock()

        def leave() -> None:
            if left.acquire(blocking=False):
                self.metrics.under_way.dec()
                self._slots.release()

        return leave

    def predict(self, film: bytes, maps: bool, door: str) -> Found:
        """Reads and scores a film; `maps` keeps what pictures and boxes are made from.

        Raises:
          DataError: it cannot be read.
          Late: its turn did not come in time.
        """
        until = time.monotonic() + self.limits.timeout
        try:
            found = self._predict(film, maps, until)
        except DataError:
            self.metrics.count_film(door, "unreadable")
            raise
        self.metrics.count_film(door, found.status)
        return found

    def _predict(self, film: bytes, maps: bool, until: float) -> Found:
        with ExitStack() as taken:
            if len(film) > LARGE:
                taken.enter_context(_taken(self._large, until))
            taken.enter_context(_taken(self._readers, until))
            try:
                judged = as_judged(film)
                ready = self.classifier.prepare("", judged)
                shown = overlay.reduced(judged.pixels) if maps else _EMPTY
            except MemoryError:
                raise DataError("a file: there is no memory for its pixels") from None
        extent = judged.pixels.shape
        future = self._batcher.submit(ready._replace(film=shown, cleaned=None), maps)
        try:
            scores = future.result(timeout=max(until - time.monotonic(), 0.0))
        except FutureTimeout:
            future.cancel()
            raise _late() from None
        status = scores.verdict.status
        return Found(scores, (extent[0], extent[1]), "refused" if self.strict and status == "doubtful" else status)

    def answer(self, found: Found, maps: bool) -> Answer:
        """The same as it is sent; `maps` adds boxes and pictures of what is called, or else of the first finding."""
        scores, (height, width) = found.scores, found.extent
        refused = found.status == "refused"
        pictures = maps and not refused and isinstance(scores, Prediction)
        called = scores.called
        shown = (called or scores.ranked[:1])[:OVERLAYS] if pictures else []
        boxes = {name: _boxes(scores, name, found.extent) for name in {*called, *shown}} if pictures else {}
        return Answer(
            status=found.status,
            reasons=list(scores.verdict.reasons),
            width=width,
            height=height,
            distance=_known(scores.distance),
            findings=[] if refused else [
                Finding(
                    finding=name,
                    probability=scores.probability(name),
                    threshold=_known(scores.threshold(name)),
                    called=None if math.isnan(scores.threshold(name)) else name in called,
                    boxes=[Box(*box[:4]) for box in boxes[name]] if pictures and name in called else None,
                    map_note=self._map_notes.get(name) if pictures else None,
                )
                for name in scores.ranked
            ],
            overlays=[Overlay(name, self._png(scores, name, boxes[name], found.extent)) for name in shown],
            model=self._model,
        )  # fmt: skip

    def results(self, film: bytes, found: Found) -> list[bytes]:
        """DICOM results of a DICOM film that was predicted with maps: files as for an archive; none of a refused one.

        Raises:
          DataError: its header lacks what they must refer to.
        """
        if found.status == "refused":
            return []
        assert isinstance(found.scores, Prediction)
        algorithm = Algorithm(self.classifier.restored.digest, self.classifier.step, self._map_notes)
        return list(encode_results(io.BytesIO(film), "a film", found.scores, found.extent, algorithm).values())

    def _png(self, scores: Scores, finding: str, boxes: list[MapBox], extent: tuple[int, int]) -> str:
        assert isinstance(scores, Prediction)
        title = title_of(scores, finding, self._map_notes).rstrip()
        picture = overlay.annotate(scores.film, scores.map(finding), boxes, title, extent=extent)
        file = io.BytesIO()
        picture.save(file, "png", compress_level=_COMPRESSION)
        return base64.b64encode(file.getvalue()).decode()


@contextmanager
def _taken(semaphore: threading.Semaphore, until: float) -> Iterator[None]:
    if not semaphore.acquire(timeout=max(until - time.monotonic(), 0.0)):
        raise _late()
    try:
        yield
    finally:
        semaphore.release()


def _late() -> Late:
    return Late("the film's turn did not come in time; try again later")


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _boxes(scores: Scores, finding: str, extent: tuple[int, int]) -> list[MapBox]:
    assert isinstance(scores, Prediction)
    return boxes_on_film(scores.map(finding), extent[1], extent[0])
