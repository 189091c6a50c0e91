"""Memory of a training process: the whole command beside a bare PyTorch loop, each in a process of its own.

    python -m benchmarks.memory [--models=resnet18,resnet18+resnet18,densenet169] [--size=128] [--batch=32]
        [--steps=8] [--json=FILE]

Of a run on simulated films by `python -m chexjax.main`, with validation, checkpoints and the report, the greatest
resident memory: the first time, with nothing compiled, and again from the start with the programs kept. `A+B` are two
networks that learn by the alternating mutual step; PyTorch holds both and moves each on the labels. What XLA itself
says that a step needs beside its arguments (its scratch) stands next to them, to tell the step from all the rest.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import jax

from benchmarks.contest import Results, compile_step, finish, introduce, noise, parser_of, table
from chexjax.configs import baseline, dml

_GIB = 2**30


# A process begins as a copy of the one that starts it, whose memory then counts: this one is small.
_WATCH: Final = """
import os, sys
_, status, usage = os.wait4(os.spawnvp(os.P_NOWAIT, sys.argv[1], sys.argv[1:]), 0)
print(usage.ru_maxrss, flush=True)
os._exit(os.waitstatus_to_exitcode(status))
"""


def of_process(command: Sequence[str], environment: dict[str, str]) -> int:
    """The greatest resident memory of a command that ends well, in bytes."""
    watched = [sys.executable, "-S", "-c", _WATCH, *command]
    done = subprocess.run(watched, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stderr}")
    return int(done.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024)


def train(models: Sequence[str], size: int, batch: int, steps: int, folder: Path) -> dict[str, int]:
    """Peaks of the same run twice: with nothing compiled, and with the programs kept."""
    config = "baseline.py:" + models[0] if len(models) == 1 else "dml.py:" + ",".join(models)
    command = [
        sys.executable, "-m", "chexjax.main", f"--config=configs/{config}", f"--config.max_steps={steps}",
        f"--config.batch_size={batch}", f"--config.data.size={size}", f"--config.data.phantom.size={size}",
        f"--config.data.phantom.count={10 * batch}", "--config.eval_epochs=100",
    ]  # fmt: skip
    kept = {"CHEXJAX_CACHE": str(folder / "cache")}
    names = ("nothing compiled", "programs kept")
    return {name: of_process([*command, f"--workdir={folder / name}"], kept) for name in names}


def scratch(models: Sequence[str], size: int, batch: int) -> int:
    """Bytes that the compiled step needs beside its arguments and results, as XLA counts them."""
    config = baseline.get_config(models[0]) if len(models) == 1 else dml.get_config(",".join(models))
    compiled, _ = compile_step(config, noise(batch, size))
    return compiled.memory_analysis().temp_size_in_bytes


def compare(models: Sequence[str], size: int, batch: int, steps: int) -> Results:
    """Bytes of every contestant."""
    found: Results = {"models": "+".join(models), "scratch": scratch(models, size, batch)}
    with tempfile.TemporaryDirectory() as folder:
        found |= train(models, size, batch, steps, Path(folder))
    if find_spec("torch") is not None:
        peer = ["benchmarks.torch_loop", found["models"], *map(str, (size, batch, steps))]
        found["torch"] = of_process([sys.executable, "-m", *peer], {})
    return found


def main(argv: Sequence[str] | None = None) -> Results:
    """Prints a table with a row per network or pair."""
    parser = parser_of(__doc__)
    parser.add_argument("--models", default="resnet18,resnet18+resnet18,densenet169")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args(argv)
    rows = [row.split("+") for row in options.models.split(",")]
    introduce(f"memory of a training process, {options.size} px, batch {options.batch}, {options.steps} steps, float32")
    found = []
    for row in rows:
        jax.clear_caches()
        found.append(compare(row, options.size, options.batch, options.steps))
        print(found[-1], flush=True)
    columns = [name for name in found[-1] if name != "models"]
    lines = [
        [
            row["models"],
            *(f"{row[name] / _GIB:.2f}" for name in columns),
            f"{row['programs kept'] / row['torch']:.2f}" if "torch" in row else "-",
        ]
        for row in found
    ]
    print("\n" + table(["networks", *(f"{name}, GiB" for name in columns), "kept / torch"], lines))
    return finish({"size": options.size, "batch": options.batch, "memory": found}, options.json)


if __name__ == "__main__":
    main()
