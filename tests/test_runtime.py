"""Compiled programs are found again by the next process, and do not grow without bound."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
from chexjax.runtime import keep_compilations
keep_compilations()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
jax.jit(lambda x: jnp.sin(x) @ x.T)(np.ones((5, int(sys.argv[1])), np.float32))
print(events.count("/jax/compilation_cache/cache_hits"))
"""


def hits(rows: int = 5, **settings: str) -> int:
    """How many programs a new process finds compiled; another number of rows is another program."""
    unset = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    environment = {key: value for key, value in os.environ.items() if key not in unset} | settings
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(rows)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return int(done.stdout)


def test_a_second_process_finds_what_the_first_compiled(tmp_path: Path) -> None:
    assert hits(CHEXJAX_CACHE=str(tmp_path)) == 0
    assert any((tmp_path / "xla").iterdir())
    assert hits(CHEXJAX_CACHE=str(tmp_path)) > 0


@pytest.mark.parametrize("off", ["JAX_ENABLE_COMPILATION_CACHE", "CHEXJAX_CACHE"])
def test_it_can_be_switched_off_and_a_folder_that_cannot_be_is_no_error(tmp_path: Path, off: str) -> None:
    (tmp_path / "file").touch()
    given = {"CHEXJAX_CACHE": str(tmp_path), off: "0" if off.startswith("JAX") else str(tmp_path / "file" / "below")}
    assert hits(**given) == 0
    assert not any((tmp_path / "xla").glob("*"))


def test_what_was_not_used_for_longest_goes_first_also_where_jax_had_set_no_date(tmp_path: Path) -> None:
    given = {"CHEXJAX_CACHE": str(tmp_path)}
    assert hits(5, **given) == 0
    for date in (tmp_path / "xla").glob("*-atime"):
        date.unlink()  # as a process leaves it that is killed, or a JAX without a limit
    first = sizes(tmp_path / "xla")
    assert hits(6, **given) == 0
    limit = sum(sizes(tmp_path / "xla").values())
    assert limit > sum(first.values())
    assert hits(7, **given, JAX_COMPILATION_CACHE_MAX_SIZE=str(limit)) == 0
    kept = sizes(tmp_path / "xla")
    assert 0 < sum(kept.values()) <= limit
    assert not kept.keys() & first.keys()
    assert hits(7, **given) > 0


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob("*-cache")}


def ended(body: str, loaded: str = "import jax", out: object = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """What a process leaves that runs a command with this body."""
    program = f"{loaded}\nimport atexit, sys\nfrom chexjax.runtime import run\ndef main():\n    {body}\nrun(main)"
    return subprocess.run(
        [sys.executable, "-c", program], stdout=out, stderr=subprocess.PIPE, text=True, timeout=300
    )  # fmt: skip


@pytest.mark.parametrize("loaded", ["import jax", ""])
@pytest.mark.parametrize(("end", "status"), [("", 0), ("raise SystemExit", 0), ("sys.exit(3)", 3), ("sys.exit(0)", 0)])
def test_a_command_ends_with_its_status_and_all_it_printed(loaded: str, end: str, status: int) -> None:
    done = ended(f"print('x' * 5000); print('y', file=sys.stderr); {end}", loaded)
    assert (done.returncode, done.stdout, done.stderr) == (status, "x" * 5000 + "\n", "y\n")


def test_a_command_that_fails_shows_why() -> None:
    assert "ZeroDivisionError" in ended("1 / 0").stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_command_whose_output_is_lost_has_not_succeeded() -> None:
    with open("/dev/full", "w") as full:
        assert ended("print('x')", out=full).returncode != 0


def test_a_process_with_jax_ends_without_taking_everything_apart() -> None:
    assert "apart" in ended("atexit.register(print, 'taken apart')", "").stdout
    assert ended("atexit.register(print, 'taken apart')").stdout == ""
