"""SIGTERM: the step is ended, saved, and gone on from; and what was so saved is not mistaken for a result."""

import os
import signal
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from chexjax.errors import STOPPED_STATUS, Stopped, told_plainly
from chexjax.training import loop, stopping
from chexjax.training.stopping import Stop, stop_on_sigterm
from chexjax.workdir.checkpoints import Checkpoints


@pytest.fixture
def config(small_baseline: ConfigDict, phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ConfigDict:
    """Six steps, validated after the fourth: the last window is cut short by the end."""
    cache = str(tmp_path_factory.getbasetemp() / "cache-of-stopping")
    small_baseline.data.update({"source": "chestxray14", "dir": str(phantom_folder), "cache": cache})
    small_baseline.data.val_fraction = 0.3
    small_baseline.networks.net1.update({"optimizer": "adamw", "average_decay": 0.9})
    small_baseline.update({"max_steps": 6, "log_every": 2})
    return small_baseline


def test_sigterm_at_any_step_changes_nothing_in_the_end(config: ConfigDict, tmp_path: Path, monkeypatch) -> None:
    """One run is never stopped; the other after each of its steps, six runs in a row."""
    loop.train(config, tmp_path / "through")
    add, handler = loop.Window.add, signal.getsignal(signal.SIGTERM)

    def interrupted(self, step, *args):
        add(self, step, *args)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Window, "add", interrupted)
    config.steps_per_call = 1
    for step in range(1, 6):
        with pytest.raises(Stopped, match=f"stopped by SIGTERM after step {step} of 6, which is saved"):
            loop.train(config, tmp_path / "stopped")
        assert Checkpoints(tmp_path / "stopped").latest == step
        assert not (tmp_path / "stopped" / "lock.json").exists()
    assert Checkpoints(tmp_path / "stopped").best == 4  # of five checkpoints the one that was validated
    loop.train(config, tmp_path / "stopped")  # SIGTERM in the last step: there is nothing left to stop
    assert signal.getsignal(signal.SIGTERM) == handler

    ends = [Checkpoints(tmp_path / name) for name in ("through", "stopped")]
    for found, expected in zip(*(jax.tree.leaves(end._load(6, ("networks", "training"))) for end in ends), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert ends[0].metadata(6) == ends[1].metadata(6)  # the history too: means over steps of several processes
    assert ends[0].best == ends[1].best


def test_the_status_is_told_apart_from_a_failure(capsys) -> None:
    with pytest.raises(SystemExit) as ended, told_plainly():
        raise Stopped("stopped by SIGTERM after step 3 of 9")
    assert ended.value.code == STOPPED_STATUS == 75
    assert capsys.readouterr().err == "stopped by SIGTERM after step 3 of 9\n"


def test_a_thread_that_is_not_the_main_one_trains_without_a_handler() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def run() -> None:
        with stop_on_sigterm() as stop:
            seen.append((stop.due(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_several_processes_leave_the_decision_to_the_service_and_count_their_calls(monkeypatch) -> None:
    """The service's word is true at one number exactly, so none may be left out."""
    asked = []

    def reached(number: int) -> bool:
        asked.append(number)
        return number == 3

    monkeypatch.setattr(stopping.jax, "process_count", lambda: 2)
    monkeypatch.setattr(stopping.multihost_utils, "reached_preemption_sync_point", reached)
    stop = Stop()
    stop.ask()
    assert [stop.due() for _ in range(4)] == [False, False, True, False]
    assert asked == [1, 2, 3, 4]
