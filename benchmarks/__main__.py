"""Runs the benchmarks that need nothing else, one after the other, and writes one JSON; or compares two such files.

    python -m benchmarks --out=FILE [--only=scanline,train_step] [--quick]
    python -m benchmarks --compare BEFORE AFTER

Each runs in its own process, with its defaults (`--quick`: a few rounds on small films, to check that all run).
The others, which need films, a trained network, a compiler or an accelerator, are run by their own names.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks.contest import machine, table

# name -> what `--quick` adds
ALL: Final[dict[str, list[str]]] = {
    "scanline": ["--batches=1", "--seconds=0.5"],
    "metrics": ["--films=2000", "--resamples=20"],
    "train_step": ["--models=resnet18", "--size=64", "--batch=8", "--rounds=3", "--compile=no"],
    "mutual_step": ["--size=64", "--batch=8", "--rounds=3"],
    "specialists": ["--width=0.25", "--rounds=3"],
    "input": ["--films=64", "--size=32", "--rounds=2"],
    "scaling": ["--models=resnet18", "--devices=1,2"],
    "bulk": ["--count=16", "--rounds=1"],
    "memory": ["--models=resnet18", "--size=32", "--batch=8"],
    "startup": [],
}


def run(name: str, flags: list[str], folder: Path) -> dict[str, Any]:
    """A benchmark's results or, if it fails, its exit status."""
    path = folder / f"{name}.json"
    print(f"\n== {name}", flush=True)
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", f"--json={path}", *flags])
    return json.loads(path.read_text()) if path.exists() else {"failed": done.returncode}


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number in `tree`, by its path."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{path}/{key}")
    elif isinstance(tree, list):
        for k, value in enumerate(tree):
            yield from leaves(value, f"{path}/{k}")
    elif isinstance(tree, (int, float)) and not isinstance(tree, bool):
        yield path[1:], tree


def compare(before: Path, after: Path) -> str:
    """Every figure that both files hold, and the ratio of the second to the first."""
    old, new = (json.loads(path.read_text()) for path in (before, after))
    figures, others = dict(leaves(new["benchmarks"])), dict(leaves(old["benchmarks"]))
    rows = [
        [path, f"{others[path]:.4g}", f"{value:.4g}", f"{value / others[path]:.3f}" if others[path] else "-"]
        for path, value in figures.items()
        if path in others
    ]
    title = "\n".join(f"{name}: {part['machine']}" for name, part in (("before", old), ("after", new)))
    return f"{title}\n\n{table(['figure', 'before', 'after', 'after / before'], rows)}"


def main() -> None:
    """Runs the benchmarks, or compares two results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks.json"))
    parser.add_argument("--only", default=",".join(ALL))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("BEFORE", "AFTER"))
    options = parser.parse_args()
    if options.compare:
        print(compare(*options.compare))
        return
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(ALL):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    with tempfile.TemporaryDirectory() as folder:
        found = {name: run(name, ALL[name] if options.quick else [], Path(folder)) for name in chosen}
    partial = options.out.with_suffix(".partial")
    partial.write_text(json.dumps({"machine": machine(), "benchmarks": found}, indent=1) + "\n")
    partial.rename(options.out)
    failed = [name for name, part in found.items() if "failed" in part]
    print(f"\n{options.out} written" + (f"; failed: {', '.join(failed)}" if failed else ""))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
