"""Being asked to stop: SIGTERM, which schedulers send before they take a machine away."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Stop:
    """Whether the run was asked to stop. Ask `due` once after each step, on every process alike."""

    def __init__(self) -> None:
        self._asked = False
        self._calls = 0

    def ask(self, number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
        """Asks the run to stop at the end of its step; a signal handler."""
        self._asked = True

    def due(self) -> bool:
        """Whether to save and stop now. Of several processes that were asked, or not, all get the same answer.

        Several processes agree through JAX's coordination service, which hears SIGTERM in their place: the notice that
        one of them got reaches all, and they stop at the first call that none of them has made yet.
        """
        self._calls += 1  # calls, not steps: the service waits for exactly the largest number plus one
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(self._calls)
        return self._asked


@contextmanager
def stop_on_sigterm() -> Iterator[Stop]:
    """While it lasts, SIGTERM asks the run to stop and does not kill it; outside the main thread nothing changes."""
    stop = Stop()
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, stop.ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
