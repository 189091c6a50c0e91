"""What a run reports: lines on the terminal, scalars and a profile for TensorBoard."""

import sys
import time
from pathlib import Path
from typing import Any, Final

import jax
from tqdm import tqdm


def say(line: str) -> None:
    """Prints a line above the progress bar, on the first process alone."""
    if jax.process_index() == 0:
        tqdm.write(line)


TENSORBOARD: Final = "tensorboard"  # the folder in a workdir


class Scalars:
    """TensorBoard scalars under `workdir/tensorboard`, written by the first process alone.

    A resumed run drops the points that an earlier one wrote after its step.
    """

    def __init__(self, workdir: Path, step: int):
        self._writer = None
        if jax.process_index() == 0:
            self._writer = _summary_writer()(str(workdir / TENSORBOARD), purge_step=step + 1 if step else 0)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds a point to each named curve."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes the file."""
        if self._writer is not None:
            self._writer.close()


def _summary_writer() -> Any:
    """tensorboardX's, without the torch that it loads where there is one: 2 s and 400 MB that nothing here uses."""
    loaded = sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # with None, importing it fails
    try:
        from tensorboardX import SummaryWriter
    finally:
        if loaded is None:
            del sys.modules["torch"]
    return SummaryWriter


class Pace:
    """Films a second between points; it is restarted after validating and saving, which do not count."""

    def __init__(self, step: int, batch_size: int):
        self._batch_size = batch_size
        self.restart(step)

    def restart(self, step: int) -> None:
        """Restarts the count, with `step` steps done."""
        self._step, self._since = step, time.monotonic()

    def point(self, step: int) -> dict[str, float]:
        """The films a second since the last point, now that `step` steps are done; empty if there were none."""
        films, seconds = (step - self._step) * self._batch_size, time.monotonic() - self._since
        self.restart(step)
        return {"train/films_per_second": films / seconds} if films > 0 else {}


class Profile:
    """JAX's profiler over a number of steps, for TensorBoard's Profile tab, by the first process alone.

    The trace goes to `workdir/tensorboard/plugins/profile`, and ends with the call in which the number is reached. A
    context manager: on exit, a running trace is written.
    """

    def __init__(self, workdir: Path, steps: int):
        self._left = steps if jax.process_index() == 0 else 0
        self._folder = workdir / TENSORBOARD
        self._running, self._result = False, None

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *error: object) -> None:
        if self._left > 0 and not self._running:
            say("no profile is written: the run ended with its first call, which compiles")
        self._stop()

    def begin(self) -> None:
        """Starts the trace if one is asked for and not yet made."""
        if self._left > 0 and not self._running:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def add(self, count: int, result: Any) -> None:
        """Counts `count` steps that end with the arrays `result`."""
        if self._running:
            self._left, self._result = self._left - count, result
            if self._left <= 0:
                self._stop()

    def _stop(self) -> None:
        if self._running:
            jax.block_until_ready(self._result)
            jax.profiler.stop_trace()
            self._running, self._result, self._left = False, None, 0
            say(f"the profile is written: tensorboard --logdir={self._folder}")
