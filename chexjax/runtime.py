"""What every command shares: flags, the compilation cache, memory settings, the progress bar."""

import ctypes
import os
import sys
from collections.abc import Callable, Collection, Sequence
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NoReturn

from absl import flags
from tqdm import tqdm

from chexjax.errors import ConfigError
from chexjax.files import local_path

CACHE_LIMIT: Final = 4 * 2**30  # bytes of compiled programs
# The names and numbers of glibc's mallopt(3).
M_TRIM_THRESHOLD: Final = -1
M_MMAP_MAX: Final = -4
M_ARENA_MAX: Final = -8
COMPILED: Final = "/jax/core/compile/backend_compile_duration"  # what JAX calls the time that XLA took


def parse(
    argv: Sequence[str], values: flags.FlagValues, about: str | None, addresses: Collection[str] = ()
) -> list[str]:
    """Reads `argv` into `values` and returns the other arguments; `--help` prints `about` and the flags, and exits.

    Each command has its own `FlagValues` instead of absl's global one: modules with commands are imported together, and
    their flags share names. Also turns on the compilation cache. `addresses` are the flags that take no path.

    Raises:
      ConfigError: an unknown flag, an invalid value, or an address where a file or folder belongs.
    """
    flags.DEFINE_boolean("help", False, "Shows this help.", short_name="h", flag_values=values)
    try:
        rest = values(list(argv))[1:]
    except flags.Error as error:
        raise ConfigError(str(error)) from error
    if values["help"].value:
        print(f"{about}\n{values.get_help()}")
        raise SystemExit(0)
    for name in set(values) - set(addresses):
        value = values[name].value
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                path = local_path(text, f"--{name}")
                if text.startswith("~/"):  # a shell does not expand it in --name=~/folder
                    values[name].value = str(path)
    for text in rest:
        local_path(text, "the argument")
    keep_compilations()
    keep_freed_memory()
    return rest


def run(main: Callable[[], None]) -> NoReturn:
    """Runs a command and ends the process with its status.

    Where JAX is loaded, the process ends at once: Python would take a million objects apart first, for half a second.
    What a command writes is closed by then, and its threads and processes have ended.
    """
    status: Any = 0
    try:
        main()
    except SystemExit as end:
        status = end.code
    if "jax" not in sys.modules or not isinstance(status, int):
        raise SystemExit(status)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # the disk is full, or the reader has gone
        status = status or 1
    os._exit(status)


def cache_folder() -> Path:
    """`$CHEXJAX_CACHE`, else ~/.cache/chexjax.

    Raises:
      ConfigError: the variable holds an address.
    """
    return local_path(os.environ.get("CHEXJAX_CACHE") or "~/.cache/chexjax", "the variable CHEXJAX_CACHE")


def keep_compilations() -> None:
    """Keeps what XLA compiles in `cache_folder() / "xla"`, so a command that ran before starts without compiling.

    Beyond `CACHE_LIMIT` bytes, the least recently used programs are removed. JAX's own variables have precedence:
    JAX_COMPILATION_CACHE_DIR names another folder, JAX_COMPILATION_CACHE_MAX_SIZE another limit, and
    JAX_ENABLE_COMPILATION_CACHE=0 keeps nothing. If the folder is not writable, nothing is kept.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    import jax  # --help does without

    folder = cache_folder() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _date_the_undated(folder)
    except OSError:
        return
    ours = {
        "jax_compilation_cache_dir": str(folder),
        "jax_compilation_cache_max_size": CACHE_LIMIT,
        "jax_persistent_cache_min_compile_time_secs": 0.2,
    }
    for name, value in ours.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def _date_the_undated(folder: Path) -> None:
    """Dates programs from the beginning of time that have no date: JAX keeps nothing more beside such a one.

    JAX writes the date after the program, so a process that is killed in between leaves one without; and so did JAX
    where it had no limit.
    """
    for program in folder.glob("*-cache"):
        date = program.with_name(f"{program.name.removesuffix('-cache')}-atime")
        if not date.exists():
            date.write_bytes(bytes(8))


@cache  # one listener a process
def keep_freed_memory() -> None:
    """Has glibc keep what a step frees, where JAX computes on the CPU: call it before JAX's first computation.

    XLA asks for a step's scratch memory anew each time, gigabytes in one piece, and glibc returns such pieces to the
    system at once: every step then waits for the system to clear every page of it, a third of a DenseNet's time. Kept,
    the process stays as large as its largest step. What a compilation of more than a second has freed goes back to the
    system. Environment variables that tell glibc otherwise (MALLOC_..., GLIBC_TUNABLES) come first; nothing is done
    where an accelerator's plugin is installed, or without glibc.
    """
    is_set = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if is_set or sys.platform != "linux" or not _computes_on_cpu():
        return
    libc = ctypes.CDLL(None)
    mallopt = getattr(libc, "mallopt", None)
    if mallopt is None:
        return
    mallopt(M_ARENA_MAX, 1)  # other arenas than the first return large pieces whatever the two below say
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)

    def give_back(event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILED and duration_secs > 1:
            libc.malloc_trim(0)

    import jax.monitoring  # after glibc knows

    jax.monitoring.register_event_duration_secs_listener(give_back)


def _computes_on_cpu() -> bool:
    """Without asking JAX for its devices: threads that it starts for them would have arenas of their own by then."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    return not entry_points(group="jax_plugins") and find_spec("libtpu") is None


def progress_bar(films: int, label: str, done: int = 0, shown: bool = True, kept: bool = True) -> Any:
    """A bar that shows films a second and the time left; in a log file, a line every half minute.

    One that is not `kept` goes away when it is full.
    """
    watched = sys.stderr.isatty()
    return tqdm(
        total=films,
        initial=done,
        desc=label,
        unit=" films",
        mininterval=0.2 if watched else 30.0,
        maxinterval=10.0 if watched else 60.0,
        disable=not shown,
        leave=kept,
    )
