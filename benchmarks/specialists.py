"""Four specialists in one step against four steps of one specialist each, in one run.

    python -m benchmarks.specialists [--model=resnet18] [--size=64] [--batch=16] [--width=1] [--rounds=9]

Both learn the report's four groups from the same films by the config's default recipe. The contestants take turns in
random order; medians count. Films are uniform noise: no step's cost depends on what it sees.
"""

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.jax_utils
import jax
import numpy as np

from chexjax.findings import FINDINGS, SPECIALIST_GROUPS
from chexjax.models import create_model
from chexjax.models.network import by_names
from chexjax.training.state import create_network, create_state
from chexjax.training.steps import AXIS, Context, Fixed, create_step
from configs import baseline, specialists


def contestant(config: Any, model: Any, batch: dict[str, np.ndarray], outputs: Sequence[int]) -> Callable[[], None]:
    """A function that does one step of `model`, which learns the labels of `outputs`, and waits for it."""
    shape = batch["image"].shape[2:]
    state = [flax.jax_utils.replicate((create_state(config, "net1", model, shape, 1000),))]
    step = create_step(Context(config, np.full(len(outputs), 0.1), by_names(SPECIALIST_GROUPS)))
    placed = {**batch, "label": batch["label"][..., list(outputs)]}

    fixed = flax.jax_utils.replicate(Fixed(np.int32(config.seed)))

    def run() -> None:
        state[0], measured = step(state[0], placed, fixed)
        jax.block_until_ready((state[0], measured))

    return run


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table: median milliseconds of the joint step and of the four, and their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(argv)
    config = specialists.get_config(options.model)
    config.networks.net1.width = options.width
    devices = jax.local_device_count()
    rng, shape = np.random.default_rng(0), (devices, options.batch // devices)
    batch = {
        "image": rng.integers(0, 256, (*shape, options.size, options.size, 1), np.uint8),
        "label": rng.integers(0, 2, (*shape, len(FINDINGS)), np.uint8),
        "film": np.arange(options.batch, dtype=np.int32).reshape(shape),
    }
    groups = by_names(SPECIALIST_GROUPS)
    joint = contestant(config, create_network(config, "net1", groups, AXIS), batch, range(len(FINDINGS)))
    alone = baseline.get_config(options.model)
    alone.networks.net1.width = options.width
    models = [create_model(options.model, len(group), axis_name=AXIS, width=options.width) for group in groups]
    singles = [contestant(alone, model, batch, group) for model, group in zip(models, groups, strict=True)]

    def four() -> None:
        for single in singles:
            single()

    contest = {"one joint step": joint, "four single steps": four}
    times: dict[str, list[float]] = {name: [] for name in contest}
    for turn in range(options.rounds + 1):
        for name, run in random.sample(list(contest.items()), len(contest)):
            began = time.perf_counter()
            run()
            if turn:  # the first compiles
                times[name].append(time.perf_counter() - began)
    device = jax.devices()[0]
    print(
        f"{options.model}, width {options.width:g}, {options.size} px, batch {options.batch}, {devices} x "
        f"{device.device_kind}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        print(f"{name:18} median {1e3 * medians[name]:8.1f} ms   best {1e3 * min(values):8.1f} ms")
    ratios = [rule(times["one joint step"]) / rule(times["four single steps"]) for rule in (statistics.median, min)]
    print(f"joint / four: {ratios[0]:.3f} of medians, {ratios[1]:.3f} at best")


if __name__ == "__main__":
    main()
