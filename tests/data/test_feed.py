"""Films on the devices: the same batches as streamed ones, whatever the number of devices, over the seam of epochs."""

from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from chexjax.data import feed
from chexjax.data.films import open_films
from chexjax.data.pipeline import batch_films, epoch_order
from chexjax.devices import each_device
from chexjax.errors import ConfigError


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def config(small_baseline: ConfigDict, phantom_folder: Path, cache: str) -> ConfigDict:
    small_baseline.data.update({"source": "chestxray14", "dir": str(phantom_folder), "cache": cache})
    small_baseline.data.val_fraction = 0.3
    return small_baseline


def batches(config: ConfigDict, residence: str, begin: int, steps: int) -> list[dict]:
    """What each step from `begin` on would see, by calls of as many steps as the feed allows."""
    config.data.residence, config.steps_per_call = residence, 3
    source = feed.open_feed(config, open_films(config.data), begin)

    def read(films, seed, begin, step):
        return source.read(films, seed, begin)(step)

    reading = each_device(read, in_axes=(0, None, None, None))
    found = []
    for step in range(begin, begin + steps):
        call = step - (step - begin) % source.most  # several steps share what a call has read
        found.append(jax.device_get(reading(next(source.sources), np.int32(config.seed), call, step)))
    return found


@pytest.mark.parametrize("begin", [0, 7])
def test_resident_films_are_those_that_are_streamed(config: ConfigDict, begin: int) -> None:
    """33 training films in batches of 8 on four devices, 9 on each: three epochs begin within ten steps."""
    films = open_films(config.data)
    count = len(films.parts["train"].names)
    assert count % 8
    assert count % 4
    for step, (one, other) in enumerate(
        zip(*(batches(config, residence, begin, 10) for residence in ("host", "device")), strict=True), start=begin
    ):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])
        np.testing.assert_array_equal(other["film"].ravel(), batch_films(config.seed, step, 8, count))
        np.testing.assert_array_equal(other["label"].reshape(8, 14), films.parts["train"].labels[other["film"].ravel()])


def test_an_order_is_a_permutation_of_its_own_for_each_seed_and_epoch() -> None:
    orders = [np.asarray(epoch_order(seed, epoch, 50)) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_an_order_is_the_same_traced_and_not() -> None:
    traced = jax.jit(epoch_order, static_argnums=2)(np.int32(3), np.int32(5), 1000)
    np.testing.assert_array_equal(traced, epoch_order(3, 5, 1000))


@pytest.mark.parametrize(
    ("free", "message", "most"), [(2 * 9 * 32 * 32, "stay there", 3), (17 * 32 * 32, "streamed", 1)]
)
def test_films_stay_where_they_fill_no_more_than_half(
    config: ConfigDict, monkeypatch, free: int, message: str, most: int
) -> None:
    config.steps_per_call = 3
    monkeypatch.setattr(feed, "free_memory", lambda: free)
    found = feed.open_feed(config, open_films(config.data), 0)
    assert message in found.description
    assert found.most == most


def test_a_batch_that_does_not_divide_is_refused(config: ConfigDict) -> None:
    config.batch_size = 6
    with pytest.raises(ConfigError, match="batch_size 6 is not a multiple of the 4 devices"):
        feed.open_feed(config, open_films(config.data), 0)
