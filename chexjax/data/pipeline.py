"""Prepared records to batches on the devices: shuffled, shared among processes, threaded, resumable.

A batch is a dict of arrays with a leading axis of local devices: `image` uint8 (devices, films, height, width, 1),
`label` float32 (devices, films, findings), NaN where not known, `film` int32 (devices, films), the record numbers; in
evaluation also `mask` bool (devices, films), False for the padding of the last batch.
"""

import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import grain
import jax
import numpy as np
from PIL import Image

from chexjax.errors import ConfigError

Batch = dict[str, np.ndarray]
ENDLESS: Final = 2**40  # more films than any run will see


class Records:
    """A prepared split as a random-access source of decoded films; `len(records)`, `records[k]`."""

    def __init__(self, source: Any):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, film: Any) -> dict[str, np.ndarray]:
        record = self._source[int(film)]
        with Image.open(io.BytesIO(record["image"])) as image:
            pixels = np.asarray(image)
        return {
            "image": pixels[..., None],
            "label": np.asarray(record["label"], np.float32),
            "film": np.asarray(film, np.int32),
        }

    def __repr__(self) -> str:
        """grain compares this when it restores an iterator; the default, an address, would never be equal."""
        return f"Records({len(self)})"


def epoch_order(seed: jax.Array | int, epoch: jax.Array | int, films: int) -> jax.Array:
    """The order in which an epoch shows `films` films: a permutation, int32 (films,); traced or not.

    The shuffled stream runs seamlessly from epoch to epoch: films left over after an epoch's last full batch begin the
    next one, so every batch is full and no film is dropped.
    """
    # No step has this number, so the order's key differs from every augmentation's.
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2**32 - 1), epoch)
    return jax.random.permutation(key, films)


def batch_films(seed: int, step: int, batch_size: int, films: int) -> np.ndarray:
    """The record numbers of a step's global batch, int (batch_size,), in order."""
    return np.array([_film_at(seed, position, films) for position in range(step * batch_size, (step + 1) * batch_size)])


def _film_at(seed: int, position: int, films: int) -> int:
    """The record number at a position of the shuffled stream."""
    epoch, position = divmod(position, films)
    return _order_on_host(seed, epoch, films)[position]


@lru_cache(maxsize=4)
def _order_on_host(seed: int, epoch: int, films: int) -> np.ndarray:
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return np.asarray(epoch_order(seed, epoch, films))


def epoch_slots(sources: Sequence[str], weights: Mapping[str, float]) -> np.ndarray | None:
    """The record at each position of an unshuffled epoch, int32 (positions,), if sources have weights.

    Films of the source with the smallest weight are shown once an epoch, those of a source with w times that weight w
    times. If w is not whole, a fixed part of its films is shown once more. None if all weights are equal.
    """
    own = {source: weights[source] for source in dict.fromkeys(sources)}
    if len(set(own.values())) < 2:
        return None
    slots = [np.zeros(0, np.int32)]
    for source, weight in own.items():
        rows = np.flatnonzero(np.array([name == source for name in sources])).astype(np.int32)
        ratio = weight / min(own.values())
        more = round((ratio - int(ratio)) * len(rows))
        slots += [rows] * int(ratio) + [np.random.default_rng(0).permutation(rows)[:more]]
    return np.sort(np.concatenate(slots))


def check_batch(batch_size: int, parts: int = 1) -> None:
    """Refuses a global batch that the devices of all processes cannot share evenly, each its share in `parts`.

    Raises:
      ConfigError: `batch_size` is not a multiple of their number, or of that times `parts`.
    """
    if batch_size < 1 or batch_size % jax.device_count():
        raise ConfigError(f"batch_size {batch_size} is not a multiple of the {jax.device_count()} devices")
    if batch_size % (jax.device_count() * parts):
        raise ConfigError(
            f"batch_size {batch_size} is not a multiple of {jax.device_count()} devices times accumulate {parts}"
        )


def training_batches(
    source: Any, batch_size: int, seed: int, threads: int = 2, slots: np.ndarray | None = None
) -> grain.DatasetIterator:
    """An endless iterator over shuffled batches of `batch_size` films, this process's share of each.

    The n-th global batch holds the films that `batch_films` gives, however many processes share it. `get_state()`
    returns the iterator's position (a small dict), `set_state()` goes there.

    Args:
      source: random access to records, as `Prepared.source("train")` gives it.
      batch_size: films in a global batch; a multiple of the number of devices of all processes.
      slots: see `epoch_slots`; `batch_films` then gives positions in it.

    Raises:
      ConfigError: `batch_size` is not such a multiple.
    """
    check_batch(batch_size)
    records, share = Records(source), batch_size // jax.process_count()
    first = jax.process_index() * share

    def read(position: Any) -> dict[str, np.ndarray]:
        step, position = divmod(int(position), share)
        film = _film_at(seed, step * batch_size + first + position, len(records) if slots is None else len(slots))
        return records[film if slots is None else slots[film]]

    batches = grain.MapDataset.range(ENDLESS).map(read).batch(share, drop_remainder=True).map(by_device)
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)))


def evaluation_batches(source: Any, batch_size: int, threads: int = 2) -> Iterator[Batch]:
    """Batches over this process's share of the films (every n-th of n processes), in order, each film once.

    All batches of all processes have one shape; short ones are padded, with `mask` False.
    """
    records = Records(source)
    processes, process = jax.process_count(), jax.process_index()
    batch_size = -(-batch_size // jax.device_count()) * jax.local_device_count()
    share = grain.MapDataset.source(records)[process::processes]
    batches = share.batch(batch_size, drop_remainder=False)
    count = -(-len(records) // (processes * batch_size))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    # A process without films left still takes part in every step, with an empty batch.
    empty = {key: np.zeros((0, *np.shape(value)), np.asarray(value).dtype) for key, value in records[0].items()}
    for batch in itertools.chain(batches.to_iter_dataset(options), itertools.repeat(empty, count - len(batches))):
        yield by_device(pad(batch, batch_size))


def pad(batch: Batch, size: int) -> Batch:
    """The batch padded with zeros to `size` films, with the `mask` of the real ones."""
    count = len(batch["label"])
    padded = {key: np.concatenate([x, np.zeros((size - count, *x.shape[1:]), x.dtype)]) for key, x in batch.items()}
    return padded | {"mask": np.arange(size) < count}


def by_device(batch: Batch) -> Batch:
    """(films, ...) -> (local devices, films a device, ...)."""
    devices = jax.local_device_count()
    return {key: x.reshape(devices, len(x) // devices, *x.shape[1:]) for key, x in batch.items()}
