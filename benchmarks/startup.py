"""From typing a command to its first training step: the first start, and the second.

    python -m benchmarks.startup [--config=configs/dml.py] [--json=FILE]

Three starts of the same run in new processes and new workdirs: with an empty cache (films are drawn and prepared, and
programs compiled); with the films there, but nothing compiled; with both. The clock stops when the command says that
its first steps ended; then it is stopped.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contest import Results, finish, introduce, parser_of, table

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


def main(argv: Sequence[str] | None = None) -> Results:
    """Prints the three times and their ratios."""
    parser = parser_of(__doc__)
    parser.add_argument("--config", default="configs/dml.py")
    options = parser.parse_args(argv)
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
