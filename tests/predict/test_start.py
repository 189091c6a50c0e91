"""What starts without JAX, and what a process that only draws loads."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent
HEAVY = {"jax", "flax", "numpy", "PIL", "scipy", "matplotlib", "orbax"}


def test_a_process_that_draws_loads_no_jax() -> None:
    program = "import sys, chexjax.explain.overlay, chexjax.predict.__main__; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert not {"jax", "flax", "orbax"} & set(done.stdout.split())
