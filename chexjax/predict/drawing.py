"""Who draws: threads, or processes of their own.

A process that draws imports this module: nothing here may need JAX.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def drawing(processes: int) -> Iterator[Executor]:
    """What draws: so many processes, or as many threads as there are processors.

    Processes are started anew, not forked: JAX's threads would be lost in a copy. Ctrl-C is this process's to answer.
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
    """In a process that draws: a parent that is killed would leave it waiting for work for ever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
