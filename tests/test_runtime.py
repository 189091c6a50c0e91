"""Compiled programs are found again by the next process, and do not grow without bound."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chexjax.runtime import _forget_oldest

PROGRAM = """
import jax, jax.numpy as jnp
from chexjax.runtime import keep_compilations
keep_compilations()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((5, 5)))
print(events.count("/jax/compilation_cache/cache_hits"))
"""


def hits(**settings: str) -> int:
    """How many programs a new process finds compiled."""
    unset = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    environment = {key: value for key, value in os.environ.items() if key not in unset} | settings
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True, timeout=300
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


def test_the_oldest_go_first(tmp_path: Path) -> None:
    for age, name in enumerate(["new", "middle", "old"]):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    _forget_oldest(tmp_path, limit=20)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "middle"}
