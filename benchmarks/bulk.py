"""Scoring many films with one network: tables alone against a plain torch loop, and what overlays add.

    python -m benchmarks.bulk [--films=FOLDER] [--count=256] [--model=resnet18] [--size=128] [--rounds=3] [--json=FILE]

The torch loop opens each film with Pillow, shrinks it, normalises, and runs the same weights under `inference_mode`, in
batches of the same size; it writes no table. What counts is CPU time, of all threads and of processes that have ended,
start-up and compilation apart; times of day stand beside it. FOLDER holds PNG or JPEG films; without it, simulated
films of 1024 px are drawn.
"""

import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from PIL import Image

from benchmarks.contest import Results, finish, introduce, parser_of, table
from chexjax.configs import common
from chexjax.data.sources.phantom import plan_films, render_film
from chexjax.models import create_model
from chexjax.models.torch_weights import convert_state_dict
from chexjax.predict import Classifier, Options
from chexjax.predict.batch import cores, score_films
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


def score_with_torch(network: torch.nn.Module, paths: Sequence[Path], size: int, batch: int) -> np.ndarray:
    """Probabilities by the loop that anybody would write."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(paths), batch):
            films = [Image.open(path).convert("L") for path in paths[start : start + batch]]
            small = np.stack([np.asarray(film.resize((size, size), Image.Resampling.BOX)) for film in films])
            x = (torch.from_numpy(small)[:, None].float() / 255 - MEAN) / STD
            found.append(torch.sigmoid(network(x.contiguous(memory_format=torch.channels_last))).numpy())
    return np.concatenate(found)


def classifier_of(model: str, network: torch.nn.Module, size: int, batch: int) -> Classifier:
    """The same weights in a classifier."""
    config = common.base()
    config.data.update({"size": size, "clean": False, "mean": MEAN, "std": STD})
    variables = convert_state_dict(model, network.state_dict(), input_channels=1)
    restored = Restored(Path("none"), config, 0, {"net1": create_model(model)}, {"net1": variables}, {})
    return Classifier(restored, np.full(14, 0.5), batch_size=batch)


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
    parser.add_argument("--films", type=Path)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    introduce(f"{options.model}, {options.size} px, batches of {options.batch}")
    network = shake(create_torch_network(options.model, channels=1)).eval().to(memory_format=torch.channels_last)
    classifier = classifier_of(options.model, network, options.size, options.batch)
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
        contestants: dict[str, Callable[[], Any]] = {
            "plain torch loop": lambda: score_with_torch(network, paths, options.size, options.batch),
            "--overlays=0": lambda: predict(0, files),
            "--overlays=3": lambda: predict(3, files),
        }
        few = dict(list(files.items())[: 2 * options.batch])
        for overlays in (0, 3):  # compiles
            predict(overlays, few)
        ours = np.stack([scores.probabilities for scores in classifier.predict([*few.values()], True)])
        theirs = score_with_torch(network, [*few.values()], options.size, options.batch)
        difference = float(np.abs(ours - theirs).max())
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
        for _ in range(options.rounds):
            for name, run in contestants.items():
                times[name].append(measure(run))
    medians = {
        name: [statistics.median(values) for values in zip(*measured, strict=True)] for name, measured in times.items()
    }
    base = medians["plain torch loop"][0]
    rows = [
        [name, f"{1000 * cpu / len(paths):.2f}", f"{cpu / base:.2f}", f"{len(paths) / seconds:.1f}"]
        for name, (cpu, seconds) in medians.items()
    ]
    print(table(["films scored", "CPU, ms a film", "over torch", "films/s"], rows))
    print(f"{len(paths)} films, {jax.default_backend()}; probabilities differ by at most {difference:.1e}")
    found = {name: {"cpu_ms": 1000 * cpu / len(paths), "ratio": cpu / base} for name, (cpu, _) in medians.items()}
    return finish({"films": len(paths), "difference": difference, "found": found}, options.json)


if __name__ == "__main__":
    main()
