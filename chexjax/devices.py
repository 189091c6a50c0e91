"""The devices of one process, and the processes of one run: how work is spread, and how all meet and end.

This module alone knows `jax.pmap`. It runs a function on each local device, on that device's part of a leading axis;
inside the function the devices are the axis `AXIS`.
"""

import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final, NoReturn

import flax.jax_utils
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from chexjax.errors import STOPPED_STATUS, fail

# What the axis of devices is called.
AXIS: Final = "data"

PROCESSES: Final = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def each_device(
    function: Callable[..., Any],
    in_axes: Any = 0,
    out_axes: Any = 0,
    donate_argnums: int | tuple[int, ...] = (),
    devices: Sequence[jax.Device] | None = None,
) -> Callable[..., Any]:
    """`function` compiled for each of `devices`, by default all local ones.

    The result takes and returns arrays with a leading axis of devices, but for those whose axis is None: they are the
    same on every device. Arguments named in `donate_argnums` are consumed.
    """
    return jax.pmap(function, AXIS, in_axes=in_axes, out_axes=out_axes, donate_argnums=donate_argnums, devices=devices)


def replicate(tree: Any, devices: Sequence[jax.Device] | None = None) -> Any:
    """A copy of every array on each of `devices`, by default all local ones: a leading axis of devices."""
    return flax.jax_utils.replicate(tree, devices)


def unreplicate(tree: Any) -> Any:
    """The first device's copy of what `replicate` made."""
    return flax.jax_utils.unreplicate(tree)


def prefetch(batches: Iterable[Any], count: int) -> Iterator[Any]:
    """`batches`, of arrays with a leading axis of devices, put on the devices `count` ahead."""
    return flax.jax_utils.prefetch_to_device(iter(batches), count)


def mean_over_devices(tree: Any) -> Any:
    """Inside `each_device`: the mean over all devices, as one message; hundreds of small ones would wait each.

    What is no real number, as a counter, is the same on all devices, and stays as it is.
    """
    if jax.lax.axis_size(AXIS) == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    numbers = {k: leaf for k, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)}
    flat, restore = ravel_pytree(numbers)
    means = restore(jax.lax.pmean(flat, AXIS))
    return jax.tree.unflatten(structure, [means.get(k, leaf) for k, leaf in enumerate(leaves)])


def at_precision(precision: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose products of float32 numbers have a `precision`: "default", "high" or "highest".

    By default GPUs and TPUs round the operands, to TF32 or bfloat16; "highest" computes in float32 throughout. A CPU
    always does. See `jax.default_matmul_precision`.
    """

    @wraps(function)
    def run(*arguments: Any, **named: Any) -> Any:
        with jax.default_matmul_precision(precision):
            return function(*arguments, **named)

    return run


def join_processes() -> None:
    """Makes this process one of several: as the cluster says, or the variables of `launch/local.sh`.

    JAX knows SLURM, Open MPI and TPU pods by itself, and reads JAX_COORDINATOR_ADDRESS; the two numbers must be given.
    """
    try:
        count, place = (int(os.environ[name]) if name in os.environ else None for name in PROCESSES)
        told = None not in (count, place)
        jax.distributed.initialize(
            num_processes=count, process_id=place, cluster_detection_method="deactivate" if told else None
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        fail(f"--distributed: {reason}\nset JAX_COORDINATOR_ADDRESS, {', '.join(PROCESSES)}; launch/README.md says how")


def meet(where: str, hours: float = 24.0) -> None:
    """Waits until all processes have come here. Unlike a message between devices it may take long.

    A device's message fails after some seconds (Gloo) or minutes (NCCL), and what one process does for the others, such
    as preparing films, takes hours.
    """
    from orbax.checkpoint.multihost import get_barrier_sync_fn  # a mistyped flag should not wait for it

    get_barrier_sync_fn()(key=where, timeout_ms=int(hours * 3_600_000))


@contextmanager
def ended_together() -> Iterator[None]:
    """Of several processes one that fails ends at once, and takes the others along.

    JAX would have it wait at its end for the others, for minutes, while they wait for it. Cut off, they get an error
    from what they do together, and end likewise.
    """
    try:
        yield
    except SystemExit as end:
        if jax.process_count() == 1 or end.code in (0, STOPPED_STATUS):
            raise
        leave(end.code if isinstance(end.code, int) else 1)
    except Exception as error:
        if jax.process_count() == 1:
            raise
        if isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error):
            print(
                f"error: process {jax.process_index()} of {jax.process_count()} has lost the others: "
                f"{str(error).splitlines()[0]}\n"
                "see what became of them; the same command, given to all, goes on from the last checkpoint",
                file=sys.stderr,
            )
        else:
            traceback.print_exc()
        leave(1)


def leave(status: int) -> NoReturn:
    """Ends this process without a word to the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
