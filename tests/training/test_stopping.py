"""SIGTERM and Ctrl-C: the step is ended, saved, gone on from; and what was so saved is not taken for a result."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from chexjax.errors import STOPPED_STATUS, Interrupted, Stopped, exit_with_message
from chexjax.training import loop, stopping
from chexjax.training.stopping import Stop, stop_on_signals
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


@pytest.mark.as_users
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


def test_ctrl_c_saves_the_step_also_before_the_first_and_in_the_last(
    config: ConfigDict, tmp_path: Path, monkeypatch, capfd
) -> None:
    config.steps_per_call = 1
    handler = signal.getsignal(signal.SIGINT)
    describe, add = loop.describe, loop.Window.add

    def press(*args) -> None:
        describe(*args)
        os.kill(os.getpid(), signal.SIGINT)  # what compiles comes after this

    with monkeypatch.context() as patched:
        patched.setattr(loop, "describe", press)
        with pytest.raises(Interrupted, match="stopped by Ctrl-C after step 1 of 6, which is saved; the same command"):
            loop.train(config, tmp_path)
    assert Checkpoints(tmp_path).latest == 1
    assert not (tmp_path / "lock.json").exists()

    def press_in_the_last(self, step, *args) -> None:
        add(self, step, *args)
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop.Window, "add", press_in_the_last)
    with pytest.raises(Interrupted, match="after step 6, the last; the same command evaluates"):
        loop.train(config, tmp_path)
    assert Checkpoints(tmp_path).latest == 6
    assert signal.getsignal(signal.SIGINT) == handler
    message = "Ctrl-C: stopping after this step, which is saved; Ctrl-C again stops at once\n"
    assert capfd.readouterr().err.count(message) == 2


PROGRAM = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp
from ml_collections import ConfigDict
from chexjax.errors import exit_with_message
from chexjax.training import loop
from chexjax.configs import saved
import tests.conftest

@jax.jit
def long(x):
    return jax.lax.fori_loop(0, 10**9, lambda _, y: jnp.sin(y) + 1.0, x)

def never_ends(self, step, *args):
    if step:
        print("computing", flush=True)
        jax.block_until_ready(long(1.0))

loop.Window.add = never_ends
with exit_with_message():
    loop.train(saved.get_config(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_second_ctrl_c_ends_the_run_in_the_middle_of_a_computation(config: ConfigDict, tmp_path: Path) -> None:
    """Python calls no handler of its own before the computation ends."""
    config.steps_per_call = 1
    (tmp_path / "config.json").write_text(config.to_json())
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "config.json"), str(tmp_path / "run")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=Path(__file__).parent.parent.parent, **pipes) as run:
        try:
            while "computing" not in (line := run.stdout.readline()):
                assert line, run.stderr.read()
            run.send_signal(signal.SIGINT)
            while "again stops at once" not in (line := run.stderr.readline()):
                assert line
            run.send_signal(signal.SIGINT)
            _, message = run.communicate(timeout=30)
        finally:
            run.kill()
    assert run.returncode == 130
    assert "stopped at once by a second Ctrl-C; the same command goes on" in message
    assert "Traceback" not in message


def test_the_status_is_told_apart_from_a_failure(capsys) -> None:
    with pytest.raises(SystemExit) as ended, exit_with_message():
        raise Interrupted("stopped by Ctrl-C after step 3 of 9")
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C after step 3 of 9\n"
    with pytest.raises(SystemExit) as ended, exit_with_message():
        raise Stopped("stopped by SIGTERM after step 3 of 9")
    assert ended.value.code == STOPPED_STATUS == 75
    assert capsys.readouterr().err == "stopped by SIGTERM after step 3 of 9\n"


def test_a_thread_that_is_not_the_main_one_trains_without_a_handler() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def run() -> None:
        with stop_on_signals() as stop:
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
