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
    told = {"CHEXJAX_CACHE": str(tmp_path), off: "0" if off.startswith("JAX") else str(tmp_path / "file" / "below")}
    assert hits(**told) == 0
    assert not any((tmp_path / "xla").glob("*"))


def test_what_was_not_used_for_longest_goes_first_also_where_jax_had_set_no_date(tmp_path: Path) -> None:
    told = {"CHEXJAX_CACHE": str(tmp_path)}
    assert hits(5, **told) == 0
    for date in (tmp_path / "xla").glob("*-atime"):
        date.unlink()  # as a process leaves it that is killed, or a JAX without a limit
    first = sizes(tmp_path / "xla")
    assert hits(6, **told) == 0
    limit = sum(sizes(tmp_path / "xla").values())
    assert limit > sum(first.values())
    assert hits(7, **told, JAX_COMPILATION_CACHE_MAX_SIZE=str(limit)) == 0
    kept = sizes(tmp_path / "xla")
    assert 0 < sum(kept.values()) <= limit
    assert not kept.keys() & first.keys()
    assert hits(7, **told) > 0


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob("*-cache")}
