"""Several processes of one run: how they find each other, and how they end together."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import jax

from chexjax.errors import STOPPED_STATUS, fail

PROCESSES: Final = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


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
