"""The cost of input: decoding, cleaning and shrinking; reading prepared records; training with and without it.

    python -m benchmarks.input [--dir=NIH_FOLDER] [--films=512] [--model=resnet18] [--size=64] [--batch=16] [--rounds=5]

- originals: decode, clean by scan line, shrink (one thread: films a second a core), beside Pillow alone, which decodes
  and shrinks. Films from `--dir` (or ../shared/nih-sample, CHEXJAX_REAL_DATA); else simulated ones of 1024 px.
- records: films a second that grain reads from prepared records, with 1, 2, ... threads.
- training: steps with films in the devices' memory, and with streamed ones, beside the same steps on a batch that never
  changes. The ratio is the share of the step's own throughput that remains. Simulated films of `--size`.
"""

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from benchmarks.contest import Results, finish, here, introduce, parser_of, table, take_turns
from chexjax.configs import baseline
from chexjax.data.feed import open_feed, peak_memory
from chexjax.data.films import open_films
from chexjax.data.images import read_grey
from chexjax.data.pipeline import training_batches
from chexjax.data.prepared import Prepared
from chexjax.data.recipe import Recipe, clean_films, shrink
from chexjax.data.sources.phantom import write_films
from chexjax.devices import AXIS, each_device, replicate
from chexjax.training.state import create_network, create_state
from chexjax.training.steps import Context, Fixed, create_steps

CHUNK = 16  # films that are cleaned in one call


def originals(folder: Path | None, work: Path) -> list[Path]:
    """Film files of full size."""
    shared = Path(os.environ.get("CHEXJAX_REAL_DATA", Path(__file__).resolve().parents[2] / "shared")) / "nih-sample"
    for base in (folder, shared):
        if base and (found := sorted(base.glob("**/images/*.png"))):
            return found[: 2 * CHUNK]
    write_films(work / "originals", count=2 * CHUNK, size=1024, seed=0, progress=False)
    return sorted((work / "originals").glob("**/*.png"))


def prepare_films(paths: list[Path], size: int) -> list[np.ndarray]:
    """What preparing does to a chunk of originals."""
    return [shrink(film, size) for film in clean_films([read_grey(path) for path in paths], Recipe(size=size), CHUNK)]


def with_pillow(paths: list[Path], size: int) -> list[np.ndarray]:
    """Decoding and shrinking, nothing else."""
    films = []
    for path in paths:
        with Image.open(path) as film:
            films.append(np.asarray(film.convert("L").resize((size, size), Image.Resampling.BOX)))
    return films


def records_a_second(films: Prepared, threads: int, batch: int, seconds: float) -> float:
    """Films a second out of prepared records."""
    batches = training_batches(films.source("train"), batch, 0, threads)
    next(batches)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        next(batches)
        count += batch
    return count / (time.perf_counter() - began)


def trainers(config: Any, films: Prepared, steps: int) -> dict[str, Callable[[], None]]:
    """Functions that do `steps` steps each, and differ in where their films come from."""
    context = Context(config, np.full(14, 0.1))
    network = create_network(config, "net1", axis_name=AXIS)
    fixed = replicate(Fixed(np.int32(config.seed)))

    def trainer(read: Any, sources: Any, most: int) -> Callable[[], None]:
        step = create_steps(context, read, most)
        state = create_state(config, "net1", network, (films.size, films.size, 1), 10_000)
        progress = {"states": replicate((state,)), "step": 0}

        def run() -> None:
            done = 0
            while done < steps:
                count = min(most, steps - done)
                begin = np.int32(progress["step"])
                progress["states"], measured = step(progress["states"], next(sources), fixed, begin, np.int32(count))
                done, progress["step"] = done + count, progress["step"] + count
            jax.block_until_ready((progress["states"], measured))

        return run

    found = {}
    for name, residence in (("films on the device", "device"), ("films streamed", "host")):
        config.data.residence = residence
        feed = open_feed(config, films, 0)
        found[name] = trainer(feed.read, feed.sources, feed.most)
    batch = each_device(lambda x: x)(next(training_batches(films.source("train"), config.batch_size, 0)))
    found["one batch again and again"] = trainer(
        lambda batch, seed, begin: lambda step: batch, itertools.repeat(batch), config.steps_per_call
    )
    return found


def main(argv: Sequence[str] | None = None) -> Results:
    """Prints three tables."""
    parser = parser_of(__doc__)
    parser.add_argument("--dir", type=Path, help="an NIH folder with originals")
    parser.add_argument("--films", type=int, default=512, help="simulated films to train on")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=here(64, 224))
    parser.add_argument("--batch", type=int, default=here(16, 256))
    parser.add_argument("--dtype", default=here("float32", "bfloat16"))
    parser.add_argument("--steps", type=int, default=here(4, 40), help="a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    introduce(f"input, {options.model} at {options.size} px, batch {options.batch}, {options.dtype}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        paths = originals(options.dir, work)[:CHUNK]
        ours, pillow = "decode, clean, shrink", "Pillow: decode, shrink"
        times = take_turns(
            {ours: lambda: prepare_films(paths, 224), pillow: lambda: with_pillow(paths, 224)}, options.rounds
        )
        rates = {name: len(paths) / statistics.median(values) for name, values in times.items()}
        print(table(["originals, one thread", "films/s"], [[name, f"{rate:.0f}"] for name, rate in rates.items()]))

        config = baseline.get_config(options.model)
        config.update({"batch_size": options.batch, "dtype": options.dtype})
        config.data.update({"size": options.size, "cache": str(work)})
        config.data.phantom.update({"count": options.films * 4 // 3, "size": options.size})
        films = open_films(config.data)
        threads = sorted({1, 2, os.cpu_count() or 1})
        read = {count: records_a_second(films, count, options.batch, 3.0) for count in threads}
        print("\n" + table(["records, threads", "films/s"], [[count, f"{rate:.0f}"] for count, rate in read.items()]))

        runs = trainers(config, films, options.steps)
        times = take_turns(runs, options.rounds)
        count = options.steps * options.batch
        medians = {name: count / statistics.median(values) for name, values in times.items()}
        best = {name: count / min(values) for name, values in times.items()}
        fixed = "one batch again and again"
        rows = [
            [name, f"{medians[name]:.1f}", f"{medians[name] / medians[fixed]:.3f}", f"{best[name] / best[fixed]:.3f}"]
            for name in runs
        ]
        print("\n" + table(["training", "films/s", "of one batch", "at best"], rows))
        print(f"most memory that was in use: {peak_memory() / 2**20:,.0f} MiB")
    return finish(
        {
            "originals": rates,
            "records": read,
            "training": medians,
            "of_fixed_batch": {name: medians[name] / medians[fixed] for name in runs if name != fixed},
            "peak_mib": peak_memory() / 2**20,
        },
        options.json,
    )


if __name__ == "__main__":
    main()
