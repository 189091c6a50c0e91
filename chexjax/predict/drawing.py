"""The pool that draws: threads or processes.

A drawing process imports this module, so nothing here may need JAX.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager


def cores() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def drawing(processes: int) -> Iterator[Executor]:
    """A pool of this many processes, or of as many threads as there are processors.

    Processes are spawned, not forked: a copy would lack JAX's threads. They ignore Ctrl-C, which this process handles.
    """
    pool: Executor
    if not processes:
        pool = ThreadPoolExecutor(cores())
    else:
        pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _end_with_parent)
        with _ctrl_c_ignored():
            pool.submit(os.getpid)  # now they start, and inherit that
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end_with_parent() -> None:
    """In a drawing process: ends it with its parent, which, if killed, would leave it waiting for ever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
