"""What starts without JAX, and what a process that only draws loads."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
HEAVY = {"jax", "flax", "numpy", "PIL", "scipy", "matplotlib", "orbax"}


@pytest.mark.parametrize("module", ["chexjax.predict", "chexjax.predict.join"])
def test_the_help_loads_no_library_that_computes(module: str) -> None:
    program = (
        f"import atexit, runpy, sys; sys.argv = ['x', '--help']\n"
        f"atexit.register(lambda: print('LOADED', *sorted(sys.modules)))\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    text, _, loaded = done.stdout.partition("LOADED")
    assert "Exit status" in text
    assert "chexjax.predict.command" in loaded.split()
    assert not HEAVY & set(loaded.split())


def test_a_process_that_draws_loads_no_jax() -> None:
    program = "import sys, chexjax.explain.overlay, chexjax.predict.__main__; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert not {"jax", "flax", "orbax"} & set(done.stdout.split())


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_while_libraries_are_loaded_is_one_line(tmp_path: Path) -> None:
    """A library that takes a minute to load stands for JAX: the command is interrupted in the midst of it."""
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("import time; print('loading', flush=True); time.sleep(60)")
    process = subprocess.Popen(
        [sys.executable, "-m", "chexjax.export", "--out=x"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "loading\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert told == "error: interrupted\n"
    assert process.returncode in (-signal.SIGINT, 130)
