"""Training films, either streamed from the prepared records or resident on the devices.

Both give the same films at the same step, for any number of devices and processes (see `pipeline.epoch_order`), so a
resumed run may switch between them and still end with the same weights.
"""

import itertools
import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from chexjax.data.pipeline import Records, check_batch, epoch_order, epoch_slots, training_batches
from chexjax.data.prepared import Prepared
from chexjax.data.sources.gather import named_sources
from chexjax.devices import AXIS, each_device, prefetch
from chexjax.runtime import progress_bar

Batch = dict[str, jax.Array]
# (source, seed, begin) -> the function from a step to this device's share of its batch; all traced.
Read = Callable[[Any, jax.Array, jax.Array], Callable[[jax.Array], Batch]]


@dataclass(frozen=True)
class Feed:
    """Where the compiled steps of `steps.create_steps` take films from.

    Each call takes the next item of `sources`, from which `read` reads; a call runs at most `most` steps. `description`
    says in words where the films are.
    """

    read: Read
    sources: Iterator[Any]
    most: int
    description: str


class Resident(NamedTuple):
    """The films of a split in the devices' memory, film k on device k // (films a device); the last is padded.

    `image` uint8 (devices, films, height, width, 1), `label` float32 (devices, films, findings).
    """

    image: Any
    label: Any


def open_feed(config: ConfigDict, films: Prepared, begin: int) -> Feed:
    """The training films for the steps from `begin` on, as `config.data.residence` says.

    "auto" keeps the films on the devices if they fill at most half of the free memory there.

    Raises:
      ConfigError: the batch size is not a multiple of the number of devices times `config.accumulate`.
    """
    count, size, slots = len(films.parts["train"].names), config.batch_size, training_slots(config, films)
    check_batch(size, config.accumulate)
    needed = -(-count // jax.device_count()) * films.size**2
    free = free_memory()
    residence = config.data.residence
    if residence == "auto":
        residence = "device" if needed <= free // 2 else "host"
    sums = f"{count} training films of {films.size} px are {needed / 2**20:,.0f} MiB a device, {free / 2**20:,.0f} free"
    if residence == "host":
        batches = training_batches(films.source("train"), size, config.seed, config.data.threads, slots)
        # The n-th batch belongs to the n-th step.
        batches.set_state({"next_index": begin})
        prefetched = prefetch(batches, 2)
        return Feed(lambda batch, seed, begin: lambda step: batch, prefetched, 1, f"{sums}: they are streamed")
    resident = load_films(films, "train", config.data.threads)
    length = count if slots is None else len(slots)
    read = partial(shuffled, films=length, batch_size=size, slots=slots)
    # A call reads the order of two epochs, so it must not reach a third.
    most = max(min(config.steps_per_call, length // size), 1)
    return Feed(read, itertools.repeat(resident), most, f"{sums}: they stay there, {most} steps a call")


def training_slots(config: ConfigDict, films: Prepared) -> np.ndarray | None:
    """How often an epoch shows each training film, by the weight of its source; see `pipeline.epoch_slots`."""
    weights = {label: weight for label, (_, _, weight) in named_sources(config.data).items()}
    return epoch_slots(films.parts["train"].sources, weights) if len(weights) > 1 else None


def free_memory() -> int:
    """The free bytes of the fullest device; a CPU's virtual devices share the machine's memory."""
    device = jax.local_devices()[0]
    memory = device.memory_stats() or {}
    if "bytes_limit" in memory:
        free = memory["bytes_limit"] - memory["bytes_in_use"]
    else:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") // jax.local_device_count()
    if jax.process_count() > 1:
        free = int(multihost_utils.process_allgather(np.int64(free // 2**20)).min()) * 2**20
    return free


def peak_memory() -> int:
    """The peak of bytes in use so far: of the first device or, if it does not report one, of the process."""
    memory = jax.local_devices()[0].memory_stats() or {}
    return memory.get("peak_bytes_in_use") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def load_films(films: Prepared, split: str, threads: int) -> Resident:
    """Reads a split into the devices' memory; each process reads what its own devices keep."""
    records = Records(films.source(split))
    share = -(-len(records) // jax.device_count())
    devices = each_device(lambda x: jax.lax.axis_index(AXIS))(np.zeros(jax.local_device_count()))
    kept = [k for device in np.asarray(devices) for k in range(device * share, (device + 1) * share)]
    images = np.zeros((len(kept), films.size, films.size, 1), np.uint8)
    labels = np.zeros((len(kept), films.parts[split].labels.shape[1]), np.float32)
    real = [(row, film) for row, film in enumerate(kept) if film < len(records)]
    stream = grain.MapDataset.source([film for _, film in real]).map(records.__getitem__)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=16 * threads)
    with progress_bar(len(real), "loading films", shown=jax.process_index() == 0, kept=False) as bar:
        for (row, _), record in zip(real, stream.to_iter_dataset(options), strict=True):
            images[row], labels[row] = record["image"], record["label"]
            bar.update(1)
    devices = jax.local_device_count()
    shaped = (x.reshape(devices, share, *x.shape[1:]) for x in (images, labels))
    return Resident(*each_device(lambda image, label: (image, label))(*shaped))


def shuffled(
    resident: Resident, seed: jax.Array, begin: jax.Array, films: int, batch_size: int,
    slots: np.ndarray | None = None,
) -> Callable[[jax.Array], Batch]:  # fmt: skip
    """Traced, on each device: the batches of the steps from `begin` on, as `pipeline.training_batches` gives them.

    Each device selects the films of the batch that it keeps, and sends each to the device whose share it belongs to.
    """
    epoch = begin * batch_size // films
    order = jnp.concatenate([epoch_order(seed, epoch, films), epoch_order(seed, epoch + 1, films)])

    def batch(step: jax.Array) -> Batch:
        film = order[step * batch_size + jnp.arange(batch_size) - epoch * films]
        film = film if slots is None else jnp.asarray(slots)[film]
        row = film - jax.lax.axis_index(AXIS) * len(resident.label)
        here = (row >= 0) & (row < len(resident.label))

        def give(kept: jax.Array) -> jax.Array:
            picked = kept[jnp.clip(row, 0, len(kept) - 1)]
            mine = jnp.where(here.reshape(-1, *[1] * (picked.ndim - 1)), picked, 0)
            return jax.lax.psum_scatter(mine, AXIS, tiled=True)

        share = batch_size // jax.lax.axis_size(AXIS)
        mine = jax.lax.dynamic_slice_in_dim(film, jax.lax.axis_index(AXIS) * share, share)
        return {"image": give(resident.image), "label": give(resident.label), "film": mine}

    return batch
