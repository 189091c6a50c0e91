"""The memory of other processes, as the benchmark reads it."""

import sys

import pytest

from benchmarks.memory import of_process


def test_the_greatest_memory_counts_though_it_is_given_back() -> None:
    empty, full = (
        of_process([sys.executable, "-c", f"held = b'x' * {size}; del held"], {}) for size in (1, 300 * 2**20)
    )
    assert empty < 100 * 2**20
    assert 0.95 * 300 * 2**20 < full - empty < 1.2 * 300 * 2**20


def test_a_command_that_fails_is_no_figure() -> None:
    with pytest.raises(SystemExit, match=r"status 3:\nwhy"):
        of_process([sys.executable, "-c", "import os, sys; sys.exit(3 + 0 * sys.stderr.write(os.environ['WHAT']))"],
                   {"WHAT": "why"})  # fmt: skip
