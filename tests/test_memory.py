"""What a step frees is there for the next one, and what a compiler frees for others, in processes that ask for it."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")

PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from chexjax.devices import let_end
from chexjax.runtime import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()

@jax.jit
def step(x):
    for _ in range(3):
        x = jax.lax.cumsum(jnp.sin(x))
    return x.sum()

x, faults = jnp.ones((10_000, 2048)), []
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    let_end(step(x))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


COMPILATION = """
import resource
import numpy as np
import jax
from chexjax.runtime import COMPILED, keep_freed_memory
keep_freed_memory()

seen = []
jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: seen.append(event))
jax.jit(lambda x: x + 1)(1.0)
assert COMPILED in seen, seen

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

pieces = [np.ones(2**17) for _ in range(300)]  # 300 MB
del pieces[::2]
before = resident()
jax.monitoring.record_event_duration_secs(COMPILED, 2.0)
print(100 * (before - resident()) // (150 * 2**20))
"""


def pages_asked_for(word: str, **settings: str) -> int:
    """By the cheapest of twenty steps that need more than 80 MB."""
    return run(PROGRAM, word, **settings)


def run(program: str, word: str = "", **settings: str) -> int:
    """The number that a process with the environment of a user prints."""
    settings_of_ours = ("MALLOC_", "GLIBC_", "XLA_FLAGS")  # the steps are quick only if XLA optimises them
    environment = {name: value for name, value in os.environ.items() if not name.startswith(settings_of_ours)}
    environment |= {"JAX_PLATFORMS": "cpu", **settings}
    done = subprocess.run(
        [sys.executable, "-c", program, word], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    return int(done.stdout)


@pytest.fixture(scope="module")
def anew() -> int:
    """Pages that a step asks for where nothing is kept."""
    pages = pages_asked_for("as it is")
    if pages < 1000:
        pytest.skip("this machine's pages are huge, or its C library keeps memory by itself")
    return pages


def test_a_step_finds_the_memory_that_the_one_before_it_freed(anew: int) -> None:
    assert pages_asked_for("keep") < anew / 20


def test_what_the_environment_says_to_glibc_comes_first(anew: int) -> None:
    assert pages_asked_for("keep", MALLOC_TOP_PAD_="0") > anew / 2


def test_what_a_compiler_has_freed_goes_back_to_the_system() -> None:
    assert run(COMPILATION) > 90  # per cent
