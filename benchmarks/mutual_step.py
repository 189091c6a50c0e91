"""The mutual step against the sum of its two networks' supervised steps, and the FLOPs of each.

    python -m benchmarks.mutual_step [--models=resnet18,resnet50] [--size=224] [--batch=16] [--dtype=float32]
        [--rounds=7] [--json=FILE]

All take the same uint8 films (uniform noise) from the device and learn by the default recipe (`configs/dml.py`), with
its augmentation; they take turns, and medians count. The FLOPs are XLA's count of the compiled programs: a
simultaneous step should cost as much as the two supervised ones, an alternating one a forward pass of the first network
more.
"""

import statistics
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from benchmarks.contest import Results, finish, here, introduce, noise, parser_of, step_of, table, take_turns, waiting
from chexjax.configs import dml
from chexjax.training.state import create_network


def forward_flops(config: ConfigDict, shape: tuple[int, ...]) -> float:
    """FLOPs of a forward pass of the first network in training mode, as XLA counts them."""
    model = create_network(config, "net1")
    films = jnp.zeros(shape)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), films[:1]))

    def forward(variables, films):
        return model.apply(variables, films, train=True, mutable=["batch_stats"])

    return jax.jit(forward).lower(variables, films).compile().cost_analysis()["flops"]


def main(argv: Sequence[str] | None = None) -> Results:
    """Prints a table: median time and FLOPs of each step, and over the sum of the supervised ones."""
    parser = parser_of(__doc__)
    parser.add_argument("--models", default="resnet18,resnet50", help="two of them")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=here(16, 256))
    parser.add_argument("--dtype", default=here("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(argv)
    introduce(f"{options.models}, {options.dtype}, {options.size} px, batch {options.batch}, noise")
    batch = noise(options.batch, options.size)
    runs, flops = {}, {}

    def enter(name: str, config: ConfigDict) -> None:
        config.dtype = options.dtype
        step, flops[name] = step_of(config, batch)
        runs[name] = waiting(step)

    for updates in ("alternating", "simultaneous"):
        config = dml.get_config(options.models)
        config.mutual.updates = updates
        enter(updates, config)
    for name in ("net1", "net2"):
        config = dml.get_config(options.models)
        config.regime, config.networks = "supervised", {name: config.networks[name]}
        enter(f"supervised {name}", config)
    times = take_turns(runs, options.rounds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    alone = [name for name in runs if name.startswith("supervised")]
    whole = {
        "time": sum(medians[name] for name in alone),
        "best": sum(min(times[name]) for name in alone),
        "flops": sum(flops[name] for name in alone),
    }
    rows = [
        [
            name,
            f"{1e3 * medians[name]:.1f}",
            f"{medians[name] / whole['time']:.3f}",
            f"{min(times[name]) / whole['best']:.3f}",
            f"{flops[name] / 1e9:.2f}",
            f"{flops[name] / whole['flops']:.3f}",
        ]
        for name in runs
    ]
    print(table(["step", "ms", "of the sum", "at best", "GFLOP", "of the sum"], rows))
    shape = (options.batch // jax.local_device_count(), *batch["image"].shape[2:])
    config = dml.get_config(options.models)
    config.dtype = options.dtype
    forward = forward_flops(config, shape)
    more = flops["alternating"] - whole["flops"]
    print(
        f"alternating costs {more / 1e9:.2f} GFLOP more than the sum; "
        f"a forward pass of the first network is {forward / 1e9:.2f}"
    )
    return finish(
        {
            "models": options.models,
            "dtype": options.dtype,
            "milliseconds": {name: 1e3 * value for name, value in medians.items()},
            "over_sum": {name: medians[name] / whole["time"] for name in ("alternating", "simultaneous")},
            "flops": flops,
            "forward_flops": forward,
        },
        options.json,
    )


if __name__ == "__main__":
    main()
