"""One run a workdir: owners that live are named and left alone, dead ones are relieved, and no clock decides."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from chexjax.errors import CheckpointError
from chexjax.workdir import lock
from chexjax.workdir.lock import NAME, Owner, hold


def leave(workdir: Path, owner: Owner) -> Path:
    """A lock as its owner left it."""
    (workdir / NAME).write_text(json.dumps(asdict(owner)))
    return workdir / NAME


def test_a_workdir_is_made_held_and_given_back(tmp_path: Path) -> None:
    with hold(tmp_path / "new" / "run") as check_lock_is_ours:
        check_lock_is_ours()
        assert json.loads((tmp_path / "new" / "run" / NAME).read_text())["pid"] == os.getpid()
    assert not list((tmp_path / "new" / "run").iterdir())


def test_it_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hold(tmp_path):
        _ = 1 / 0
    assert not (tmp_path / NAME).exists()


def test_a_second_run_is_told_who_holds_it_and_for_how_long(tmp_path: Path) -> None:
    with hold(tmp_path) as check_lock_is_ours:
        leave(tmp_path, replace(lock._myself(), since=time.time() - 7500))
        message = rf"process {os.getpid()} on {socket.gethostname()}, for 2 h 5 min"
        with pytest.raises(CheckpointError, match=message), hold(tmp_path):
            pytest.fail("held twice")
        check_lock_is_ours()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path, capsys) -> None:
    code = (
        f"import os, pathlib; from chexjax.workdir.lock import hold; c = hold(pathlib.Path({str(tmp_path)!r}));"
        "c.__enter__(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == -9
    assert (tmp_path / NAME).exists()
    with hold(tmp_path):
        pass
    assert "is gone; this run takes over" in capsys.readouterr().err


def test_another_process_of_the_same_number_is_not_the_owner(tmp_path: Path) -> None:
    leave(tmp_path, replace(lock._myself(), started="1"))  # ours, as in containers, where every run is number 1
    with hold(tmp_path) as check_lock_is_ours:
        check_lock_is_ours()


def test_an_owner_elsewhere_lives_as_long_as_its_heart_beats(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT", 0.1)
    monkeypatch.setattr(lock, "SILENCE", 1.0)
    path = leave(tmp_path, replace(lock._myself(), host="elsewhere", boot="another"))
    dead = threading.Event()

    def beat() -> None:
        clock = 2_000_000_000  # seconds; it goes backwards, and lies in the future
        while not dead.wait(0.1):
            clock -= 1000
            os.utime(path, (clock, clock))

    heart = threading.Thread(target=beat)
    heart.start()
    with pytest.raises(CheckpointError, match=r"in use by process .* on elsewhere"), hold(tmp_path):
        pytest.fail("taken from the living")
    dead.set()
    heart.join()
    with hold(tmp_path) as check_lock_is_ours:
        check_lock_is_ours()


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"pid": 3}'])
def test_a_lock_that_was_half_written_is_taken_over(tmp_path: Path, monkeypatch, content: str) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT", 0.1)
    monkeypatch.setattr(lock, "SILENCE", 0.3)
    (tmp_path / NAME).write_text(content)
    with hold(tmp_path) as check_lock_is_ours:
        check_lock_is_ours()


def test_our_own_heart_beats(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT", 0.05)
    with hold(tmp_path):
        os.utime(tmp_path / NAME, (5, 5))
        for _ in range(200):
            time.sleep(0.05)
            if (tmp_path / NAME).stat().st_mtime != 5:
                return
        pytest.fail("no heartbeat")


def test_one_that_was_taken_over_in_its_sleep_writes_nothing_and_leaves_the_new_lock(tmp_path: Path) -> None:
    with hold(tmp_path) as check_lock_is_ours:
        (tmp_path / NAME).unlink()
        new = leave(tmp_path, replace(lock._myself(), pid=1))
        with pytest.raises(CheckpointError, match="another run has taken the workdir over"):
            check_lock_is_ours()
    assert new.exists()


def test_a_clock_that_goes_backwards_tells_no_negative_age(tmp_path: Path, monkeypatch) -> None:
    owner = lock._myself()
    monkeypatch.setattr(time, "time", lambda: owner.since - 1e6)
    assert str(owner).endswith("for 0 h 0 min")


def test_other_processes_of_a_run_hold_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lock.jax, "process_index", lambda: 1)
    with hold(tmp_path / "run") as check_lock_is_ours:
        check_lock_is_ours()
    assert not (tmp_path / "run").exists()


def test_of_many_that_find_a_dead_owner_one_takes_over(tmp_path: Path) -> None:
    for _ in range(20):
        leave(tmp_path, replace(lock._myself(), pid=999_999_999, started="1"))
        start, over = threading.Barrier(8), threading.Barrier(8)

        def contend(start: threading.Barrier = start, over: threading.Barrier = over) -> bool:
            start.wait(60)
            try:
                with hold(tmp_path):
                    over.wait(60)
                    return True
            except CheckpointError:
                over.wait(60)
                return False

        with ThreadPoolExecutor(8) as pool:
            runs = [pool.submit(contend) for _ in range(8)]
            assert sum(run.result() for run in runs) == 1
        assert not (tmp_path / NAME).exists()
