"""What a run tells while it runs: lines on the terminal, and scalars for TensorBoard."""

from pathlib import Path

import jax
from tensorboardX import SummaryWriter
from tqdm import tqdm


def say(line: str) -> None:
    """Prints a line above the progress bar, on the first process alone."""
    if jax.process_index() == 0:
        tqdm.write(line)


class Scalars:
    """TensorBoard scalars under `workdir/tensorboard`, written by the first process alone.

    A run that goes on from a step drops what an earlier one wrote after it.
    """

    def __init__(self, workdir: Path, step: int):
        self._writer = None
        if jax.process_index() == 0:
            self._writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=step)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds a point to each named curve."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes out what is waiting."""
        if self._writer is not None:
            self._writer.close()
