"""The user's cache folder: prepared films, and the programs that XLA has compiled."""

import os
from pathlib import Path
from typing import Final

import jax

LIMIT: Final = 4 * 2**30  # bytes of compiled programs


def cache_folder() -> Path:
    """`$CHEXJAX_CACHE`, else ~/.cache/chexjax."""
    return Path(os.environ.get("CHEXJAX_CACHE") or "~/.cache/chexjax").expanduser()


def keep_compilations() -> None:
    """Keeps what XLA compiles in `cache_folder() / "xla"`: a command that ran before starts without compiling.

    JAX's own variables come first: JAX_COMPILATION_CACHE_DIR names another folder, and JAX_ENABLE_COMPILATION_CACHE=0
    keeps nothing. Of more than `LIMIT` bytes the oldest are removed; a folder that cannot be written is done without.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = cache_folder() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _forget_oldest(folder)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _forget_oldest(folder: Path, limit: int = LIMIT) -> None:
    found = sorted(((path.stat(), path) for path in folder.iterdir()), key=lambda entry: -entry[0].st_mtime)
    total = 0
    for stat, path in found:
        total += stat.st_size
        if total > limit:
            path.unlink(missing_ok=True)  # a process that wanted it compiles anew
