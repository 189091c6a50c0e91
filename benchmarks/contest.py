"""Shared by all benchmarks: contestants that take turns, medians of their times, and the machine they ran on."""

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from chexjax.devices import AXIS, each_device, replicate
from chexjax.findings import FINDINGS, SPECIALIST_GROUPS
from chexjax.models.configured import AnyNetwork
from chexjax.models.network import by_names
from chexjax.runtime import keep_freed_memory
from chexjax.training.state import create_network, create_state
from chexjax.training.steps import Context, Fixed, create_step

Results = dict[str, Any]


def take_turns(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds per call of each contestant, one figure per round.

    Each is called once beforehand, to compile. In every round they come in random order, so that a busy neighbour
    slows all alike; a contestant waits for its own result.
    """
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in random.sample(list(runs.items()), len(runs)):
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    return times


def ratio(times: dict[str, list[float]], one: str, other: str) -> dict[str, float]:
    """The ratio of the times of `one` and `other`: of medians, and of minima for machines that are never quiet."""
    return {
        "medians": statistics.median(times[one]) / statistics.median(times[other]),
        "best": min(times[one]) / min(times[other]),
    }


def noise(batch: int, size: int) -> dict[str, np.ndarray]:
    """A batch of uniform noise with random labels, shared among the local devices; no step's cost depends on it."""
    random_, devices = np.random.default_rng(0), jax.local_device_count()
    shape = (devices, batch // devices)
    return {
        "image": random_.integers(0, 256, (*shape, size, size, 1), np.uint8),
        "label": random_.integers(0, 2, (*shape, len(FINDINGS)), np.uint8),
        "film": np.arange(batch, dtype=np.int32).reshape(shape),
    }


def here(cpu: Any, accelerator: Any) -> Any:
    """The first on a CPU, the second elsewhere."""
    return cpu if jax.default_backend() == "cpu" else accelerator


def compile_step(
    config: ConfigDict, batch: dict[str, np.ndarray], models: Sequence[AnyNetwork] | None = None
) -> tuple[Any, list[Any]]:  # fmt: skip
    """The compiled step of the config's regime over all devices, and new arguments for it: states, batch, fixed."""
    groups, shape = by_names(SPECIALIST_GROUPS, FINDINGS), batch["image"].shape[2:]
    models = models or [create_network(config, name, groups, AXIS) for name in config.networks]
    states = tuple(
        create_state(config, name, model, shape, 10_000) for name, model in zip(config.networks, models, strict=True)
    )
    placed, fixed = each_device(lambda x: x)(batch), replicate(Fixed(np.int32(config.seed)))
    step: Any = create_step(Context(config, np.full(batch["label"].shape[-1], 0.1), groups))
    arguments = [replicate(states), placed, fixed]
    return step.lower(*arguments).compile(), arguments


def step_of(
    config: ConfigDict, batch: dict[str, np.ndarray], models: Sequence[AnyNetwork] | None = None
) -> tuple[Callable[[], Any], float]:  # fmt: skip
    """A function that does one step of the config's regime and returns what to wait for; and the step's FLOPs.

    The films are on the devices already. FLOPs are as XLA counts them in the compiled program of one device: the
    body of a loop once, so too low on a CPU where films are large and go a few at a time (`models/cpu_convolution.py`).
    """
    compiled, arguments = compile_step(config, batch, models)

    def run() -> Any:
        arguments[0], measured = compiled(*arguments)
        return arguments[0], measured

    return run, compiled.cost_analysis()["flops"]


def waiting(run: Callable[[], Any], calls: int = 0) -> Callable[[], None]:
    """`calls` steps, waiting only for the last, so that an accelerator is never idle between steps.

    By default 20 on an accelerator, one on a CPU.
    """
    calls = calls or here(1, 20)

    def repeat() -> None:
        for _ in range(calls - 1):
            run()
        jax.block_until_ready(run())

    return repeat


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    device = jax.devices()[0]
    return {
        "backend": jax.default_backend(),
        "device": f"{jax.device_count()} x {device.device_kind}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def processor() -> str:
    """The processor's name and its vector width, if the system reports them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    name = next((line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line), "unknown")
    return f"{name} ({'AVX-512' if 'avx512f' in text else 'AVX2' if 'avx2' in text else 'no AVX2'})"


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the module's own text, and `--json=FILE`. Begins every benchmark, before JAX is asked for anything.

    Memory is kept as the commands keep it, for all contestants alike.
    """
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser


def finish(results: Results, path: Path | None) -> Results:
    """The results with the machine; written to `path` if given."""
    results = {"machine": machine(), **results}
    if path:
        path.write_text(json.dumps(results, indent=1) + "\n")
    return results


def introduce(what: str) -> None:
    """Prints the machine and what runs on it."""
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    print(what, flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows as a Markdown table, as they go into README.md and BUILD-measurements.md."""
    lines = [list(map(str, head)), ["---"] * len(head), *[[*map(str, row)] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
