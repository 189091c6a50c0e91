"""Does chexjax train networks as good as PyTorch's? One recipe in a plain PyTorch loop and in chexjax.

    python -m benchmarks.twin --data=../shared/nih-128 --out=DIR [--init_from=IMPORTED]

ResNet-18 from random weights, grey films, AdamW without weight decay on vectors, one-cycle, random crop and flip,
binary cross-entropy; the epoch with the best mean validation AUROC is kept. Both draw from the same distributions, but
not the same numbers. With `--init_from`, a folder that `chexjax.models.torch_weights` wrote, both start from the very
same arrays, those drawn anew included; PyTorch's stem then has three channels, as its users' has. Prints the test AUROC
of both, per seed and per finding with DeLong's paired test, and training images per second of both, timed in turn. When
run again, it skips finished runs.
"""

import argparse
import csv
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict

from benchmarks.contest import step_of, take_turns, waiting
from chexjax.configs import baseline
from chexjax.data.films import open_films
from chexjax.data.pipeline import Records, by_device
from chexjax.data.prepared import Prepared
from chexjax.evaluation.metrics import auroc, delong_test, holm, mean_over_findings
from chexjax.findings import FINDINGS
from chexjax.models.torch_weights import IMAGENET_MEAN, IMAGENET_STD, to_state_dict
from chexjax.training import loop
from chexjax.training.start import start_from
from chexjax.training.state import create_network, create_state
from tests.torch_networks import create_torch_network


def recipe(options: argparse.Namespace, seed: int) -> ConfigDict:
    """What both do."""
    config = baseline.get_config(options.model)
    config.update({"seed": seed, "batch_size": 32, "epochs": options.epochs, "dtype": options.dtype})
    config.data.update({"source": "chestxray14", "dir": str(options.data), "cache": str(options.out / "cache")})
    config.data.update({"size": options.size, "split": "folds"})
    config.augment.update({"crop": 0.85, "flip": 0.5, "rotation": 0.0, "brightness": 0.0, "contrast": 0.0})
    rate = 3e-4 if options.init_from else 1e-3
    config.networks.net1.update({"schedule": "onecycle", "learning_rate": rate, "weight_decay": 1e-2, "seed": seed})
    config.init_from = options.init_from
    return config


# PyTorch


def read_part(films: Prepared, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 (films, 1, height, width) and float32 (films, 14), all in memory."""
    records = Records(films.source(split))
    images = np.stack([records[k]["image"] for k in range(len(records))])
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(films.parts[split].labels).float()


def normalize(grey: torch.Tensor, config: ConfigDict) -> torch.Tensor:
    """As the stem wants it: one channel from random weights, three from a file's."""
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if config.init_from else ([config.data.mean], [config.data.std])
    x = (grey / 255.0 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    return x.contiguous(memory_format=torch.channels_last)


def augment(images: torch.Tensor, config: ConfigDict) -> torch.Tensor:
    """A random crop resized to the whole film, and a flip, in one bilinear resampling; float grey levels."""
    films, _, height, width = images.shape
    side = 1.0 - (1.0 - config.augment.crop) * torch.rand(films)
    mirror = torch.where(torch.rand(films) < config.augment.flip, -1.0, 1.0)
    shift = (1.0 - side)[:, None] * (2.0 * torch.rand(films, 2) - 1.0)  # grid_sample's film is two wide
    shift *= torch.tensor([width / (width - 1), height / (height - 1)])
    zero = torch.zeros(films)
    rows = [torch.stack([side * mirror, zero, shift[:, 0]], 1), torch.stack([zero, side, shift[:, 1]], 1)]
    grid = torch.nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=True)
    return torch.nn.functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=True)


def first_weights(config: ConfigDict) -> dict[str, np.ndarray]:
    """What our network starts with, under torch's names."""
    film_shape, model = (config.data.size, config.data.size, 1), create_network(config, "net1")
    state = create_state(config, "net1", model, film_shape, 1)
    state = start_from(config, "net1", model, state, film_shape, FINDINGS)
    variables = {"params": state.params, **state.collections}
    return to_state_dict(config.networks.net1.model, variables, 3, config.data.mean, config.data.std)


class Torch:
    """The plain PyTorch side: a network, its optimiser, a step."""

    def __init__(self, config: ConfigDict, steps: int):
        torch.manual_seed(config.seed)
        network = config.networks.net1
        self.config = config
        self.network = create_torch_network(network.model, channels=3 if config.init_from else 1)
        self.network = self.network.to(memory_format=torch.channels_last)
        if config.init_from:
            arrays = first_weights(config)
            self.network.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
        else:
            bias = "fc.bias" if "resnet" in network.model else "classifier.bias"
            torch.nn.init.zeros_(self.network.get_parameter(bias))
        parameters = list(self.network.parameters())
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": network.weight_decay},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=network.learning_rate)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, network.learning_rate, total_steps=max(steps, 2), cycle_momentum=False
        )

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.dtype == "bfloat16"):
            return self.network(x).float()

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        self.network.train()
        logits = self.logits(normalize(augment(images, self.config), self.config))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return loss.item()

    @torch.no_grad()
    def predict(self, images: torch.Tensor) -> np.ndarray:
        self.network.eval()
        parts = [self.logits(normalize(part.float(), self.config)).sigmoid() for part in images.split(64)]
        return torch.cat(parts).double().numpy()


def train_torch(config: ConfigDict, films: Prepared, out: Path) -> None:
    """Trains, and writes the test predictions of the best epoch."""
    (images, labels), val, test = (read_part(films, split) for split in ("train", "val", "test"))
    size = config.batch_size
    steps, epochs = len(images) // size, round(config.epochs)
    side, best, figures = Torch(config, steps * epochs), -1.0, np.zeros(0)
    for epoch in range(epochs):
        order = torch.randperm(len(images))[: steps * size].view(steps, size)
        loss = statistics.fmean(side.step(images[batch], labels[batch]) for batch in order)
        found = mean_over_findings(np.asarray(auroc(val[1].numpy(), side.predict(val[0]))))
        print(f"torch, epoch {epoch + 1} of {epochs}: loss {loss:.4f}, validation AUROC {found:.4f}", flush=True)
        if found > best:
            best, figures = found, side.predict(test[0])
    partial = out.with_suffix(".partial")
    np.save(partial.open("wb"), figures)
    partial.rename(out)


# chexjax


def train_chexjax(config: ConfigDict, workdir: Path) -> None:
    loop.train(config, workdir)
    loop.evaluate(config, workdir)


def read_predictions(path: Path, films: Prepared) -> np.ndarray:
    with path.open(newline="") as file:
        rows = {row["Image Index"]: [float(row[finding]) for finding in FINDINGS] for row in csv.DictReader(file)}
    return np.array([rows[name] for name in films.parts["test"].names])


# Both


def speed(config: ConfigDict, films: Prepared, rounds: int) -> dict[str, list[float]]:
    """Training images a second of steps on films in memory, timed in turn so that other jobs slow both alike."""
    size, records = config.batch_size, Records(films.source("train"))
    batch = {key: np.stack([records[k][key] for k in range(size)]) for key in ("image", "label", "film")}
    images, labels = torch.from_numpy(batch["image"].transpose(0, 3, 1, 2).copy()), torch.from_numpy(batch["label"])
    theirs = Torch(config, 10_000)
    ours, _ = step_of(config, by_device(batch))
    steps = {"torch": lambda: theirs.step(images, labels.float()), "chexjax": waiting(ours, 1)}
    times = take_turns({name: waiting(step, 3) for name, step in steps.items()}, rounds)
    return {name: [3 * size / seconds for seconds in values] for name, values in times.items()}


def format_values(values: list[float], digits: int) -> str:
    deviation = f" (sd {statistics.stdev(values):.{digits}f})" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{deviation}"


def main() -> None:
    """Runs everything and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="an NIH folder with folds.csv")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init_from", default="", help="imported weights; none: random ones")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=5, help="of the timing, three steps each")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    films = open_films(recipe(options, 0).data)
    test = films.parts["test"]
    predicted: dict[str, list[np.ndarray]] = {"torch": [], "chexjax": []}
    for seed in range(options.seeds):
        config = recipe(options, seed)
        theirs, ours = options.out / f"torch-{seed}.npy", options.out / f"chexjax-{seed}"
        if not theirs.exists():
            train_torch(config, films, theirs)
        if not (ours / "metrics.json").exists():
            train_chexjax(config, ours)
        predicted["torch"].append(np.load(theirs))
        predicted["chexjax"].append(read_predictions(ours / "predictions_net1.csv", films))

    areas = {name: [np.asarray(auroc(test.labels, p)) for p in runs] for name, runs in predicted.items()}
    means = {name: [mean_over_findings(a) for a in runs] for name, runs in areas.items()}
    print(
        f"\n{options.model}, {options.size} px, {options.epochs} epochs, {options.dtype}, {len(test.names)} test films"
    )
    for name, values in means.items():
        print(f"{name:8} mean AUROC {format_values(values, 4)}: {' '.join(f'{value:.4f}' for value in values)}")
    tests = [
        delong_test(test.labels, o, t, list(test.patients))
        for o, t in zip(predicted["chexjax"], predicted["torch"], strict=True)
    ]
    print(f"\n{'finding':20} {'torch':>7} {'chexjax':>8} {'difference':>11}  DeLong's p (Holm's over 14), per seed")
    for k, finding in enumerate(FINDINGS):
        theirs_k, ours_k = (np.mean([a[k] for a in areas[name]]) for name in ("torch", "chexjax"))
        p = "  ".join(f"{paired.p_value[k]:.3f} ({holm(paired.p_value)[k]:.3f})" for paired in tests)
        print(f"{finding:20} {theirs_k:7.4f} {ours_k:8.4f} {ours_k - theirs_k:+11.4f}  {p}")

    if options.rounds:
        rates = speed(recipe(options, 0), films, options.rounds)
        medians = {name: statistics.median(values) for name, values in rates.items()}
        print("\ntraining images a second, median of rounds in turn (least, most)")
        for name, values in rates.items():
            print(f"{name:8} {medians[name]:6.1f} ({min(values):.1f}, {max(values):.1f})")
        print(f"chexjax / torch: {medians['chexjax'] / medians['torch']:.2f}")


if __name__ == "__main__":
    main()
