"""Batches: every film, in an order that the seed decides, for any number of processes, from any place."""

import io
from collections import Counter

import jax
import numpy as np
import pytest
from PIL import Image

from chexjax.data import pipeline
from chexjax.errors import ConfigError

FILMS = 21


class Source:
    """Records whose film, label and number can be told from each other."""

    def __len__(self) -> int:
        return FILMS

    def __getitem__(self, film: int) -> dict:
        buffer = io.BytesIO()
        Image.fromarray(np.full((4, 4), film, np.uint8)).save(buffer, "png")
        return {"image": buffer.getvalue(), "label": np.full(14, film % 2, np.uint8), "id": b"x"}


def take(batches, count: int) -> list[list[int]]:
    return [next(batches)["film"].ravel().tolist() for _ in range(count)]


def test_batches_are_sharded_and_consistent() -> None:
    batch = next(pipeline.training_batches(Source(), 8, seed=0))
    assert batch["image"].shape == (4, 2, 4, 4, 1)
    assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.float32)
    np.testing.assert_array_equal(batch["image"][..., 0, 0, 0], batch["film"])
    np.testing.assert_array_equal(batch["label"][..., 0], batch["film"] % 2)


def test_each_epoch_holds_every_film_once_in_an_order_of_its_own() -> None:
    batches = take(pipeline.training_batches(Source(), 8, seed=3), 8)
    films = [film for batch in batches for film in batch]  # 64: three epochs of 21
    epochs = [films[k * FILMS : (k + 1) * FILMS] for k in range(3)]
    assert all(sorted(epoch) == list(range(FILMS)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_order_is_decided_by_the_seed() -> None:
    first, again, other = (take(pipeline.training_batches(Source(), 8, seed), 4) for seed in (1, 1, 2))
    assert first == again != other


def test_an_iterator_goes_on_from_its_place() -> None:
    batches = pipeline.training_batches(Source(), 8, seed=1)
    take(batches, 3)
    position = batches.get_state()
    rest = take(batches, 5)
    resumed = pipeline.training_batches(Source(), 8, seed=1)
    resumed.set_state(position)
    assert take(resumed, 5) == rest
    resumed.set_state({"next_index": 3})  # the loop's own way: a place is a step
    assert take(resumed, 5) == rest


def test_two_processes_share_the_batches_of_one(monkeypatch) -> None:
    whole = take(pipeline.training_batches(Source(), 8, seed=1), 6)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    shares = []
    for process in range(2):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        shares.append(take(pipeline.training_batches(Source(), 8, seed=1), 6))
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [sorted(batch) for batch in whole]


@pytest.mark.parametrize("size", [0, 6])
def test_a_batch_that_does_not_divide_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=f"batch_size {size} is not a multiple of the 4 devices"):
        pipeline.training_batches(Source(), size, seed=0)


@pytest.mark.parametrize("size", [4, 7, 64])
def test_evaluation_sees_each_film_once_in_order_and_masks_the_rest(size: int) -> None:
    batches = list(pipeline.evaluation_batches(Source(), size))
    assert len({batch["image"].shape for batch in batches}) == 1
    seen = [batch["film"].ravel()[batch["mask"].ravel()] for batch in batches]
    np.testing.assert_array_equal(np.concatenate(seen), np.arange(FILMS))


@pytest.mark.parametrize("processes", [2, 5, 30])
def test_evaluation_over_processes_has_as_many_batches_each(processes: int, monkeypatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    monkeypatch.setattr(jax, "device_count", lambda: 4 * processes)
    seen: Counter[int] = Counter()
    counts = set()
    for process in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        batches = list(pipeline.evaluation_batches(Source(), 4))
        counts.add(len(batches))
        for batch in batches:
            seen.update(batch["film"].ravel()[batch["mask"].ravel()].tolist())
    assert len(counts) == 1
    assert seen == Counter(range(FILMS))
