"""All benchmarks for an accelerator, in one call of a few minutes.

    python -m benchmarks.accelerator --out=DIR [--minutes=9] [--films=NIH_FOLDER] [--only=scanline,study] [--quick]

The parts run in order of importance: the scan line against a copy's bandwidth, training steps against
torch.compile, mutual learning, specialists, films in the device's memory; then the study on real films (`--films`; by
default ../shared/nih-128, or nih-128 in CHEXJAX_REAL_DATA), with further seeds while time is left. Each part is a
separate benchmark in its own process, with a deadline. After every part, DIR has `accelerator.json` with all figures,
and `accelerator.md` with the table; `logs/` holds the output. Called again with the same DIR, it continues with the
missing parts. `--quick` only checks that everything runs, on a CPU in a few minutes.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.__main__ import ALL
from benchmarks.contest import machine, table

REPOSITORY: Final = Path(__file__).resolve().parents[1]
GRACE: Final = 10.0  # seconds between asking a process to end and ending it
NETWORKS: Final = ("resnet18", "resnet50", "densenet121", "densenet169")
CELLS: Final = "resnet18,twins,specialists,branches,resnet50,pair,distilled,densenet121"
# One recipe for small films from random weights, that of `benchmarks/twin.py`.
RECIPE: Final = {
    "every.epochs": 6, "every.batch_size": 32, "every.data.size": 128, "every.data.split": "folds",
    "every.augment.crop": 0.85, "every.augment.rotation": 0.0, "every.augment.brightness": 0.0,
    "every.augment.contrast": 0.0, "network.schedule": "onecycle", "network.learning_rate": 1e-3,
    "network.weight_decay": 1e-2, "network.warmup_steps": 0,
}  # fmt: skip
PACKAGES: Final = (
    "jax", "jaxlib", "jax-cuda13-plugin", "libtpu", "flax", "optax", "numpy", "torch", "triton", "numba",
    "nvidia-cudnn-cu13", "nvidia-cuda-runtime",
)  # fmt: skip


class Finding(NamedTuple):
    """A line of the table. `target` is what `value` should reach; negative: what it should not exceed."""

    what: str
    value: float
    target: float | None = None

    @property
    def is_met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value >= self.target if self.target > 0 else self.value <= -self.target

    @property
    def wanted(self) -> str:
        if self.target is None:
            return ""
        return f"{'at least' if self.target > 0 else 'at most'} {abs(self.target):g}"


class Part(NamedTuple):
    """A process to run.

    `command` follows `python -m`; `quick` replaces it with `--quick` (None: the part is skipped then). The part is not
    started with less than `least` seconds left, and is stopped after `most`. `result` is the file it writes.
    """

    name: str
    command: list[str]
    quick: list[str] | None
    least: float
    most: float
    result: Path
    read: Callable[[Any], list[Finding]]


# What the benchmarks find


def read_scanline(results: Any) -> list[Finding]:
    return [
        Finding(f"share of a copy's bandwidth, {row['films']} films, {row['batch']} at once", row["share_of_copy"], 0.3)
        for row in results["results"]
        if row["name"] == "chexjax"
    ]


def read_train_step(results: Any) -> list[Finding]:
    found = []
    for row in results["steps"]:
        name = f"{row['model']}, {row['dtype']}"
        found.append(Finding(f"{name}: films/s", row["images_per_second"]["chexjax"]))
        for peer, ratio in row["torch_over_chexjax"].items():
            target = 1.2 if peer == "torch.compile" else None
            found.append(Finding(f"{name}: time of {peer} over ours", ratio["medians"], target))
        for bound, share in zip(("arithmetic", "ideal fusion"), row.get("share_of_bounds", []), strict=False):
            found += [Finding(f"{name}: share of the bound by {bound}", share)] if share else []
    return found


def read_mutual(results: Any) -> list[Finding]:
    targets = {"alternating": -1.15, "simultaneous": -1.02}
    return [
        Finding(f"{results['models']}: {updates} updates over the sum of two supervised steps", value, targets[updates])
        for updates, value in results["over_sum"].items()
    ]


def read_specialists(results: Any) -> list[Finding]:
    what = f"{results['model']}, {results['size']} px: one joint step over four single ones"
    return [Finding(what, results["joint_over_four"]["medians"])]


def read_input(results: Any) -> list[Finding]:
    targets = {"films on the device": 0.98}
    return [
        Finding(f"throughput with {name} over one batch again and again", value, targets.get(name))
        for name, value in results["of_fixed_batch"].items()
    ]


def read_study(results: Any) -> list[Finding]:
    return [
        Finding(f"{row['cell']}, {row['network']}: mean AUROC, {row['seeds']} seed(s)", row["mean_auroc"]["mean"])
        for row in results
        if row["mean_auroc"]["mean"] is not None
    ]


def parts_of(out: Path, films: Path) -> list[Part]:
    """All parts, in order of importance; their files are in `out`."""

    def benchmark(name: str, flags: list[str], read: Any, most: float, label: str = "", quick: str = "") -> Part:
        result = out / "parts" / f"{label or name}.json"
        command = [f"benchmarks.{name}", f"--json={result}"]
        return Part(label or name, command + flags, [*command, *ALL[name], *quick.split()], 15.0, most, result, read)

    def step(model: str, most: float) -> Part:
        flags = [f"--models={model}", "--dtypes=bfloat16", "--rounds=5"]
        part = benchmark("train_step", flags, read_train_step, most, f"train_step-{model}", "--size=32 --rounds=1")
        return part if model == "resnet18" else part._replace(quick=None)

    described = out / "parts" / "device.json"
    describe = ["benchmarks.accelerator", f"--describe={described}"]
    study = ["chexjax.study", f"--workdir={out / 'study'}"]
    settings = [f"--config.{field}={value}" for field, value in RECIPE.items()]
    on_real = [
        *study, "--config=configs/study.py:chestxray14", f"--config.only={CELLS}", "--config.seeds=99",
        f"--config.every.data.dir={films}", *settings,
    ]  # fmt: skip
    on_simulated = [
        *study, "--config=configs/study.py", "--config.only=resnet18", "--config.seeds=1",
        "--config.network.width=0.125", "--config.every.max_steps=4", "--config.every.data.phantom.count=200",
    ]  # fmt: skip
    return [
        Part("device", describe, describe, 5.0, 60.0, described, lambda results: []),
        benchmark("scanline", ["--batches=1,64", "--seconds=2"], read_scanline, 90.0),
        step("resnet18", 90.0),
        step("resnet50", 120.0),
        benchmark(
            "mutual_step",
            ["--rounds=5"],
            read_mutual,
            120.0,
            quick="--models=resnet18,resnet18 --size=32 --batch=4 --rounds=1",
        ),
        benchmark(
            "specialists",
            ["--size=224", "--batch=64", "--rounds=5"],
            read_specialists,
            120.0,
            quick="--size=32 --batch=4 --rounds=1",
        ),
        benchmark("input", ["--films=2048", "--rounds=3"], read_input, 120.0, quick="--batch=8"),
        step("densenet121", 240.0),
        step("densenet169", 300.0),
        Part("study", on_real, on_simulated, 60.0, 36_000.0, out / "study" / "study.json", read_study),
    ]


# Running them


def run(part: Part, command: list[str], out: Path, seconds: float) -> dict[str, Any]:
    """Runs a part with a time limit; returns its status and its results, even partial ones."""
    log = out / "logs" / f"{part.name}.log"
    environment = {
        # JAX would take three quarters of the memory, and torch in the same process has to live too.
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45",
        "JAX_COMPILATION_CACHE_DIR": str(out / "cache" / "programs"),
        "CHEXJAX_CACHE": str(out / "cache"),
        **os.environ,
        "PYTHONUNBUFFERED": "1",
    }
    before = part.result.stat().st_mtime_ns if part.result.exists() else 0
    began = time.monotonic()
    with log.open("a") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=REPOSITORY,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # with all that it starts, torch's compilers too, it can be ended
        )
        ended_in_time = wait(process, seconds)
    results: dict[str, Any] = {"seconds": time.monotonic() - began}
    is_new = part.result.exists() and part.result.stat().st_mtime_ns > before
    if is_new or (not ended_in_time and before):
        results["figures"] = json.loads(part.result.read_text())
    if not ended_in_time:
        results["unfinished"] = f"ended after {seconds:.0f} s; the same command goes on"
    elif process.returncode or "figures" not in results:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        results["unfinished"] = f"failed with status {process.returncode}: {lines[-1] if lines else 'no word'}"
    return results


def wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Waits for the leader of a process group; if it takes longer, stops the group and returns False."""
    try:
        process.wait(timeout=seconds)
        return True
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return False


def describe() -> dict[str, Any]:
    """The device, its driver and the versions of what computes on it."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found: dict[str, Any] = {"machine": machine(), "versions": versions}
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"]
        found["nvidia_smi"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    return found


# What is written


def write(out: Path, results: dict[str, Any], parts: Sequence[Part]) -> str:
    """`accelerator.json` and `accelerator.md`, each in one move; the table."""
    text = format_found(results, parts)
    for name, content in (("accelerator.json", json.dumps(results, indent=1)), ("accelerator.md", text)):
        partial = out / f"{name}.partial"
        partial.write_text(content + "\n")
        partial.rename(out / name)
    return text


def format_found(results: dict[str, Any], parts: Sequence[Part]) -> str:
    """Where it was measured, the table of findings, and what is missing."""
    device = results["parts"].get("device", {}).get("figures")
    lines = ["# What an accelerator says", ""]
    if device:
        here = {**device["machine"], **device["versions"]}
        lines += [", ".join(f"{key} {value}" for key, value in here.items()), device.get("nvidia_smi", ""), ""]
    if results["quick"]:
        lines += ["**A trial with `--quick`: no figure means anything.**", ""]
    rows, missing = [], []
    for part in parts:
        one = results["parts"].get(part.name, {"unfinished": "not begun"})
        if "figures" in one:
            for finding in part.read(one["figures"]):
                verdict = "" if results["quick"] or finding.is_met is None else "met" if finding.is_met else "missed"
                rows.append([part.name, finding.what, f"{finding.value:.4g}", finding.wanted, verdict])
        if "unfinished" in one:
            missing.append(f"- {part.name}: {one['unfinished']}")
    lines += [table(["part", "figure", "value", "target", ""], rows), "", "Left out or not finished:", ""]
    return "\n".join(lines + (missing or ["- nothing"]))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the missing parts while time is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the folder of the results; the same one again goes on")
    parser.add_argument("--minutes", type=float, default=9.0)
    shared = Path(os.environ.get("CHEXJAX_REAL_DATA", REPOSITORY.parent / "shared"))
    parser.add_argument("--films", type=Path, default=shared / "nih-128", help="an NIH folder with folds.csv")
    parser.add_argument("--only", default="", help="parts by name")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--describe", type=Path, help="(used by itself) write what the device is here")
    options = parser.parse_args(argv)
    if options.describe:
        options.describe.write_text(json.dumps(describe(), indent=1))
        return
    if not options.out:
        parser.error("--out=DIR is needed")
    end = time.monotonic() + 60 * options.minutes
    out = options.out.resolve()
    parts = parts_of(out, options.films.resolve())
    if unknown := set(filter(None, options.only.split(","))) - {part.name for part in parts}:
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(p.name for p in parts)}")
    for folder in ("parts", "logs", "cache"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    results = read_earlier(out, options.quick, parser)
    for part in parts:
        one, left = results["parts"].get(part.name), end - time.monotonic() - GRACE
        command, why = part.quick if options.quick else part.command, ""
        if one and "unfinished" not in one:
            continue
        if options.only and part.name not in options.only.split(","):
            why = "not among --only"
        elif command is None:
            why = "--quick leaves it out"
        elif part.name == "study" and not options.quick and not (options.films / "folds.csv").exists():
            why = f"no films: {options.films} holds no folds.csv"
        elif left < part.least:
            why = f"no time: {max(left, 0):.0f} s were left, and it takes {part.least:.0f} at least"
        if why:
            results["parts"][part.name] = {**(one or {}), "unfinished": (one or {}).get("unfinished", why)}
        else:
            print(f"== {part.name}, {left:.0f} s left", flush=True)
            now = run(part, command or [], out, min(part.most, left))
            results["parts"][part.name] = {key: value for key, value in (one or {}).items() if key == "figures"} | now
        write(out, results, parts)
    print(f"\n{write(out, results, parts)}")


def read_earlier(out: Path, quick: bool, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The results of earlier calls in this folder."""
    try:
        results = json.loads((out / "accelerator.json").read_text())
    except OSError:
        return {"quick": quick, "parts": {}}
    if results["quick"] != quick:
        parser.error(f"{out} holds figures {'with' if results['quick'] else 'without'} --quick; choose another folder")
    return results


if __name__ == "__main__":
    main()
