"""Films of 1024 x 1024 cleaned a second: `remove_artifacts` against numba, NumPy, and the floor, in one run.

    nice -n 5 python -m benchmarks.scanline [--batches=1,8,64] [--seconds=4] [--json=FILE]

Every competitor takes films and returns NEW films, so that each pays for the memory it writes; an accelerator has its
input on the device already. Outputs are compared bit for bit before any clock runs. Then the competitors take turns in
random order, so that a busy neighbour slows all of them alike, and the median of each counts. The column `at best` has
the ratio of the shortest times, for machines whose neighbours are never quiet.

- numba, all cores: the scalar rule, compiled, `prange` over rows. The ratio in the table is against this one.
- numba, one core: the same without `prange`.
- NumPy: whole-row cumulative maxima over int32 positions, as one writes it first. Slow, so it sits out after 3 rounds.
- floor: a copy of the same bytes; NumPy's on a CPU, a jitted one elsewhere.

Films: `real`, from ../shared/nih-sample (or CHEXJAX_REAL_DATA), repeated where the batch is larger; without them,
`simulated`: smooth shading, film noise, a few wires and markers. `noise` is the worst case: independent uniform grey
levels, an up-edge or a down-edge at six pixels of ten.
"""

import functools
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contest import Results, finish, introduce, parser_of
from chexjax.data.images import read_grey
from chexjax.scanline import MAX_WIDTH, THRESHOLD, remove_artifacts

numba: Any
try:
    import numba
except ImportError:
    numba = None

SIDE: Final = 1024
NUMBA: Final = "numba, all cores"
TURN: Final = 0.05  # seconds a competitor runs at least, call after call, before the next one's turn
ROUNDS: Final = 25  # at most; --seconds may end a contest sooner, but not before five


# The competitors: uint8 (N, 1024, 1024) -> uint8 (N, 1024, 1024)


def clean_with_numpy(films: np.ndarray) -> np.ndarray:
    """Whole-row scans over int32 positions: the last down-edge, the next one, the first near up-edge between."""
    width = films.shape[-1]
    signed = films.astype(np.int16)
    jumps = np.diff(signed, axis=-1, prepend=signed[..., :1])
    columns = np.arange(width, dtype=np.int32)
    ups, downs = jumps >= THRESHOLD, jumps <= -THRESHOLD
    last_down = np.maximum.accumulate(np.where(downs, columns, 0), axis=-1)
    end = _next(downs, columns)
    end = np.concatenate([end[..., 1:], np.full_like(end[..., :1], width + MAX_WIDTH)], axis=-1)
    start = np.take_along_axis(_next(ups & (end - columns <= MAX_WIDTH), columns), last_down, axis=-1)
    inside = (start <= columns) & (end - start <= MAX_WIDTH)
    left = np.take_along_axis(signed, np.maximum(start - 1, 0) % width, axis=-1)
    right = np.take_along_axis(signed, end % width, axis=-1)
    return np.where(inside, (left + right) // 2, films).astype(np.uint8)


def _next(events: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The first event at or after each column; beyond reach where there is none."""
    positions = np.where(events, columns, len(columns) + MAX_WIDTH)
    return np.minimum.accumulate(positions[..., ::-1], axis=-1)[..., ::-1]


def compile_scalar_rule(parallel: bool) -> Callable[[np.ndarray], np.ndarray]:
    """The rule as one writes it in C, compiled by numba."""

    @numba.njit
    def clean_row(row: Any, cleaned: Any) -> None:
        width = row.shape[0]
        cleaned[:] = row
        i = 1
        while i < width:
            if np.int32(row[i]) - np.int32(row[i - 1]) >= THRESHOLD:
                j = i + 1
                while j < width and np.int32(row[j - 1]) - np.int32(row[j]) < THRESHOLD:
                    j += 1
                if j < width and j - i <= MAX_WIDTH:
                    cleaned[i:j] = (np.int32(row[i - 1]) + np.int32(row[j])) // 2
                    i = j
            i += 1

    @numba.njit(parallel=parallel)
    def clean(films: Any) -> Any:
        cleaned = np.empty_like(films)
        rows, cleaned_rows = films.reshape(-1, films.shape[-1]), cleaned.reshape(-1, films.shape[-1])
        for index in numba.prange(rows.shape[0]):
            clean_row(rows[index], cleaned_rows[index])
        return cleaned

    return clean


def competitors(films: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Each ready to be called, its input where it wants it."""
    on_device = jax.device_put(films)
    copy = jax.jit(jnp.copy)
    found: dict[str, Callable[[], Any]] = {
        "chexjax": lambda: remove_artifacts(on_device).block_until_ready(),
        "NumPy": lambda: clean_with_numpy(films),
        "floor (copy)": films.copy if jax.default_backend() == "cpu" else lambda: copy(on_device).block_until_ready(),
    }
    if numba:
        found[NUMBA] = functools.partial(compile_scalar_rule(parallel=True), films)
        found["numba, one core"] = functools.partial(compile_scalar_rule(parallel=False), films)
    return found


# The films


def load_films(count: int) -> tuple[str, np.ndarray]:
    """Real films where there are any, simulated ones elsewhere."""
    shared = Path(os.environ.get("CHEXJAX_REAL_DATA", Path(__file__).resolve().parents[2] / "shared"))
    paths = sorted((shared / "nih-sample").glob("images*/images/*.png"))[:count]
    if not paths:
        return "simulated", np.stack([simulate(seed) for seed in range(count)])
    films = [read_grey(path) for path in paths]
    return "real", np.stack([films[index % len(films)] for index in range(count)])


def simulate(seed: int) -> np.ndarray:
    """Shading, film noise, six wires and four markers: about as many edges as a real film."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    film = 110 + 60 * np.sin(3 * np.pi * x) * np.sin(np.pi * y) + rng.normal(0, 4, (SIDE, SIDE))
    for _ in range(6):
        centre, slope = rng.uniform(0.2, 0.8), rng.uniform(-0.3, 0.3)
        film[(np.abs(x - centre - slope * (y - 0.5)) < 3 / SIDE) & (np.abs(y - 0.5) < 0.12)] = 240
    for _ in range(4):
        top, left = rng.integers(0, SIDE - 40, 2)
        film[top : top + 30, left : left + 12] = 250
    return np.clip(film, 0, 255).astype(np.uint8)


# The contest


def compete(films: np.ndarray, seconds: float) -> dict[str, dict[str, float]]:
    """Equal outputs first, then medians of interleaved rounds: images a second, ratio to numba, share of the floor."""
    runs = competitors(films)
    wanted = clean_with_numpy(films)
    for name, run in runs.items():
        if not name.startswith("floor") and not np.array_equal(np.asarray(run()), wanted):
            raise SystemExit(f"error: {name} gives other pixels than NumPy; nothing was timed")
    times: dict[str, list[float]] = {name: [] for name in runs}
    began = time.perf_counter()
    while len(times["chexjax"]) < ROUNDS and (time.perf_counter() - began < seconds or len(times["chexjax"]) < 5):
        for name, run in random.sample(list(runs.items()), len(runs)):
            if name == "NumPy" and len(times[name]) == 3:
                continue
            times[name].append(_seconds_a_call(run))
    medians = {name: statistics.median(values) for name, values in times.items()}
    best = {name: min(values) for name, values in times.items()}
    return {
        name: {
            "images_per_second": len(films) / median,
            "times_numba": medians[NUMBA] / median if numba else float("nan"),
            "times_numba_at_best": best[NUMBA] / best[name] if numba else float("nan"),
            "share_of_copy": medians["floor (copy)"] / median,
            "rounds": len(times[name]),
        }
        for name, median in medians.items()
    }


def _seconds_a_call(run: Callable[[], Any]) -> float:
    """The mean over a turn: one call of a millisecond would measure what the turn before left in caches and threads."""
    calls, began = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - began < TURN:
        run()
        calls += 1
    return (time.perf_counter() - began) / calls


def main(argv: Sequence[str] | None = None) -> Results:
    parser = parser_of(__doc__)
    parser.add_argument("--batches", default="1,8,64", help="batch sizes")
    parser.add_argument("--seconds", type=float, default=4.0, help="per contest, after warming up")
    arguments = parser.parse_args(argv)
    version = numba.__version__ if numba else None
    introduce(f"films of {SIDE} px, numba {version}")
    if not numba:
        print("numba is not installed: skipped, and no ratio (pip install 'chexjax[bench]')")
    batches = [int(batch) for batch in arguments.batches.split(",")]
    kind, films = load_films(max(batches))
    noise = np.random.default_rng(0).integers(0, 256, films.shape, dtype=np.uint8)
    results = []
    print(
        f"\n{'films':<10}{'batch':>6}  {'':<18}{'images/s':>10}{'x numba':>9}{'at best':>9}{'of copy':>9}{'rounds':>8}"
    )
    for label, source in ((kind, films), ("noise", noise)):
        for batch in batches:
            for name, row in compete(source[:batch], arguments.seconds).items():
                results.append({"films": label, "batch": batch, "name": name, **row})
                print(
                    f"{label:<10}{batch:>6}  {name:<18}{row['images_per_second']:>10.0f}"
                    f"{row['times_numba']:>9.2f}{row['times_numba_at_best']:>9.2f}{row['share_of_copy']:>9.2f}{row['rounds']:>8}",
                    flush=True,
                )
    return finish({"numba": version, "results": results}, arguments.json)


if __name__ == "__main__":
    main()
