"""Films that wait together go together, each gets its own scores, and no one waits longer than was said."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from chexjax.data.verdict import Verdict
from chexjax.predict.classifier import Ready
from chexjax.serve.batching import Batcher, sizes_up_to


class Echo:
    """A classifier whose scores of a film are the film's name; it notes the batches that it was given."""

    def __init__(self, size: int = 0, batches: list[tuple[int, int, str]] | None = None) -> None:
        self.size, self.batches = size, [] if batches is None else batches
        self.go = threading.Event()
        self.go.set()

    def at_batch_size(self, size: int) -> "Echo":
        other = Echo(size, self.batches)
        other.go = self.go
        return other

    def _run(self, films: list[Ready], kind: str) -> Iterator[str]:
        assert self.go.wait(20)
        self.batches.append((self.size, len(films), kind))
        if any(film.name == "bad" for film in films):
            raise RuntimeError("the device")
        return iter([film.name for film in films])

    def score(self, films: list[Ready]) -> Iterator[str]:
        return self._run(films, "score")

    def explain(self, films: list[Ready]) -> Iterator[str]:
        return self._run(films, "explain")


def film(name: str) -> Ready:
    black = np.zeros((4, 4), np.uint8)
    return Ready(name, black, None, black, Verdict())


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def batcher(echo: Echo) -> Iterator[Batcher]:
    made = Batcher(echo, 6, 0.0, lambda films, seconds: None)
    yield made
    echo.go.set()
    made.close()


@pytest.mark.parametrize(("largest", "sizes"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_the_sizes_of_batches(largest: int, sizes: list[int]) -> None:
    assert sizes_up_to(largest) == sizes


def test_what_gathers_while_the_device_is_busy_goes_together(batcher: Batcher, echo: Echo) -> None:
    echo.go.clear()
    first = batcher.submit(film("0"), False)
    time.sleep(0.05)  # it is on the device now
    rest = [batcher.submit(film(str(k)), k == 5) for k in range(1, 12)]
    echo.go.set()
    assert first.result(20) == "0"
    assert [future.result(20) for future in rest] == [str(k) for k in range(1, 12)]
    assert echo.batches == [(1, 1, "score"), (6, 6, "explain"), (6, 5, "score")]


def test_the_first_waits_for_others_but_not_for_ever(echo: Echo) -> None:
    batcher = Batcher(echo, 4, 0.3, lambda films, seconds: None)
    began = time.monotonic()
    one = batcher.submit(film("a"), False)
    time.sleep(0.1)
    other = batcher.submit(film("b"), False)
    assert (one.result(20), other.result(20)) == ("a", "b")
    assert 0.25 < time.monotonic() - began < 2
    began = time.monotonic()
    assert [f.result(20) for f in [batcher.submit(film(str(k)), False) for k in range(4)]] == list("0123")
    assert time.monotonic() - began < 0.25  # a full batch does not wait
    assert echo.batches == [(2, 2, "score"), (4, 4, "score")]
    batcher.close()


def test_what_is_cancelled_is_not_computed(batcher: Batcher, echo: Echo) -> None:
    echo.go.clear()
    batcher.submit(film("0"), False)
    time.sleep(0.05)
    gone, kept = batcher.submit(film("gone"), True), batcher.submit(film("kept"), False)
    assert gone.cancel()
    echo.go.set()
    assert kept.result(20) == "kept"
    assert echo.batches[1:] == [(1, 1, "score")]


def test_failures_reach_who_waits_and_end_with_a_success(batcher: Batcher) -> None:
    for _ in range(3):
        assert batcher.is_sound
        with pytest.raises(RuntimeError, match="the device"):
            batcher.submit(film("bad"), False).result(20)
    assert not batcher.is_sound
    assert batcher.submit(film("good"), False).result(20) == "good"
    assert batcher.is_sound


def test_what_waits_is_finished_before_it_ends(echo: Echo) -> None:
    batcher = Batcher(echo, 2, 5.0, lambda films, seconds: None)
    echo.go.clear()
    futures = [batcher.submit(film(str(k)), False) for k in range(5)]
    threading.Timer(0.1, echo.go.set).start()
    began = time.monotonic()
    batcher.close()
    assert [future.result(0) for future in futures] == list("01234")
    assert time.monotonic() - began < 4  # the last waits for no one
    assert not batcher.is_sound


def test_it_warms_up_every_program_unless_it_is_told_to_stop(batcher: Batcher, echo: Echo, monkeypatch) -> None:
    class Recipe:
        size = 4

    monkeypatch.setattr(Echo, "recipe", Recipe, raising=False)
    batcher.warm_up()
    assert echo.batches == [(size, 1, kind) for size in (1, 2, 4, 6) for kind in ("score", "explain")]
    echo.batches.clear()
    batcher.warm_up(lambda: len(echo.batches) == 3)
    assert len(echo.batches) == 3
