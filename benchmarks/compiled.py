"""Compiles our programs for absent chips, and counts what they would do. Nothing is run.

    python -m benchmarks.compiled --chip=h100 [--devices=1] [--only=supervised,evaluate:resnet18] [--dtypes=bfloat16]
        [--batch=64] [--size=224] [--width=1] [--largest=no] [--xla_flags=FLAGS] [--json=FILE]

Chips: a100, h100, h200, b200, v4, v5e, v5p, v6e; benchmarks/README.md says what compiling for them needs.
Programs (`--only`: kinds or whole names): each network's evaluation, the predictor with its maps, `remove_artifacts`,
every regime's training step, and several steps in one call with all films in the devices' memory; `--batch` films a
device. Beside evaluation and the supervised step of a ResNet or DenseNet stands a plain flax.linen network of the same
shape, in the same program. All is compiled in child processes: XLA may end its process, and the table goes on.

- kernels, GB: what is launched, and what it reads and writes, operands and results (`benchmarks/hlo.py`); a loop
  of unknown length counts once.
- TFLOP: convolutions and matrix products; on a TPU all that XLA counts.
- bounds: these bytes over the chip's bandwidth; this arithmetic over the chip's peak (float32: TF32 on a GPU, bfloat16
  on a TPU, XLA's defaults). The larger one bounds films a second. "ideal fusion": the bound of a supervised step in
  bfloat16 whose every elementwise operation is fused into the convolution before it.
- peak: arguments, results and temporaries, as XLA plans them; without what cuDNN takes for itself.
- largest batch: a straight line through the peaks of `--batch` and half of it, up to what JAX takes of the memory by
  default (three quarters of a GPU's, all of a TPU's); "*" where that batch was then compiled, and fits.
"""

import gc
import json
import math
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import jax

from benchmarks import chips
from benchmarks.contest import Results, finish, parser_of, table
from benchmarks.hlo import count
from benchmarks.plain import STAGES
from benchmarks.programs import DEFAULT, KINDS, WITH_PEER, Form, lower
from benchmarks.train_step import BOUNDS

REPOSITORY: Final = Path(__file__).resolve().parents[1]
LIMIT: Final = 1200.0  # seconds that one program may take
CHEAP: Final = 20.0  # seconds to compile, up to which the largest batch is compiled too
STEP: Final = 8  # the largest batch is a multiple of it
# Bytes a film that a training step in bfloat16 must move at 224 px where all is fused: from the bound of one chip.
IDEAL: Final = {name: 4.8e12 / films for name, (_, films) in BOUNDS["NVIDIA H200"].items()}

Job = dict[str, Any]  # program, form, devices, chip, largest: whether to look for the largest batch
Row = dict[str, Any]  # the job, and what was found ("largest" is then the batch, or 0); or "failed", and why


# In the child: compile


def work() -> None:
    """Takes jobs as JSON from stdin, and prints a line when ready and lines as they are done."""
    jobs = json.load(sys.stdin)
    print(json.dumps("ready"), flush=True)
    for job in jobs:
        for found in compile_job(job):
            print(json.dumps(found), flush=True)
        print(json.dumps(None), flush=True)
        jax.clear_caches()
        gc.collect()


def compile_job(job: Job) -> Iterator[Row]:
    """The results for a program, one at a time."""
    if job["program"] == "abort":  # for tests: what XLA does where one of its checks fails
        print("F0000 00:00:00.000000 1 nowhere.cc:1] Check failed: false", file=sys.stderr, flush=True)
        os.abort()
    try:
        found = compile_once(job)
    except Exception as error:
        yield {"failed": f"fails: {_first_line(str(error)) or type(error).__name__}"}
        return
    wanted = job["largest"]
    yield found | {"largest": 0, "confirmed": False}
    if not wanted:
        return
    batch = job["form"]["batch"]
    half = compile_once(with_batch(job, batch // 2))
    chip = chips.CHIPS[job["chip"]]
    largest = largest_batch((batch // 2, half["peak"]), (batch, found["peak"]), chip.share * chip.memory)
    yield {"largest": largest, "confirmed": False}
    if largest and found["seconds"] <= CHEAP:
        try:
            peak = compile_once(with_batch(job, largest))["peak"]
        except Exception:  # a TPU's compiler refuses what does not fit
            peak = math.inf
        yield {"confirmed": peak <= chip.share * chip.memory}


def with_batch(job: Job, batch: int) -> Job:
    return {**job, "form": {**job["form"], "batch": batch}}


def compile_once(job: Job) -> Row:
    """Compiles a program and counts what it does."""
    devices = chips.devices(job["chip"], job["devices"])
    began = time.perf_counter()
    lowered = lower(job["program"], Form(**job["form"]), devices)
    traced = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - traced
    counts, memory = count(compiled.as_text()), compiled.memory_analysis()
    parts = {
        "arguments": memory.argument_size_in_bytes,
        "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
    }
    flops = compiled.cost_analysis()["flops"] if chips.CHIPS[job["chip"]].platform == "tpu" else counts.flops
    return {
        "tracing_seconds": traced - began,
        "seconds": seconds,
        "kernels": counts.kernels,
        "bytes": counts.bytes,
        "whole_bytes": counts.whole_bytes,
        "flops": flops,
        "memory": parts,
        "peak": sum(parts.values()),
        "collectives": counts.collectives,
        "calls": dict(counts.calls),
        "dots": counts.dots,
        "loops": counts.loops,
    }


def largest_batch(one: tuple[int, int], other: tuple[int, int], limit: float) -> int:
    """The largest multiple of `STEP` that fits, extrapolated from two (batch, bytes); 0 if none does."""
    slope = (other[1] - one[1]) / (other[0] - one[0])
    if slope <= 0:
        return 0
    return max(int((limit - one[1]) / slope + one[0]) // STEP * STEP, 0)


# In the parent: children that may die


def compile_all(
    jobs: Sequence[Job], tell: Callable[[Row], None] = lambda row: None, limit: float = LIMIT, flags: str = ""
) -> list[Row]:
    """A row for each job, in order; all are for one chip. `tell` is given each row when it is complete.

    They share a child process for as long as it lives, `flags` being more of XLA's. Where a program ends it, or takes
    longer than `limit` seconds, the row says so, and a new child takes the next.
    """
    rows: list[Row] = []
    while len(rows) < len(jobs):
        for row in _child(jobs[len(rows) :], limit, flags):
            rows.append(row)
            tell(row)
    return rows


def _child(jobs: Sequence[Job], limit: float, flags: str) -> Iterator[Row]:
    """The rows of the jobs that a child comes to; of the last one perhaps why it got no further."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.compiled", "--worker"],
            cwd=REPOSITORY,
            env=chips.environment(jobs[0]["chip"], flags),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdin
        assert process.stdout
        lines: queue.Queue[str] = queue.Queue()

        def listen(stream: Any) -> None:
            for line in stream:
                lines.put(line)
            lines.put("")

        threading.Thread(target=listen, args=(process.stdout,), daemon=True).start()
        try:
            process.stdin.write(json.dumps(list(jobs)))
            process.stdin.close()
            if not lines.get(timeout=limit):
                errors.seek(0)
                raise SystemExit(f"error: no program could be compiled: {errors.read().strip()[-2000:]}")
            for job in jobs:
                row, ended = dict(job), False
                while not ended:
                    try:
                        line = lines.get(timeout=limit)
                    except queue.Empty:
                        yield row | _unfinished(row, f"not compiled after {limit:.0f} s")
                        return
                    if not line:
                        process.wait()
                        errors.seek(0)
                        yield row | _unfinished(row, f"aborts: {why_it_died(errors.read(), process.returncode)}")
                        return
                    found = json.loads(line)
                    ended = found is None
                    row |= found or {}
                yield row
        finally:
            process.kill()
            process.wait()


def _unfinished(row: Row, why: str) -> Row:
    """A compiled program of which only the search for the largest batch is unfinished."""
    return {"largest": 0} if "seconds" in row else {"failed": why}


def why_it_died(errors: str, status: int) -> str:
    """The line of a process's last words that says why XLA ended it."""
    for pattern in (r"Check failed.*", r"^F\d{4}.*", r"^\S*Error.*"):
        if found := re.findall(pattern, errors, re.MULTILINE):
            where = re.search(r"(\w+\.cc:\d+)\] " + re.escape(found[0]), errors)
            return f"{where.group(1)} {found[0]}" if where else found[0]
    return _first_line(errors) or f"status {status}"


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


# The table


def bounds(row: Row) -> dict[str, float]:
    """Lower bounds in seconds from the chip's memory and arithmetic, and the upper bound in films per second."""
    chip = chips.CHIPS[row["chip"]]
    memory, arithmetic = row["bytes"] / chip.bandwidth, row["flops"] / chip.flops[row["form"]["dtype"]]
    return {"memory": memory, "arithmetic": arithmetic, "films": row["form"]["batch"] / max(memory, arithmetic)}


def ideal(row: Row) -> float | None:
    """Films per second of a supervised step with all elementwise operations fused; None if unknown."""
    kind, _, model = row["program"].partition(":")
    form = row["form"]
    known = kind == "supervised" and form["dtype"] == "bfloat16" and form["size"] == 224 and form["width"] == 1
    return chips.CHIPS[row["chip"]].bandwidth / IDEAL[model] if known and model in IDEAL else None


HEAD: Final = (
    "program", "dtype", "compiled, s", "kernels", "GB", "plain linen", "of it", "TFLOP", "peak, GiB", "largest batch",
    "messages", "by memory, ms", "by arithmetic, ms", "films/s at most", "ideal fusion",
)  # fmt: skip


def format_rows(rows: Sequence[Row]) -> str:
    """The table; a plain network is in the row of ours."""
    peers = {(row["program"], row["form"]["dtype"]): row for row in rows if row["form"]["plain"]}
    lines = []
    for row in rows:
        if row["form"]["plain"]:
            continue
        name = [row["program"], row["form"]["dtype"]]
        if "failed" in row:
            lines.append([*name, row["failed"], *[""] * (len(HEAD) - 3)])
            continue
        peer, bound, films = peers.get((name[0], name[1]), {}), bounds(row), ideal(row)
        largest = f"{row['largest']}{'*' * row['confirmed']}" if row["largest"] else ""
        messages = f"{len(row['collectives'])}, {sum(size for _, size in row['collectives']) / 2**20:.2f} MiB"
        lines.append(
            [
                *name,
                f"{row['seconds']:.1f}",
                f"{row['kernels']}{' a turn' * (None in row['loops'])}",
                short(row["bytes"] / 1e9),
                short(peer["bytes"] / 1e9) if "bytes" in peer else peer.get("failed", ""),
                f"{row['bytes'] / peer['bytes']:.2f}" if "bytes" in peer else "",
                short(row["flops"] / 1e12),
                short(row["peak"] / 2**30),
                largest,
                messages if row["collectives"] else "0",
                short(1e3 * bound["memory"]),
                short(1e3 * bound["arithmetic"]),
                f"{bound['films']:,.0f}",
                f"{films:,.0f}" if films else "",
            ]
        )
    return table(HEAD, lines)


def short(figure: float) -> str:
    """Three digits, or all that stand before the point."""
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.3g}"


def chosen(only: str) -> list[str]:
    """The programs that `--only` names, by kind or by whole name.

    Raises:
      ValueError: there is no such kind.
    """
    found = []
    for wanted in only.split(",") if only else DEFAULT:
        kind = wanted.partition(":")[0]
        if kind not in KINDS:
            raise ValueError(f"no program is called {wanted}; the kinds are {', '.join(KINDS)}")
        found += [name for name in DEFAULT if name.partition(":")[0] == wanted] if kind == wanted else [wanted]
    return list(dict.fromkeys(found))


def has_peer(program: str) -> bool:
    """Whether a plain linen network does the same."""
    kind, _, models = program.partition(":")
    return kind in WITH_PEER and models in STAGES


def jobs_of(chip: str, programs: Sequence[str], dtypes: Sequence[str], options: Any) -> list[Job]:
    """Every program in every dtype, with its plain peer where there is one."""
    return [
        {
            "chip": chip,
            "devices": options.devices,
            "program": name,
            "form": Form(options.batch, options.size, dtype, options.width, plain)._asdict(),
            "largest": options.largest == "yes" and not plain,
        }
        for name in programs
        for dtype in (dtypes if name != "clean" else dtypes[:1])
        for plain in ((False, True) if has_peer(name) else (False,))
    ]


def describe(row: Row) -> str:
    """A row as one line, while others are still being compiled."""
    name = f"{row['program']}, {row['form']['dtype']}{', plain linen' * row['form']['plain']}"
    if "failed" in row:
        return f"{name}: {row['failed']}"
    return f"{name}: {row['seconds']:.1f} s, {row['kernels']} kernels, {short(row['bytes'] / 1e9)} GB"


def main(argv: Sequence[str] | None = None) -> Results:
    """Prints the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--chip", default="h100", help=f"one of {', '.join(chips.CHIPS)}; several with commas")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--batch", type=int, default=64, help="films a device")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--width", type=float, default=1.0, help="multiplies every channel count")
    parser.add_argument("--largest", choices=["yes", "no"], default="yes", help="look for the largest batch")
    parser.add_argument("--xla_flags", default="", help="more of XLA's flags")
    parser.add_argument("--worker", action="store_true", help="(used by itself) compile what stdin says")
    options = parser.parse_args(argv)
    if options.worker:
        work()
        return {}
    jax.config.update("jax_platforms", "cpu")
    try:
        programs = chosen(options.only)
    except ValueError as error:
        parser.error(str(error))
    wanted = options.chip.split(",")
    if unknown := set(wanted) - set(chips.CHIPS):
        parser.error(f"no chip is called {', '.join(sorted(unknown))}; there are {', '.join(chips.CHIPS)}")
    found: Results = {}
    for chip in wanted:
        if why := chips.missing(chip):
            print(f"{chip}: left out: {why}")
            found[chip] = {"left_out": why}
            continue
        form = f"{options.batch} films of {options.size} px a device" + f", width {options.width:g}" * (
            options.width != 1
        )
        print(f"{chip}, {options.devices} device(s), {form}, jax {jax.__version__}: compiled, not run", flush=True)
        jobs = jobs_of(chip, programs, options.dtypes.split(","), options)
        rows = compile_all(jobs, lambda row: print(describe(row), flush=True), flags=options.xla_flags)
        print(f"\n{format_rows(rows)}\n", flush=True)
        found[chip] = {"rows": rows}
    return finish({"jax": jax.__version__, "chips": found}, options.json)


if __name__ == "__main__":
    main()
