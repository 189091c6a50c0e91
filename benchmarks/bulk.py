"""Scoring many films with one network: tables alone against a plain torch loop, and what overlays add.

    python -m benchmarks.bulk [--checkpoint=WORKDIR] [--films=FOLDER] [--count=256] [--rounds=3] [--overlays=0,3]

The torch loop opens each film with Pillow, shrinks it, normalises, and runs the same weights under `inference_mode`, in
batches of the same size; it writes no table. What counts is CPU time, of all threads and of processes that have ended,
start-up and compilation apart; times of day stand beside it. WORKDIR is a run of one network on films that were not
cleaned, with its calibration and gate; without it, `--model` at `--size` has new weights, and neither. FOLDER holds PNG
or JPEG films; without it, simulated films of 1024 px are drawn.
"""

import functools
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from flax.traverse_util import flatten_dict, unflatten_dict
from PIL import Image

from benchmarks.contest import Results, finish, introduce, parser_of, table
from chexjax.configs import common
from chexjax.data.sources.phantom import plan_films, render_film
from chexjax.models import create_model
from chexjax.models.configured import stem_of
from chexjax.models.torch_weights import convert_state_dict, to_state_dict
from chexjax.predict import Classifier, Options
from chexjax.predict.batch import score_films
from chexjax.predict.drawing import cores
from chexjax.predict.films import find_films
from chexjax.predict.journal import remove_journals
from chexjax.predict.tables import write_tables
from chexjax.workdir.restore import Restored
from tests.torch_networks import create_torch_network, shake

MEAN, STD = 0.5, 0.25


def write_films(folder: Path, count: int, side: int = 1024) -> None:
    """Simulated films as PNG; a dozen are drawn, and copied."""
    folder.mkdir()
    for number, film in enumerate(plan_films(min(count, 12), seed=0)):
        Image.fromarray(render_film(film, side)[0]).save(folder / f"{number:05}.png")
    for number in range(12, count):
        os.link(folder / f"{number % 12:05}.png", folder / f"{number:05}.png")


def score_with_torch(
    network: torch.nn.Module, paths: Sequence[Path], size: int, batch: int, mean: float = MEAN, std: float = STD
) -> np.ndarray:
    """Probabilities by the loop that anybody would write."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(paths), batch):
            films = [Image.open(path).convert("L") for path in paths[start : start + batch]]
            small = np.stack([np.asarray(film.resize((size, size), Image.Resampling.BOX)) for film in films])
            x = (torch.from_numpy(small)[:, None].float() / 255 - mean) / std
            found.append(torch.sigmoid(network(x.contiguous(memory_format=torch.channels_last))).numpy())
    return np.concatenate(found)


def classifier_of(model: str, network: torch.nn.Module, size: int, batch: int) -> Classifier:
    """The same weights in a classifier."""
    config = common.base()
    config.data.update({"size": size, "clean": False, "mean": MEAN, "std": STD})
    variables = convert_state_dict(model, network.state_dict(), input_channels=1)
    restored = Restored(Path("none"), config, 0, {"net1": create_model(model)}, {"net1": variables}, {})
    return Classifier(restored, np.full(14, 0.5), batch_size=batch)


class Offset(torch.nn.Module):
    """A grey stem made of a colour one: its convolution, and what the colours' means add at each place."""

    def __init__(self, convolution: torch.nn.Conv2d, offset: np.ndarray, size: int):
        """`offset` is the kernel (height, width, 1, channels) that is applied to a film of ones."""
        super().__init__()
        self.convolution = convolution
        kernel, ones = torch.from_numpy(offset.transpose(3, 2, 0, 1).copy()), torch.ones(1, 1, size, size)
        added = torch.nn.functional.conv2d(ones, kernel, None, convolution.stride, convolution.padding)
        self.register_buffer("added", added.contiguous(memory_format=torch.channels_last))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolution(x) + self.added


def torch_of(restored: Restored) -> torch.nn.Module:
    """The one network of a checkpoint in torch."""
    ((name, variables),) = restored.variables.items()
    model = restored.config.networks[name].model
    parts = unflatten_dict(flatten_dict(variables))  # a copy
    offset = stem_of(model, parts["params"]).pop("offset", None)
    network = create_torch_network(model, len(restored.findings), channels=1)
    arrays = to_state_dict(model, parts, 1)
    network.load_state_dict({key: torch.from_numpy(np.array(array)) for key, array in arrays.items()})
    if offset is not None:
        stem = next(key for key, module in network.named_modules() if isinstance(module, torch.nn.Conv2d))
        network.set_submodule(stem, Offset(network.get_submodule(stem), np.asarray(offset), restored.config.data.size))
    return network


def cpu_seconds() -> float:
    """Of this process and of those it started that have ended."""
    own, children = (resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def measure(run: Callable[[], Any]) -> tuple[float, float]:
    """(CPU seconds, seconds) of a call."""
    before, began = cpu_seconds(), time.perf_counter()
    run()
    return cpu_seconds() - before, time.perf_counter() - began


def main(argv: Sequence[str] | None = None) -> Results:
    """Prints the table; returns the medians."""
    parser = parser_of(__doc__)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--films", type=Path)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--overlays", default="0,3")
    options = parser.parse_args(argv)
    if options.checkpoint:
        classifier = Classifier.from_checkpoint(options.checkpoint, batch_size=options.batch)
        network = torch_of(classifier.restored)
    else:
        network = shake(create_torch_network(options.model, channels=1))
        classifier = classifier_of(options.model, network, options.size, options.batch)
    network = network.eval().to(memory_format=torch.channels_last)
    data = classifier.restored.config.data
    introduce(f"{options.checkpoint or options.model}, {data.size} px, batches of {options.batch}")
    loop = functools.partial(
        score_with_torch, network, size=data.size, batch=options.batch, mean=data.mean, std=data.std
    )
    with tempfile.TemporaryDirectory() as work:
        if not options.films:
            write_films(Path(work) / "films", options.count)
        files = dict(list(find_films([str(options.films or Path(work) / "films")]).files.items())[: options.count])
        out = Path(work) / "out"

        def predict(overlays: int, films: dict[str, Path]) -> None:
            chosen = Options(overlays, processes=cores())
            write_tables(out, [score_films(classifier, films, out, chosen, progress=False)])
            remove_journals(out)

        paths = list(files.values())
        contestants: dict[str, Callable[[], Any]] = {"plain torch loop": lambda: loop(paths)}
        few = dict(list(files.items())[: 2 * options.batch])
        for overlays in map(int, options.overlays.split(",")):
            contestants[f"--overlays={overlays}"] = functools.partial(predict, overlays, files)
            predict(overlays, few)  # compiles
        ours = np.stack([scores.uncalibrated for scores in classifier.predict([*few.values()], True)])
        theirs = loop([*few.values()])
        difference = float(np.abs(ours - theirs).max())
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
        for _ in range(options.rounds):
            for name, run in random.sample(list(contestants.items()), len(contestants)):
                times[name].append(measure(run))
    medians = {
        name: [statistics.median(values) for values in zip(*measured, strict=True)] for name, measured in times.items()
    }
    base = medians["plain torch loop"]
    rows = [
        [
            name,
            f"{1000 * cpu / len(paths):.2f}",
            f"{cpu / base[0]:.2f}",
            f"{len(paths) / seconds:.1f}",
            f"{seconds / base[1]:.2f}",
        ]
        for name, (cpu, seconds) in medians.items()
    ]
    print(table(["films scored", "CPU, ms a film", "over torch", "films/s", "time over torch"], rows))
    print(f"{len(paths)} films, {jax.default_backend()}; probabilities differ by at most {difference:.1e}")
    found = {
        name: {"cpu_ms": 1000 * cpu / len(paths), "ratio": cpu / base[0], "time_ratio": seconds / base[1]}
        for name, (cpu, seconds) in medians.items()
    }
    return finish({"films": len(paths), "difference": difference, "found": found}, options.json)


if __name__ == "__main__":
    # Processes that draw are started anew; with a main module to import they would load torch.
    here = sys.modules["__main__"]
    here.__spec__, here.__file__ = None, None
    main()
