"""Stopping on request: on SIGTERM, which schedulers send before they take a machine away, and on Ctrl-C."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import jax
from jax.experimental import multihost_utils

from chexjax.errors import INTERRUPTED_STATUS


class Stop:
    """Whether the run was asked to stop. Ask `due` once after each step, on every process alike."""

    def __init__(self) -> None:
        self.interrupted = False  # by Ctrl-C
        self._asked = False
        self._calls = 0

    def ask(self, number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
        """Asks the run to stop at the end of its step; a signal handler."""
        self._asked = True
        if number == signal.SIGINT:
            self.interrupted = True
            if jax.process_count() > 1:
                os.kill(os.getpid(), signal.SIGTERM)  # which the coordination service hears

    def due(self) -> bool:
        """Whether to save and stop now; all processes of a run get the same answer.

        They agree through JAX's coordination service, which receives SIGTERM for them: a notice to one reaches all, and
        they stop at the first call that none of them has made yet.
        """
        self._calls += 1  # calls, not steps: the service waits for exactly the largest number plus one
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(self._calls)
        return self._asked


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Within it, SIGTERM and Ctrl-C ask the run to stop instead of killing it; a second Ctrl-C ends it at once.

    Outside the main thread nothing changes. Of several processes SIGTERM is left to JAX's coordination service.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    several = jax.process_count() > 1
    # `launch/local.sh` hears Ctrl-C for its processes, which ignore it.
    left_alone = several and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    numbers = [signal.SIGTERM] * (not several) + [signal.SIGINT] * (not left_alone)
    before = {number: signal.signal(number, stop.ask) for number in numbers}
    try:
        with _end_on_second_interrupt():
            yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _end_on_second_interrupt() -> Iterator[None]:
    """Handles Ctrl-C in a thread: Python runs no handler while XLA compiles or computes, possibly for minutes."""
    heard, written = socket.socketpair()
    written.setblocking(False)
    before = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)

    def listen() -> None:
        interrupts = 0
        while numbers := heard.recv(64):
            interrupts += numbers.count(signal.SIGINT)
            if interrupts == 1 and signal.SIGINT in numbers:
                print(
                    "\nCtrl-C: stopping after this step, which is saved; Ctrl-C again stops at once",
                    file=sys.stderr,
                    flush=True,
                )
            elif interrupts > 1:
                print(
                    "\nstopped at once by a second Ctrl-C; the same command goes on from what was saved last",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(INTERRUPTED_STATUS)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        written.close()
        listener.join()
        heard.close()
