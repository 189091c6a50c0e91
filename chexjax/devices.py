"""Devices and processes: finding them, running a function on each device, and how processes start, wait and end.

No other module uses `jax.pmap`, which runs a function on each local device, on that device's slice of a leading axis;
inside the function, `AXIS` is the axis of devices.
"""

import logging
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, wraps
from pathlib import Path
from typing import Any, Final, NoReturn

import flax.jax_utils
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from chexjax.errors import INTERRUPTED_STATUS, STOPPED_STATUS, ConfigError, fail, reason_of, warn

# The name of the axis of devices.
AXIS: Final = "data"

PROCESSES: Final = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")

# What to install for each platform that JAX_PLATFORMS may name.
EXTRAS: Final = {"cuda": "chexjax[cuda]", "gpu": "chexjax[cuda]", "tpu": "chexjax[tpu]"}
# Files that reveal an NVIDIA driver: on Linux, in containers, under WSL.
NVIDIA: Final = ("/proc/driver/nvidia/gpus", "/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")


@cache
def find_devices() -> list[jax.Device]:
    """JAX's devices. A command calls this before any other use of JAX, but after `join_processes`.

    An NVIDIA GPU that JAX does not use is reported once on stderr, unless the environment asks for that.

    Raises:
      ConfigError: JAX finds no device: JAX_PLATFORMS names one that is absent, or a plugin fails.
    """
    logger = logging.getLogger("jax._src.xla_bridge")
    silenced = logger.disabled
    logger.disabled = True  # its long message is replaced by one line here
    try:
        devices = jax.devices()
    except (RuntimeError, AssertionError) as error:  # AssertionError: CUDA is asked for and there is no driver
        raise ConfigError(_without_devices(error)) from error
    finally:
        logger.disabled = silenced
    if devices[0].platform == "cpu" and not _wanted() and (gpu := _unused_gpu()):
        warn(
            f"{gpu}, but JAX computes on the CPU; install 'chexjax[cuda]' to use it, "
            "or set JAX_PLATFORMS=cpu to silence this"
        )
    return devices


def _wanted() -> str:
    """The platforms that the environment asks for."""
    return getattr(jax.config, "jax_platforms", None) or os.environ.get("JAX_PLATFORM_NAME", "")


def _without_devices(error: Exception) -> str:
    wanted = _wanted()
    reason = reason_of(error).partition(" (set JAX_PLATFORMS")[0].partition(" (you may need")[0].rstrip(".")
    if not wanted:
        return f"JAX finds no device: {reason}; set JAX_PLATFORMS=cpu to compute on the CPU"
    if isinstance(error, AssertionError):
        reason = "there is no NVIDIA driver"
    variable = "JAX_PLATFORMS" if getattr(jax.config, "jax_platforms", None) else "JAX_PLATFORM_NAME"
    extras = [EXTRAS[name] for name in map(str.strip, wanted.split(",")) if name in EXTRAS]
    install = f"install {' and '.join(map(repr, extras))}, or " if extras else ""
    return (
        f"JAX finds no {wanted} here, as {variable}={wanted} asks: {reason}; "
        f"{install}unset {variable} to use what is here"
    )


def _unused_gpu() -> str:
    """A phrase on the NVIDIA GPU of this machine; "" if there is none, or the user has hidden it."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles"):
        return ""
    if tool := shutil.which("nvidia-smi"):
        with suppress(OSError, subprocess.SubprocessError):
            listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
            gpus = [line.partition(" (")[0] for line in listed.splitlines() if line.startswith("GPU ")]
            return f"there is {', '.join(gpus)}" if gpus else ""
    return "there is an NVIDIA GPU" if any(Path(path).exists() for path in NVIDIA) else ""


def each_device(
    function: Callable[..., Any],
    in_axes: Any = 0,
    out_axes: Any = 0,
    donate_argnums: int | tuple[int, ...] = (),
    devices: Sequence[jax.Device] | None = None,
) -> Callable[..., Any]:
    """`function` compiled for each of `devices`, by default all local ones.

    Arguments and results have a leading axis of devices, except where the axis is None: those are the same on every
    device. Arguments in `donate_argnums` are consumed.
    """
    return jax.pmap(function, AXIS, in_axes=in_axes, out_axes=out_axes, donate_argnums=donate_argnums, devices=devices)


def replicate(tree: Any, devices: Sequence[jax.Device] | None = None) -> Any:
    """A copy of every array on each of `devices`, by default all local ones: a leading axis of devices.

    The axis has the name that `each_device` gives it: by another one, a step is compiled anew when its own states come
    back to it.
    """
    return flax.jax_utils.replicate(tree, devices, axis_name=AXIS)


def unreplicate(tree: Any) -> Any:
    """The first device's copy of what `replicate` made."""
    return flax.jax_utils.unreplicate(tree)


def prefetch(batches: Iterable[Any], count: int) -> Iterator[Any]:
    """`batches`, of arrays with a leading axis of devices, put on the devices `count` ahead."""
    return flax.jax_utils.prefetch_to_device(iter(batches), count)


def let_end(results: Any) -> None:
    """On a CPU, waits until the call that returns `results` has ended and freed its scratch memory.

    A call that is made earlier asks for scratch memory of its own, gigabytes for a DenseNet. On other devices it waits
    for its turn there, and the device need not wait for Python.
    """
    if jax.default_backend() == "cpu":
        jax.block_until_ready(results)
        time.sleep(0.002)  # XLA frees the memory a moment after the results are ready


def mean_over_devices(tree: Any) -> Any:
    """Inside `each_device`: the mean over all devices, in one all-reduce (hundreds of small ones each cost a latency).

    Integer leaves, such as counters, are equal on all devices and returned as they are.
    """
    if jax.lax.axis_size(AXIS) == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    numbers = {k: leaf for k, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)}
    flat, restore = ravel_pytree(numbers)
    means = restore(jax.lax.pmean(flat, AXIS))
    return jax.tree.unflatten(structure, [means.get(k, leaf) for k, leaf in enumerate(leaves)])


def at_precision(precision: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with float32 products computed at `precision`: "default", "high" or "highest".

    By default, GPUs and TPUs round operands to TF32 or bfloat16; "highest" computes in float32 throughout, as a CPU
    always does. See `jax.default_matmul_precision`.
    """

    @wraps(function)
    def run(*arguments: Any, **named: Any) -> Any:
        with jax.default_matmul_precision(precision):
            return function(*arguments, **named)

    return run


def join_processes() -> None:
    """Joins this process to the others of the run: by the cluster's own variables, or those of `launch/local.sh`.

    JAX recognises SLURM, Open MPI and TPU pods, and reads JAX_COORDINATOR_ADDRESS; elsewhere the number of processes
    and this one's index must be given.
    """
    try:
        count, index = (int(os.environ[name]) if name in os.environ else None for name in PROCESSES)
        is_set = None not in (count, index)
        jax.distributed.initialize(
            num_processes=count, process_id=index, cluster_detection_method="deactivate" if is_set else None
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        fail(f"--distributed: {reason}\nset JAX_COORDINATOR_ADDRESS, {', '.join(PROCESSES)}; launch/README.md says how")


def meet(where: str, hours: float = 24.0) -> None:
    """Waits until all processes have arrived here, for hours if need be.

    A collective between devices times out after seconds (Gloo) or minutes (NCCL), too soon where one process prepares
    films for all.
    """
    from orbax.checkpoint.multihost import get_barrier_sync_fn  # imported late: a mistyped flag should not wait for it

    get_barrier_sync_fn()(key=where, timeout_ms=int(hours * 3_600_000))


@contextmanager
def ended_together() -> Iterator[None]:
    """A process that fails exits at once, and so makes the others of the run fail too.

    By default JAX would let it wait for the others at exit, for minutes, while they wait for it. Once it is gone, their
    next collective fails, and they end as well.
    """
    try:
        yield
    except SystemExit as end:
        if _alone() or end.code in (0, STOPPED_STATUS, INTERRUPTED_STATUS):
            raise
        leave(end.code if isinstance(end.code, int) else 1)
    except Exception as error:
        if _alone():
            raise
        if isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error):
            print(
                f"error: process {jax.process_index()} of {jax.process_count()} has lost the others: "
                f"{str(error).splitlines()[0]}\n"
                "see their logs; the same command, given to all, resumes from the last checkpoint",
                file=sys.stderr,
            )
        else:
            traceback.print_exc()
        leave(1)


def _alone() -> bool:
    with suppress(RuntimeError, AssertionError):  # JAX cannot count processes without devices
        return jax.process_count() == 1
    return not jax.distributed.is_initialized()


def leave(status: int) -> NoReturn:
    """Exits this process at once, without JAX's shutdown barrier."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
