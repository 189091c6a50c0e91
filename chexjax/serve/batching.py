"""Films that wait together go through the networks together: one thread owns the device.

A batch has one of a few sizes, the powers of two up to the largest, and is filled up with black. All are compiled by
`warm_up`, so no film ever waits for a compilation.
"""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from chexjax.data.verdict import Verdict
from chexjax.predict.classifier import Classifier, Ready, Scores

FAILURES: Final = 3  # batches that fail one after the other: the device is not to be trusted any more

Observe = Callable[[int, float], None]  # films of a batch, and the seconds it took


@dataclass
class _Film:
    ready: Ready
    maps: bool
    future: "Future[Scores]" = field(default_factory=Future)


class Batcher:
    """A thread that takes what waits, at most `largest` films, and gives each its own scores.

    The first film of a batch waits at most `wait` seconds for others. While the device is busy they gather anyway.
    """

    def __init__(self, classifier: Classifier, largest: int, wait: float, observe: Observe) -> None:
        self._classifiers = {size: classifier.at_batch_size(size) for size in sizes_up_to(largest)}
        self._largest, self._wait, self._observe = largest, wait, observe
        self._waiting: queue.SimpleQueue[_Film | None] = queue.SimpleQueue()
        self._failures = 0
        self._thread = threading.Thread(target=self._work, name="device", daemon=True)
        self._thread.start()

    @property
    def is_sound(self) -> bool:
        """False where the last batches all failed, or the thread is gone."""
        return self._failures < FAILURES and self._thread.is_alive()

    def warm_up(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Runs each program once, unless told to stop before all are done."""
        for classifier in self._classifiers.values():
            side = classifier.recipe.size
            black = np.zeros((side, side), np.uint8)
            film = Ready("", black, None, black, Verdict())
            for run in (classifier.score, classifier.explain):
                if stop():
                    return
                list(run([film]))

    def submit(self, film: Ready, maps: bool) -> "Future[Scores]":
        """What the networks will say of a film; a `Prediction` if `maps`. One that is cancelled is not computed."""
        waiting = _Film(film, maps)
        self._waiting.put(waiting)
        return waiting.future

    def close(self) -> None:
        """Computes what waits, and ends the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while batch := self._gather():
            wanted = [film for film in batch if film.future.set_running_or_notify_cancel()]
            if wanted:
                self._run(wanted)

    def _gather(self) -> list[_Film]:
        """The next films; [] at the end."""
        first = self._waiting.get()
        if first is None:
            return []
        batch, until = [first], time.monotonic() + self._wait
        while len(batch) < self._largest:
            try:
                film = self._waiting.get(timeout=max(until - time.monotonic(), 0.0))
            except queue.Empty:
                break
            if film is None:
                self._waiting.put(None)  # for the next call
                break
            batch.append(film)
        return batch

    def _run(self, batch: list[_Film]) -> None:
        began = time.perf_counter()
        classifier = self._classifiers[next(size for size in self._classifiers if size >= len(batch))]
        run = classifier.explain if any(film.maps for film in batch) else classifier.score
        try:
            found = list(run([film.ready for film in batch]))
        except Exception as error:  # the device's own, such as for want of memory
            self._failures += 1
            for film in batch:
                film.future.set_exception(error)
            return
        self._failures = 0
        self._observe(len(batch), time.perf_counter() - began)
        for film, scores in zip(batch, found, strict=True):
            film.future.set_result(scores)


def sizes_up_to(largest: int) -> list[int]:
    """The powers of two below `largest`, and `largest`.

    >>> sizes_up_to(6)
    [1, 2, 4, 6]
    """
    return [*(2**k for k in range((largest - 1).bit_length())), largest]
