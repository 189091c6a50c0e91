"""Memory that XLA's steps on a CPU ask for, kept from one step to the next."""

import ctypes
import os
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Final

# The names and numbers of glibc's mallopt(3).
M_TRIM_THRESHOLD: Final = -1
M_MMAP_MAX: Final = -4
M_ARENA_MAX: Final = -8


def keep_freed_memory() -> None:
    """Has glibc keep what a step frees, where JAX computes on the CPU: call it before JAX's first computation.

    XLA asks for a step's scratch memory anew each time, gigabytes in one piece, and glibc returns such pieces to the
    system at once: every step then waits for the system to clear every page of it, a third of a DenseNet's time. Kept,
    the process stays as large as its largest step. Environment variables that tell glibc otherwise (MALLOC_...,
    GLIBC_TUNABLES) come first; nothing is done where an accelerator's plugin is installed, or without glibc.
    """
    told = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if told or sys.platform != "linux" or not _computes_on_cpu():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(M_ARENA_MAX, 1)  # other arenas than the first return large pieces whatever the two below say
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)


def _computes_on_cpu() -> bool:
    """Without asking JAX for its devices: threads that it starts for them would have arenas of their own by then."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    return not entry_points(group="jax_plugins") and find_spec("libtpu") is None
