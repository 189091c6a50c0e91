"""The time from starting a command to its first training step, to a film's findings, to its help.

    python -m benchmarks.startup [--config=configs/dml.py] [--checkpoint=WORKDIR --film=FILE] [--json=FILE]

Three starts of the same run in new processes and new workdirs: with an empty cache (films are drawn and prepared, and
programs compiled); with the films there, but nothing compiled; with both. The clock stops when the command says that
its first steps ended; then it is stopped.

With --checkpoint and --film, instead: the prediction of that film, with an empty cache and with the programs there, and
the help of every command; the median of five each, but for the empty cache.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contest import Results, finish, introduce, parser_of, table
from chexjax.cli import COMMANDS

REPOSITORY = Path(__file__).resolve().parents[1]


def start(config: str, cache: Path, workdir: Path, **settings: str) -> float:
    """Seconds until the first steps ended."""
    unset = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "chexjax.main", f"--config={config}", f"--workdir={workdir}"],
        cwd=REPOSITORY,
        env={**environment, "CHEXJAX_CACHE": str(cache), "PYTHONUNBUFFERED": "1", **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    try:
        for line in process.stdout:
            if "steps ended" in line:
                return time.perf_counter() - began
    finally:
        process.kill()
        process.wait()
    raise SystemExit("error: the run ended before its first step")


def timed(module: str, *arguments: str, cache: Path) -> float:
    """Seconds of a command, start and end included."""
    unset = "JAX_COMPILATION_CACHE_DIR"
    environment = {key: value for key, value in os.environ.items() if key != unset} | {"CHEXJAX_CACHE": str(cache)}
    began = time.perf_counter()
    command = [sys.executable, "-m", module, *arguments]
    subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, check=True)
    return time.perf_counter() - began


def first_answers(checkpoint: str, film: str, work: Path) -> dict[str, float]:
    """Seconds until a film is predicted, and until each command has shown its help."""
    arguments = [f"--checkpoint={Path(checkpoint).resolve()}", str(Path(film).resolve())]
    seconds = [timed("chexjax.predict", *arguments, f"--out={work / str(k)}", cache=work / "cache") for k in range(6)]
    found = {"predict, empty cache": seconds[0], "predict, programs there": statistics.median(seconds[1:])}
    for name, command in COMMANDS.items():
        helps = [timed(command.module, "--help", cache=work / "cache") for _ in range(5)]
        found[f"{name} --help"] = statistics.median(helps)
    return found


def main(argv: Sequence[str] | None = None) -> Results:
    """Prints the times; of the starts of a run also their ratios."""
    parser = parser_of(__doc__)
    parser.add_argument("--config", default="configs/dml.py")
    parser.add_argument("--checkpoint")
    parser.add_argument("--film")
    options = parser.parse_args(argv)
    if options.checkpoint and options.film:
        introduce("first answers of the commands")
        with tempfile.TemporaryDirectory() as folder:
            found = first_answers(options.checkpoint, options.film, Path(folder))
        print(table(["command", "s"], [[name, f"{seconds:.2f}"] for name, seconds in found.items()]))
        return finish({"checkpoint": options.checkpoint, "seconds": found}, options.json)
    introduce(f"start of {options.config}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        found = {
            "empty cache": start(options.config, work / "cache", work / "1"),
            "films there, nothing compiled": start(
                options.config, work / "cache", work / "2", JAX_ENABLE_COMPILATION_CACHE="0"
            ),
            "both there": start(options.config, work / "cache", work / "3"),
        }
    last = found["both there"]
    rows = [[name, f"{seconds:.1f}", f"{seconds / last:.2f}"] for name, seconds in found.items()]
    print(table(["start", "s to the first step", "over the last"], rows))
    return finish({"config": options.config, "seconds": found}, options.json)


if __name__ == "__main__":
    main()
