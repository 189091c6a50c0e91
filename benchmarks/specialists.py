"""Four specialists in one step against four steps of one specialist each, in one run.

    python -m benchmarks.specialists [--model=resnet18] [--size=64] [--batch=16] [--width=1] [--rounds=9]

Both learn the report's four groups from the same films by the config's default recipe. The contestants take turns in
random order; medians count. Films are uniform noise: no step's cost depends on what it sees.
"""

import statistics
from collections.abc import Sequence

import jax

from benchmarks.contest import Results, finish, introduce, noise, parser_of, ratio, step_of, take_turns, waiting
from chexjax.configs import baseline, specialists
from chexjax.devices import AXIS
from chexjax.findings import FINDINGS, SPECIALIST_GROUPS
from chexjax.models import create_model
from chexjax.models.network import by_names

JOINT, FOUR = "one joint step", "four single steps"


def main(argv: Sequence[str] | None = None) -> Results:
    """Prints a table: median milliseconds of the joint step and of the four, and their ratio."""
    parser = parser_of(__doc__)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(argv)
    introduce(f"{options.model}, width {options.width:g}, {options.size} px, batch {options.batch}")
    batch = noise(options.batch, options.size)
    config, alone = specialists.get_config(options.model), baseline.get_config(options.model)
    config.networks.net1.width = alone.networks.net1.width = options.width
    joint, flops = step_of(config, batch)
    singles = []
    for group in by_names(SPECIALIST_GROUPS, FINDINGS):
        model = create_model(options.model, len(group), axis_name=AXIS, width=options.width)
        singles.append(step_of(alone, {**batch, "label": batch["label"][..., list(group)]}, [model]))

    def four() -> None:
        jax.block_until_ready([step() for step, _ in singles])

    times = take_turns({JOINT: waiting(joint), FOUR: waiting(four)}, options.rounds)
    for name, values in times.items():
        print(f"{name:18} median {1e3 * statistics.median(values):8.1f} ms   best {1e3 * min(values):8.1f} ms")
    found = ratio(times, JOINT, FOUR)
    counted = flops / sum(count for _, count in singles)
    print(f"joint / four: {found['medians']:.3f} of medians, {found['best']:.3f} at best, {counted:.3f} of FLOPs")
    return finish({"model": options.model, "size": options.size, "joint_over_four": found}, options.json)


if __name__ == "__main__":
    main()
